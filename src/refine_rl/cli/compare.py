"""refine compare: two tuned models beside one another."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from refine_rl.cli.evidence import advice_for_an_evaluation, prompts_named
from refine_rl.cli.training import JSON, SET
from refine_rl.types import count_of

if TYPE_CHECKING:
    from refine_rl.pipeline.compare_runs import Match


def compare(
    a: Path = typer.Argument(..., metavar="A", help="A run: its reward, prompts and budget are taken."),
    b: str = typer.Argument(..., metavar="B", help="Another run; or any model, by its folder or hub name."),
    prompts: str | None = typer.Option(
        None, "--prompts", help="Other prompts: a file, or recipe:NAME. Without it, the held-out ones of A."
    ),
    samples: int | None = typer.Option(None, "--samples", min=1, help="Sampled answers a prompt."),
    judge: str | None = typer.Option(
        None, "--judge", metavar="ENDPOINT/MODEL", help="Another judge than A's."
    ),
    seed: int | None = typer.Option(None, "--seed", min=0, help="Of the draws. Without it, that of A."),
    again: bool = typer.Option(
        False, "--again", help="Answer anew, with other draws, although answers are on record."
    ),
    name: str | None = typer.Option(
        None,
        "--name",
        help="Writes comparisons/NAME.json and .html in A (NAME-2 ... if taken); else B's name.",
    ),
    overrides: list[str] = SET,
    as_json: bool = JSON,
) -> None:
    """Set two tuned models beside one another. The same held-out prompts, the same random draws, one reward:
    A's. Answers that both runs have on record are not made again."""
    from refine_rl.cli.interrupt import interruptible
    from refine_rl.errors import UserError
    from refine_rl.pipeline.compare_runs import lay_out
    from refine_rl.report.screen import Screen, results, say, talk
    from refine_rl.report.versus import print_versus
    from refine_rl.run import RunFolder

    if name is not None and (not name or name != Path(name).name):
        raise UserError(f"--name {name}: it names a file, so it has no / in it.")
    folder = RunFolder.open(a)
    with interruptible() as pause, advice_for_an_evaluation(folder, overrides), Screen() as screen:
        match = lay_out(
            a,
            b,
            source=prompts_named(prompts),
            samples=samples,
            judge=judge,
            seed=seed,
            again=again,
            overrides=overrides,
        )
        say(talk(), match.told())
        if asked := _calls(match):
            say(talk(), asked)
        versus, record, page = match.play(name=name, observer=screen, pause=pause)
    if as_json:
        typer.echo(
            json.dumps({"verdict": versus.standing, **dataclasses.asdict(versus), "file": str(record)})
        )
        return
    print_versus(versus, results())
    say(results(), f"\nwritten to {record}\npage: {page}")


def _calls(match: Match) -> str:
    """What LLMs will be asked for; "" where none is."""
    from refine_rl.plan.calls import COMPARISON, calls_for_groups
    from refine_rl.plan.counts import count_prompts
    from refine_rl.plan.money import cost
    from refine_rl.report.asked import money

    groups, answers = match.groups
    settings = match.settings
    if not groups or not (settings.reward.judges or settings.reward.quiz):
        return ""
    counts = count_prompts(match.prompts, settings.reward.quiz)
    calls = calls_for_groups(settings, counts, groups=groups, answers=answers, stage=COMPARISON)
    price = cost(calls, settings.endpoints)
    dollars = f"at most about {money(price.high, 0)}" if not price.unknown else "at a price that is not known"
    cap = settings.budget.dollars
    limit = f"; budget.dollars stops the run at ${cap:g} in all" if cap is not None else ""
    models = ", ".join(dict.fromkeys(c.model for c in calls))
    return f"Up to {count_of(sum(c.high for c in calls), 'call')} to {models}, {dollars}{limit}."
