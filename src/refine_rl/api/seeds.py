"""resume_seeds, and what `train` does with `seeds`: several runs that differ in their seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refine_rl.api import checks
from refine_rl.api.arguments import Function
from refine_rl.api.observing import showing
from refine_rl.api.records import Run, SeedsRun
from refine_rl.api.stops import in_own_words, of_seeds, training
from refine_rl.errors import UserError
from refine_rl.evaluate.seeds import told_of_seeds
from refine_rl.foreign.given import given as given_code
from refine_rl.pipeline.given import Given, require_given
from refine_rl.pipeline.launch import take_part
from refine_rl.pipeline.seeds import check, train_seeds
from refine_rl.progress import Observer, Pause
from refine_rl.run import RunFolder
from refine_rl.run.seeds import OverSeeds, SeedsFolder
from refine_rl.settings import Settings
from refine_rl.types import Comparison


def resume_seeds(
    folder: str | Path | SeedsRun,
    *,
    rewards: Sequence[Function] = (),
    environment: type[Any] | None = None,
    tools: Sequence[Function] = (),
    observer: Observer | None = None,
) -> SeedsRun:
    """Goes on with what is not finished of a training under several seeds (`train(..., seeds=3)`); of one
    that is finished, gives back what came of it.

    Args:
        folder: the folder that holds the runs.
        rewards, environment, tools: the code that was given to `train`, given again.
        observer: hears the progress; without it, it is shown.

    Raises UserError where there is no such folder, or where the code is other code; else what `train`
    raises.
    """
    take_part()
    code = Given(rewards=rewards, environment=environment, tools=tools)
    found = folder.folder if isinstance(folder, SeedsRun) else folder
    checks.every(
        lambda: checks.path("folder", found, "a folder of seeds"),
        lambda: checks.code(code),
        lambda: checks.observer(observer),
    )
    home = SeedsFolder.open(Path(found).expanduser())
    if home is None:
        raise UserError(
            f"{found} is no folder of seeds: it has no seeds.json. train(..., seeds=3) makes one; a single "
            "run goes on with refine_rl.resume."
        )
    require_given(home.run(0), code)
    return _all(home, code, observer)


def train_under(
    settings: Settings,
    seeds: int,
    code: Given,
    lines: str | None,
    run: str | Path | None,
    observer: Observer | None,
) -> SeedsRun:
    """A new folder with a run for each of so many seeds; `lines` are prompts that were given as a list."""
    checks.number("seeds", seeds, least=2)
    try:
        check(settings, seeds)
    except UserError as mistake:
        raise in_own_words(mistake) from None
    home = SeedsFolder.begin(
        None if run is None else Path(run),
        settings.name or "run",
        settings,
        seeds,
        python_rewards=code.names.rewards,
        prompts=lines,
    )
    return _all(home, code, observer)


def _all(home: SeedsFolder, code: Given, observer: Observer | None) -> SeedsRun:
    done: list[Run] = []

    def one(folder: RunFolder) -> Comparison:
        done.append(go(folder, observer, code))
        return done[-1].comparison

    def found(so_far: OverSeeds) -> None:
        with showing(None, observer) as shown:
            shown.note(told_of_seeds(len(so_far.runs), so_far.seeds, so_far.difference))

    with of_seeds(home):
        over = train_seeds(home, one, found)
    return SeedsRun(folder=home.path, runs=tuple(done), difference=over.difference)


def go(folder: RunFolder, observer: Observer | None, code: Given) -> Run:
    """Trains a run from wherever it stands."""

    def work(pause: Pause) -> Run:
        with showing(folder, observer) as shown, given_code(code.named):
            from refine_rl.pipeline.train import run as run_pipeline  # late: torch

            comparison = run_pipeline(folder, observer=shown, pause=pause, functions=code.rewards)
        return Run(folder=folder.path, comparison=comparison)

    return training(folder, work)
