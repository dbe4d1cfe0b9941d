"""What came of a training under several seeds, in the terminal and as a page that links to each run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.text import Text

from refine_rl.errors import quoted
from refine_rl.evaluate.seeds import over_seeds, told_of_seeds
from refine_rl.report import data
from refine_rl.report.asked import bills
from refine_rl.report.asked import total as bill_of
from refine_rl.report.chart import Chart, Curve, lines
from refine_rl.report.columns import Columns
from refine_rl.report.data import Measure
from refine_rl.report.fill import fill_page
from refine_rl.report.headline import Headline, Tone
from refine_rl.report.next_steps import Command
from refine_rl.report.points import Line
from refine_rl.run import RunFolder
from refine_rl.run.glance import Glance, find_runs
from refine_rl.run.seeds import OverSeeds, SeedsFolder
from refine_rl.types import Contrast, Estimate, count_of, decimals

COLOURS = 6
"""Lines of one chart that colours tell apart; beyond that the mean is drawn, and the range around it."""


def told(found: OverSeeds) -> str:
    """What the seeds show together, in a sentence."""
    return told_of_seeds(len(found.runs), found.seeds, found.difference)


def print_seeds(found: OverSeeds, console: Console) -> None:
    """A row a run, and the sentence."""
    table = Columns(first="seed", headings=("verdict", "difference", "95 % interval"))
    for run in found.runs:
        d = run.difference
        cells = (
            ("", "") if d is None else (decimals(d.mean, "+"), " to ".join(decimals(x, "+") for x in d.ci95))
        )
        table.add(f"{run.seed} ({run.run})", (run.verdict, *cells))
    console.print()
    table.show(console)
    console.print(Text(told(found), style="bold"))


# -- the page -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A seed, or (`all`) what they show together; "" and None for what is not there yet."""

    label: str
    outcome: str
    base: Estimate | None = None
    tuned: Estimate | None = None
    difference: Estimate | None = None
    steps: str = ""
    time: str = ""
    link: str = ""
    all: bool = False


def render_seeds(home: SeedsFolder) -> str:
    """The page of a folder of seeds as HTML, also where some of them are not finished."""
    runs, first = home.runs(), home.run(0)
    glances = {g.path.name: g for g in find_runs(home.path)}
    rows = [_row(run, glances.get(run.name)) for run in runs]
    differences = [row.difference for row in rows if row.difference is not None]
    over, done = over_seeds([d.mean for d in differences]), len(differences)
    if over is not None:
        rows.append(Row(label="all seeds", outcome=_word(over), difference=over, all=True))
        differences.append(over)
    settings = first.settings()
    page: dict[str, Any] = {
        "name": home.path.resolve().name,
        "task": settings.task.strip(),
        "headline": _headline(home, over, done),
        "charts": _charts(runs),
        "rows": rows,
        "axis": _axis(differences),
        "facts": _facts(home, runs, first, done),
        "commands": _commands(home, runs, done),
        "settings": data.settings_table(settings),
        "versions": first.config.versions(),
    }
    names = {"curves": ("Curves", page["charts"]), "seeds": ("Seeds", True), "about": ("The runs", True)}
    names["settings"] = ("Settings", True)
    nav = [(anchor, label) for anchor, (label, there) in names.items() if there]
    return fill_page("seeds.html.j2", page | {"nav": nav})


def _row(run: RunFolder, glance: Glance | None) -> Row:
    c, seed = run.comparison(), run.settings().grpo.seed
    steps = len(run.metrics())
    state = "not begun" if glance is None else glance.state
    return Row(
        label=f"seed {seed}",
        outcome=state if c is None else c.verdict,
        base=None if c is None else c.base,
        tuned=None if c is None else c.tuned,
        difference=None if c is None else c.difference,
        steps=f"{steps}/{run.planned_steps()}",
        time=data.duration(glance.seconds) if glance is not None and glance.seconds else "",
        link=quote(f"{run.name}/{run.report.name}") if run.report.is_file() else "",
    )


def _word(difference: Estimate) -> Tone:
    low, high = difference.ci95
    return "better" if low > 0 else "worse" if high < 0 else "not better"


