"""The same training under several seeds, one run after the other in a folder of their own.

Each is an ordinary run, which can be resumed, shown and exported alone. The later ones take the prompts and
the base model's answers of the first: what differs between them is training alone. The dollars of the
budget are those of all together.
"""

from __future__ import annotations

from collections.abc import Callable

from refine_rl.errors import GuardStop, UserError
from refine_rl.evaluate.seeds import over_seeds
from refine_rl.pipeline.commits import hold_as
from refine_rl.report.seeds import render_seeds
from refine_rl.run import RunFolder
from refine_rl.run.seeds import OfSeed, OverSeeds, SeedsFolder
from refine_rl.settings import Settings
from refine_rl.types import Comparison

MOST = 100


def check(settings: Settings, seeds: int) -> None:
    """Raises UserError for what several seeds cannot be."""
    if not isinstance(seeds, int) or not 2 <= seeds <= MOST:
        raise UserError(f"--seeds {seeds}: an interval over training seeds takes 2 to {MOST} of them.")
    if settings.sft is not None:
        raise UserError(
            "--seeds: a task with [sft] begins each run with supervised fine-tuning of its own, whose seed "
            "is sft.seed. Train that once (refine sft), and begin from it: model.start."
        )


def train_seeds(
    home: SeedsFolder, train: Callable[[RunFolder], Comparison], found: Callable[[OverSeeds], None]
) -> OverSeeds:
    """Trains what is not finished yet of each seed with `train`, one after the other, and tells `found` what
    stands after each. Raises what a training raises; and GuardStop where the dollars of all are spent."""
    cap = home.run(0).settings().budget.dollars
    so_far = _summary(home)
    for number in range(home.seeds):
        run = home.run(number)
        if not run.finished():
            _share(home, run, number)
            _cap(home, run, number, cap)
        train(run)
        so_far = _summary(home)
        home.save(so_far)
        home.save_report(render_seeds(home))
        found(so_far)
    return so_far


def _share(home: SeedsFolder, run: RunFolder, number: int) -> None:
    """Gives a later run the commits and the prompts of the first, and what the base model did there, where it
    has none."""
    first = home.run(0)
    if number:
        hold_as(first, run)
    if number and not run.prompts():
        run.save_prompts(first.prompts())
    if number and run.outcomes("base") is None and (base := first.outcomes("base")) is not None:
        run.save_outcomes("base", base)
    if number and run.probes("base") is None and (probed := first.probes("base")) is not None:
        run.save_probes("base", probed)


def _cap(home: SeedsFolder, run: RunFolder, number: int, cap: float | None) -> None:
    """Leaves a later run what the others have not spent of the cap on all."""
    if cap is None or not number:
        return
    spent = sum(
        c["cost_usd"] or 0.0 for other in home.runs() if other.path != run.path for c in other.calls()
    )
    if spent >= cap:
        raise GuardStop(
            "budget",
            f"The {cap:g} dollars of budget.dollars are spent on {number} of {home.seeds} seeds.",
            f"Raise budget.dollars in {home.run(0).config.path}, and go on: {home.resume}",
        )
    settings = run.settings()
    left = settings.budget.model_copy(update={"dollars": cap - spent})
    run.config.save(settings.model_copy(update={"budget": left}))


def _summary(home: SeedsFolder) -> OverSeeds:
    runs = [(run, run.comparison()) for run in home.runs()]
    done = [(run, c) for run, c in runs if c is not None]
    return OverSeeds(
        seeds=home.seeds,
        runs=tuple(
            OfSeed(seed=run.settings().grpo.seed, run=run.name, verdict=c.verdict, difference=c.difference)
            for run, c in done
        ),
        difference=over_seeds([c.difference.mean for _, c in done if c.difference is not None]),
    )
