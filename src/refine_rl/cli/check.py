"""refine check: the whole reward of a task on example answers."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from refine_rl.cli.streams import results_apart
from refine_rl.cli.training import JSON, SET, one_task
from refine_rl.errors import UserError
from refine_rl.types import count_of, decimals, one_line

if TYPE_CHECKING:
    from rich.console import Console

    from refine_rl.pipeline.check import Answered, Checked, Group, Trial

_LONGEST = 240  # characters of a text on one line
_SHORT = 72  # of one in a table


def check(
    task: Path | None = typer.Argument(None, help="A task.toml, or a folder that has one."),
    recipe: str | None = typer.Option(None, "--recipe", help="A bundled recipe instead."),
    answers: Path | None = typer.Option(
        None,
        "--answers",
        metavar="FILE",
        help='JSONL: {"prompt": TEXT or id, "answers": [...]}, or "good" and "bad". Else made-up ones.',
    ),
    count: int = typer.Option(3, "--count", min=1, help="Training prompts to make up answers for."),
    yes: bool = typer.Option(False, "--yes", help="Ask the judges without asking you first."),
    reasons: bool = typer.Option(False, "--reasons", help="Every component's whole reason, a line each."),
    overrides: list[str] = SET,
    as_json: bool = JSON,
) -> None:
    """Try the whole reward on example answers. Judges, rules, functions and all; no training, no model. Says
    where something bad scores well, and what tells nothing apart."""
    from refine_rl.cli.interrupt import interruptible
    from refine_rl.pipeline.check import lay_out
    from refine_rl.recipes import load_task
    from refine_rl.report.screen import Screen, results, say, talk

    one_task("check", task, recipe)
    settings = load_task(task, recipe=recipe, overrides=overrides)
    with results_apart(), interruptible() as pause:
        trial = lay_out(settings, answers=answers, count=count, observer=Screen(), pause=pause)
        for note in trial.notes:
            say(talk(), note)
        if not yes and not _agreed(trial):
            return
        checked = trial.scored(pause)
    if as_json:
        typer.echo(json.dumps(record(checked)))
    else:
        _show(checked, results(), reasons)
    if (problem := checked.problem()) is not None:
        raise problem


def _agreed(trial: Trial) -> bool:
    """Says what LLMs will be asked for, and whether the person agrees to it; nobody is bothered where none
    is."""
    from refine_rl.plan.calls import calls_for_groups
    from refine_rl.plan.counts import count_prompts
    from refine_rl.plan.money import cost
    from refine_rl.report.asked import money

    settings, cases = trial.settings, trial.cases
    if not settings.reward.judges and settings.reward.quiz is None:
        return True
    counts = count_prompts([case.prompt for case in cases], settings.reward.quiz)
    most = max(len(case.tries) for case in cases)
    calls = calls_for_groups(settings, counts, groups=len(cases), answers=most)
    price = cost(calls, settings.endpoints)
    number = sum(c.high for c in calls)
    dollars = f"at most about {money(price.high, 0)}" if not price.unknown else "at a price that is not known"
    cap = settings.budget.dollars
    limit = f" (budget.dollars stops it at ${cap:g})" if cap is not None else ""
    models = ", ".join(dict.fromkeys(c.model for c in calls))
    what = f"Scoring {count_of(sum(len(c.tries) for c in cases), 'answer')} takes up to {number} calls to "
    what += f"{models}, {dollars}{limit}."
    if not sys.stdin.isatty():
        raise UserError(f"{what} There is no terminal to ask you on: say --yes.")
    return typer.confirm(f"{what} Go on?", err=True)


def record(checked: Checked) -> dict[str, Any]:
    """What a program reads."""
    return {
        "prompts": [
            {
                "id": group.prompt.id,
                "prompt": group.prompt.text,
                "answers": [
                    {
                        "kind": one.answer.kind,
                        "worth": one.answer.worth or None,
                        "answer": one.answer.text,
                        "reward": one.score.value,
                        "status": one.score.status,
                        "breakdown": dict(one.score.breakdown),
                        "advantage": one.advantage,
                        "explanation": one.score.explanation,
                    }
                    for one in group.answers
                ],
            }
            for group in checked.groups
        ],
        "components": {name: checked.weights.get(name) for name in checked.components},
        "relative": checked.relative,
        "top": checked.top,
        "spread": checked.spread,
        "findings": [dataclasses.asdict(found) for found in checked.findings],
        "failed": dict(checked.failed),
        "calls": checked.calls,
        "cost_usd": checked.cost_usd,
    }


# -- what it looks like -----------------------------------------------------------------------------


def _show(checked: Checked, console: Console, reasons: bool) -> None:
    from refine_rl.report.asked import money
    from refine_rl.report.screen import say

    wrong = {f.prompt for f in checked.findings if f.name == "sanity"}
    for group in checked.groups:
        if not group.is_sanity or group.prompt.id in wrong or reasons:
            _show_group(group, checked, console, reasons)
            console.print()
    if sane := [g for g in checked.groups if g.is_sanity and g.prompt.id not in wrong and not reasons]:
        _show_sanity(sane, console)
        console.print()
    told = [f"top of the reward: {decimals(checked.top)}"] if checked.top is not None else []
    told += ["scores compare within one prompt only"] if checked.relative else []
    weights = {n: w for n in checked.components if (w := checked.weights.get(n, 1.0)) != 1.0}
    if checked.spread is not None:
        told.append(f"standard deviation within a prompt: {decimals(checked.spread)} on average")
    told += ["weights: " + ", ".join(f"{n} {w:g}" for n, w in weights.items())] if weights else []
    if checked.calls:
        cost = "cost unknown" if checked.cost_usd is None else money(checked.cost_usd, 0)
        told.append(f"{count_of(checked.calls, 'call')}, {cost}")
    if told:
        say(console, "; ".join(told), "dim")
    for found in checked.findings:
        say(console, f"look  {found.text}", "yellow", under=6)
    if not checked.findings and not checked.failed:
        say(console, _nothing_found(checked), "green")


def _nothing_found(checked: Checked) -> str:
    """That all is well, and what would not have been: from where on a bad answer scores well."""
    every = "Every component tells answers apart."
    from refine_rl.pipeline.check_findings import NEAR_TOP

    groups = [group.answers for group in checked.groups if not group.is_sanity]
    bad = [(a.score.value, _worths(g)) for g in groups for a in g if a.answer.worth == "bad"]
    known = [value for value, _ in bad if value is not None]
    limits = []
    if any("good" not in worths for _, worths in bad) and checked.top is not None and checked.top > 0:
        limits.append(f"{NEAR_TOP:.0%} of the top ({decimals(NEAR_TOP * checked.top)})".replace("%", " %"))
    if any("good" in worths for _, worths in bad):
        limits.append("as much as a good one of its prompt")
    if not known or not limits:
        return every
    return f"No bad answer gets {' or '.join(limits)}; the highest has {decimals(max(known))}. {every}"


def _worths(answers: Sequence[Answered]) -> set[str]:
    return {one.answer.worth for one in answers}


def _show_group(group: Group, checked: Checked, console: Console, reasons: bool) -> None:
    from refine_rl.report.columns import Columns
    from refine_rl.report.screen import say, shown
    from refine_rl.report.wrapping import LEAST

    prompt = group.prompt
    say(console, f"{prompt.id}  {_line(prompt.text)}", "bold", under=len(prompt.id) + 2)
    names = [n for n in checked.components if len(checked.components) > 1]
    table = Columns(first="answer", headings=("reward", *map(shown, names), "advantage"))
    for one in group.answers:
        table.add(shown(one.answer.kind), _cells(one, names))
        for line in _below(one, reasons):
            text = shown(line)
            if console.is_terminal and not reasons:
                text = one_line(text, max(LEAST, console.width - 2))
            table.add(f"  {text}", style="dim" if one.score.status == "scored" else "yellow")
    table.show(console)


def _show_sanity(groups: Sequence[Group], console: Console) -> None:
    """The cases that are ordered rightly, a line each."""
    from refine_rl.report.columns import Columns
    from refine_rl.report.screen import shown

    table = Columns(first="sanity", headings=("good", "bad"))
    for group in groups:
        cells = [_cells(one, [])[0] for one in group.answers]
        table.add(shown(one_line(_line(group.prompt.text), _SHORT)), cells)
    table.show(console)


def _cells(one: Answered, names: list[str]) -> tuple[str, ...]:
    score = one.score
    value = score.status if score.value is None else decimals(score.value)
    if score.status == "invalid":
        value = f"invalid {value}"
    parts = (decimals(score.breakdown[n]) if n in score.breakdown else "–" for n in names)
    return (value, *parts, "–" if one.advantage is None else decimals(one.advantage, "+"))


def _below(one: Answered, reasons: bool) -> Iterator[str]:
    """What was said, where a person or the data said it, and why it got what it got."""
    if one.answer.kind.split()[0] in ("answer", "good", "bad", "reference"):
        yield f"“{_line(one.answer.text)}”"
    lines = [line.strip() for line in one.score.explanation.splitlines() if line.strip()]
    if reasons:
        yield from lines
    elif lines:
        yield one_line("; ".join(lines), _LONGEST)


def _line(text: str) -> str:
    """A text on one line; its own line ends are shown."""
    return one_line(" / ".join(line.strip() for line in text.splitlines() if line.strip()), _LONGEST)
