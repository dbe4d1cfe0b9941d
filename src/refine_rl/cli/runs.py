"""refine runs: what runs there are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from refine_rl.cli.training import JSON

if TYPE_CHECKING:
    from refine_rl.run.glance import Glance


def runs(
    folder: Path = typer.Argument(Path("runs"), help="A folder of runs, or a run."),
    match: str = typer.Option(
        "", "--match", metavar="TEXT", help="Only those with this text in name, task, model, state, verdict."
    ),
    order: str = typer.Option(
        "when", "--sort", metavar="KEY", help="when (newest first), name, difference, cost or time."
    ),
    as_json: bool = JSON,
) -> None:
    """List the runs. Their verdict, difference, cost and time; read from their files alone, also while they
    run."""
    from refine_rl.pipeline.runs import list_runs

    found = list_runs(folder, match=match, order=order)
    if as_json:
        typer.echo(json.dumps([_record(g) for g in found]))
        return
    from refine_rl.report.listing import print_runs
    from refine_rl.report.screen import results, say, talk

    if not found:
        say(talk(), f"No run {'matches' if match else 'is'} in {folder}.")
        return
    print_runs(found, results())


def _record(g: Glance) -> dict[str, Any]:
    return {
        **dataclasses.asdict(g),
        "path": str(g.path),
        "created": None if g.created is None else g.created.isoformat(),
    }
