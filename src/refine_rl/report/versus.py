"""Two models beside one another, in the terminal and as a small page."""

from __future__ import annotations

from markupsafe import Markup
from rich.console import Console
from rich.text import Text

from refine_rl.evaluate.versus import Model, Versus, said_of
from refine_rl.report import data, parts
from refine_rl.report.columns import Columns
from refine_rl.report.dialogue import told
from refine_rl.report.fill import file_of, fill
from refine_rl.report.screen import EXAMPLES, say, shown
from refine_rl.report.wrapping import wrap
from refine_rl.types import MIN_PROMPTS, Contrast, count_of, decimals, one_line

ALONE = (
    "It says which of these two models is better, not which way of training: another seed gives another "
    "model."
)
_HEADINGS = ("A", "B", "B - A", "95 % interval")
_LONGEST = 200  # characters of an answer on one line
_MOST_VALUES = 8  # of each facet
_COLOURS = {"B is better": "green", "A is better": "green"}


def headline(versus: Versus) -> str:
    """The result in a sentence.

    >>> from refine_rl.types import Comparison
    >>> none = Comparison(
    ...     prompts=0, base=None, tuned=None, difference=None, verdict="not possible", examples=())
    >>> headline(Versus(a=Model(name="x"), b=Model(name="y"), comparison=none, seed=0))
    'not possible: scores of x (A) and y (B) on 0 prompts'
    """
    c, a, b = versus.comparison, f"{versus.a.name} (A)", f"{versus.b.name} (B)"
    prompts = count_of(c.prompts, "prompt")
    if c.reward is None:
        return f"{versus.standing}: scores of {a} and {b} on {prompts}"
    low, high = c.reward.difference.ci95
    interval = f" [{decimals(low, '+')}, {decimals(high, '+')}]" if c.prompts >= MIN_PROMPTS else ""
    first = {
        "A is better": f"{a} is better than {b}",
        "B is better": f"{b} is better than {a}",
        "no difference shown": f"no difference shown between {a} and {b}",
        "too few to tell": f"too few prompts to tell {a} and {b} apart",
    }[versus.standing]
    more = f"{decimals(c.reward.difference.mean, '+')}{interval}"
    means = f"{decimals(c.reward.base.mean)} and {decimals(c.reward.tuned.mean)}"
    return f"{first}: reward {means}, difference B less A {more} on {prompts}"


# -- the terminal -----------------------------------------------------------------------------------


def print_versus(versus: Versus, console: Console) -> None:
    """The result with what has to be said, both sides in small tables, and a few answers."""
    c = versus.comparison
    text = shown(headline(versus))
    verdict = Text(wrap(text, console.width) if console.is_terminal else text)
    verdict.stylize(f"bold {_COLOURS.get(versus.standing, 'yellow')}", 0, len(text.partition(":")[0]))
    console.print()
    console.print(verdict)
    for letter, model in (("A", versus.a), ("B", versus.b)):
        say(console, f"{letter}  {model.name}: {about(model)}", under=3)
    if c.reward is not None:
        table = Columns(first="", headings=_HEADINGS)
        for row in data.measures(c):
            label = f"  {row.label}" if row.component else row.label
            table.add(shown(label), _cells(row.contrast, row.intervals))
        table.show(console)
        _print_facets(versus, console)
    for text in said_of(versus):
        say(console, text, "yellow")
    say(console, ALONE, "dim")
    for example in c.examples[:EXAMPLES]:
        console.print()
        answers = {"A": example.base, "B": example.tuned}
        names = {"base": "A", "tuned": "B"}
        answers |= {names[side]: told(d) for side, d in example.dialogues.items() if side in names}
        for side, said in {"prompt": example.prompt, **answers}.items():
            line = " / ".join(part.strip() for part in said.splitlines() if part.strip())
            say(console, f"{side:<6}  {one_line(line, _LONGEST)}", under=8)


def about(model: Model) -> str:
    """What a model is, and where its answers come from."""
    if not model.run:
        what = "not tuned here"
    else:
        step = f", step {model.step}" if model.step else ""
        what = f"{model.base} tuned in {model.run}{step}"
    return f"{what}; answers {model.answers}, scores {model.scores}"


def _cells(contrast: Contrast, intervals: bool) -> tuple[str, ...]:
    low, high = contrast.difference.ci95
    return (
        decimals(contrast.base.mean),
        decimals(contrast.tuned.mean),
        decimals(contrast.difference.mean, "+"),
        f"{decimals(low, '+')} to {decimals(high, '+')}" if intervals else "too few",
    )


def _print_facets(versus: Versus, console: Console) -> None:
    """The reward by facet, of the values with prompts enough for an interval."""
    table = Columns(first="reward by facet", headings=("prompts", *_HEADINGS))
    for facet, values in versus.comparison.facets.items():
        enough = [(value, part) for value, part in values.items() if part.prompts >= MIN_PROMPTS]
        if not enough:
            continue
        table.add(shown(one_line(facet, _LONGEST)))
        for value, part in enough[:_MOST_VALUES]:
            label = f"  {shown(one_line(value, _LONGEST))}"
            table.add(label, (str(part.prompts), *_cells(part, intervals=True)))
        if left_out := len(values) - min(len(enough), _MOST_VALUES):
            table.add(f"  + {left_out} on the page", style="dim")
    if table.rows:
        console.print()
        table.show(console)


# -- the page ---------------------------------------------------------------------------------------


def render_versus(versus: Versus) -> str:
    """The comparison as one HTML page that asks nothing of the outside and runs no script."""
    c = versus.comparison
    return fill(
        "versus.html.j2",
        {
            "versus": versus,
            "headline": headline(versus),
            "sides": [("A", versus.a, about(versus.a)), ("B", versus.b, about(versus.b))],
            "notes": [*said_of(versus), ALONE],
            "rows": data.measures(c),
            "intervals": c.prompts >= MIN_PROMPTS,
            "parts": parts.by_facet(c),
            "examples": data.examples(c),
            "style": Markup(file_of("page.css")),
        },
    )
