"""refine score: the judges alone, on completions from anywhere."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from refine_rl.cli.interrupt import interruptible
from refine_rl.cli.training import JSON
from refine_rl.errors import MachineError, UserError
from refine_rl.types.amounts import price

if TYPE_CHECKING:
    from refine_rl.pipeline.score import Judges
    from refine_rl.pipeline.score_file import Tally


def score(
    groups: Path = typer.Argument(..., help='JSONL: {"id", "messages": [...], "completions": ["...", ...]}.'),
    out: Path = typer.Option(..., "--out", help="The JSONL file to write; it must not exist yet."),
    judge: list[str] = typer.Option(
        ..., "--judge", metavar="ENDPOINT/MODEL", help="Who judges; several times for a panel."
    ),
    task: str = typer.Option("", "--task", help="What is wanted; without it, what the messages ask for."),
    rubric: Path | None = typer.Option(
        None, "--rubric", help="A text file that says what makes an answer good."
    ),
    base_url: str | None = typer.Option(
        None, "--base-url", help="The endpoint's address; any name may stand for it in --judge."
    ),
    key_env: str | None = typer.Option(
        None,
        "--key-env",
        metavar="NAME",
        help="The variable that holds the key of --base-url, if one is needed.",
    ),
    kind: Literal["ruler", "absolute", "pairwise"] = typer.Option(
        "ruler", "--kind", help="How they judge: the whole group, each answer alone, two at a time."
    ),
    repeats: int = typer.Option(1, "--repeats", min=1, help="Looks of each judge, averaged."),
    concurrency: int = typer.Option(8, "--concurrency", min=1, help="Calls under way at once."),
    dollars: float | None = typer.Option(None, "--dollars", help="Stop when this much is spent."),
    price: str | None = typer.Option(
        None, "--price", metavar="IN,OUT", help="Dollars a million tokens, where the price is not known."
    ),
    replies: Path | None = typer.Option(
        None, "--replies", help="A new JSONL file for what the judges were asked and replied, a line a call."
    ),
    as_json: bool = JSON,
) -> None:
    """Score completions with an LLM as judge. One line in, one line out, in the same order."""
    from refine_rl.pipeline.score import Judges

    if dollars is not None and not dollars > 0:
        raise UserError("--dollars must be more than 0.")
    judges = Judges(
        models=tuple(judge),
        task=task,
        rubric=rubric,
        kind=kind,
        repeats=repeats,
        base_url=base_url,
        key_env=key_env,
        concurrency=concurrency,
        dollars=dollars,
        price=None if price is None else _price(price),
    )
    tally = _scored(groups, out, judges, replies)
    typer.echo(json.dumps({"out": str(out), **dataclasses.asdict(tally)}) if as_json else out)
    if tally.missing and tally.missing == tally.asked:
        raise MachineError(
            f"No reply could be used: all {tally.asked} scores for which a judge was asked are missing. The "
            f"reasons stand in {out}"
            + (f", the replies in {replies}." if replies else "; --replies FILE keeps the replies.")
        )


def _scored(groups: Path, out: Path, judges: Judges, replies: Path | None) -> Tally:
    """Scores the file, and says how far it is."""
    from refine_rl.pipeline.score_file import score_file
    from refine_rl.report.screen import Screen, say, talk

    console = talk()
    with interruptible() as pause, Screen() as screen:
        tally = score_file(
            groups,
            out,
            judges,
            replies=replies,
            pause=pause,
            note=lambda text: say(console, text),
            progress=lambda done, number: screen.count(_scored_so_far(done), done.groups, number),
        )
    say(console, _summary(tally))
    return tally


def _scored_so_far(tally: Tally) -> str:
    """What the groups are that are counted."""
    return f"{tally.missing} scores missing, groups" if tally.missing else "groups"


def _price(text: str) -> tuple[float, float]:
    try:
        into, out = (float(part) for part in text.split(","))
    except ValueError:
        into = out = -1.0
    if not (0 <= into < float("inf") and 0 <= out < float("inf")):
        raise UserError(f"--price {text}: give two numbers, dollars a million tokens in and out: 0.5,2.2")
    return into, out


def _summary(tally: Tally) -> str:
    cost = "at unknown cost" if tally.cost_usd is None else price(tally.cost_usd)
    some = "1 reply" if tally.unusable == 1 else f"{tally.unusable} replies"
    lost = f", {some} that could not be used" if tally.unusable else ""
    return (
        f"{tally.groups} groups, {tally.scores} scores, {tally.missing} missing; {tally.calls} calls, "
        f"{cost}{lost}"
    )