def _headline(home: SeedsFolder, over: Estimate | None, done: int) -> Headline:
    seeds, notes = home.seeds, []
    if done < seeds:
        notes.append(f"{done} of {seeds} seeds are compared. All go on with: {home.resume}")
    if over is None:
        words = f"{done} of {seeds} seeds compared; an interval over seeds takes two."
        return Headline(tone="open", claim="No interval over seeds yet:", numbers=words, notes=tuple(notes))
    tone = _word(over)
    if done == seeds == 2:
        notes.append("An interval from two seeds is wide: a third one would narrow it by a factor of three.")
    low, high = (data.number(end, sign=True) for end in over.ci95)
    return Headline(
        tone=tone,
        claim=f"{tone.capitalize()} over training seeds:",
        numbers=f"tuned less base {data.number(over.mean, sign=True)}, 95 % interval {low} to {high}, over "
        f"{count_of(done, 'seed')}.",
        notes=tuple(notes),
    )


def _axis(differences: Sequence[Estimate]) -> Measure | None:
    """The scale that all differences share; 0 is on it."""
    if not differences:
        return None
    ends = [0.0, *(end for d in differences for end in d.ci95)]
    low, high = min(ends), max(ends)
    room = 0.04 * (high - low or 1.0)
    low, high = low - room, high + room
    any_of = differences[0]
    contrast = Contrast(base=any_of, tuned=any_of, difference=any_of)
    return Measure(label="", component=False, contrast=contrast, low=low, high=high)


def _charts(runs: Sequence[RunFolder]) -> list[Chart]:
    """The reward of all seeds on the validation prompts, and in training."""
    looks = {_label(r): _points([(v["step"], v["reward"]["mean"]) for v in r.validation()]) for r in runs}
    steps = {_label(r): _points([(m["step"], m["reward_mean"]) for m in r.metrics()]) for r in runs}
    found = [
        lines(
            "validation",
            "Reward on the validation prompts",
            "Good: all lines rise, and end close to one another. Lines that end far apart say that luck "
            "decides; where they begin differs by the draws alone.",
            _curves(looks, dotted=True),
        ),
        lines(
            "training",
            "Reward in training",
            "Good: as above. Every seed draws other prompts at a step, so single steps differ.",
            _curves(steps, dotted=False),
        ),
    ]
    return [chart for chart in found if chart is not None]


def _label(run: RunFolder) -> str:
    return f"seed {run.settings().grpo.seed}"


def _points(pairs: Sequence[tuple[int, float | None]]) -> Line:
    return [step for step, _ in pairs], [value for _, value in pairs]


def _curves(seeds: dict[str, Line], *, dotted: bool) -> list[Curve]:
    """A line a seed; of many seeds their mean at the steps that all have, in the range from the lowest to the
    highest."""
    there = {label: line for label, line in seeds.items() if line[0]}
    if len(there) <= COLOURS:
        return [
            Curve(label=label, colour=f"seed{n}", line=line, dotted=dotted, smooth=not dotted)
            for n, (label, line) in enumerate(there.items(), 1)
        ]
    known = [
        {step: value for step, value in zip(at, values, strict=True) if value is not None}
        for at, values in there.values()
    ]
    shared = sorted(set.intersection(*(set(one) for one in known)))
    columns = [[one[step] for one in known] for step in shared]
    return [
        Curve(
            label=f"mean of {len(known)} seeds, and their range",
            colour="seed1",
            line=(shared, [sum(column) / len(column) for column in columns]),
            dotted=True,
            band=(
                (shared, [min(column) for column in columns]),
                (shared, [max(column) for column in columns]),
            ),
        )
    ]


def _facts(home: SeedsFolder, runs: Sequence[RunFolder], first: RunFolder, done: int) -> dict[str, str]:
    of_first = data.facts(first, first.settings(), first.metrics(), None)
    kept: dict[str, str] = {
        name: of_first[name] for name in ("Model", "Prompts", "Update", "Machine") if name in of_first
    }
    seeds = [str(run.settings().grpo.seed) for run in runs]
    facts: dict[str, str] = {"Seeds": f"{', '.join(seeds)}: {done} of {home.seeds} compared", **kept}
    if calls := [call for run in runs for call in run.calls()]:
        facts["LLM calls"] = f"{bill_of(bills(calls))}, of all seeds"
    return facts


def _commands(home: SeedsFolder, runs: Sequence[RunFolder], done: int) -> list[Command]:
    found = []
    if done < home.seeds:
        found.append(Command(text=home.resume, what="Go on with what is not finished:"))
    ended = [run for run in runs if run.comparison() is not None]
    if ended:
        what = "Talk to one of the tuned models (the best of them on these prompts is so by luck, too):"
        found.append(Command(text=f"refine chat {quoted(ended[0].path)}", what=what))
    if len(ended) > 1:
        text = f"refine compare {quoted(ended[0].path)} {quoted(ended[1].path)}"
        found.append(Command(text=text, what="Set two of them beside one another:"))
    return found
