"""refine train --seeds: one training under several seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from refine_rl.cli.interrupt import StopNow
from refine_rl.errors import RefineError, UserError

if TYPE_CHECKING:
    from refine_rl.run import RunFolder
    from refine_rl.run.seeds import OverSeeds, SeedsFolder
    from refine_rl.settings import Settings
    from refine_rl.types import Comparison

    Train = Callable[[RunFolder], Comparison]


def several(resume: Path, seeds: int | None, overrides: Sequence[str], from_step: int | None) -> bool:
    """Whether what is to be resumed are runs of several seeds; raises UserError for what goes with one run
    alone."""
    from refine_rl.run.seeds import SeedsFolder

    if seeds is not None:
        raise UserError("--resume takes no --seeds: seeds.json in the folder says how many there are to be.")
    home = SeedsFolder.open(resume)
    if home is not None and (overrides or from_step is not None):
        raise UserError(
            f"{resume} holds a run for each seed: --set and --from-step are for one of them, such as "
            f"{resume / 'seed-0'}."
        )
    return home is not None


def begin(path: Path | None, name: str, settings: Settings, seeds: int, train: Train, as_json: bool) -> None:
    """A new folder with a run for each seed."""
    from refine_rl.pipeline.seeds import check
    from refine_rl.run.seeds import SeedsFolder

    check(settings, seeds)
    _all(SeedsFolder.begin(path, name, settings, seeds), train, as_json)


def go_on(path: Path, train: Train, as_json: bool) -> None:
    """What is not finished of the runs in a folder."""
    from refine_rl.run.seeds import SeedsFolder

    _all(SeedsFolder(path), train, as_json)


def _all(home: SeedsFolder, train: Train, as_json: bool) -> None:
    from refine_rl.pipeline.seeds import train_seeds
    from refine_rl.report.screen import results, say, talk
    from refine_rl.report.seeds import print_seeds, told

    def found(so_far: OverSeeds) -> None:
        if len(so_far.runs) < so_far.seeds:  # all of them are told at the end, with the table
            say(talk(), told(so_far))

    def one(run: RunFolder) -> Comparison:
        say(talk(), f"\nSeed {run.settings().grpo.seed}, in {home.path}")
        return train(run)

    try:
        over = train_seeds(home, one, found)
    except (RefineError, StopNow) as stop:
        if isinstance(stop, UserError):
            home.abandon()
        if not home.path.is_dir():
            raise
        say(talk(), f"All seeds together go on with: {home.resume}")
        raise
    if as_json:
        typer.echo(json.dumps({"folder": str(home.path), **asdict(over)}))
        return
    print_seeds(over, results())
    say(results(), f"\nruns: {home.path}\nreport: {home.report}")
