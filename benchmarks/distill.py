"""On-policy distillation: the untrained model from one that was tuned, or from itself, beside the reward.

    python benchmarks/distill.py [--teacher runs/NAME] [--seeds 3] [--steps 60] [--arms reward teacher both]
                                 [--recipe style]
    python benchmarks/distill.py --arms reward best reason --recipe dots --steps 30

The teacher is a finished run of the recipe; without one, it is made first, with the seed 100, where an arm
needs it. Each cell is one whole `refine train` of the recipe in a process of its own: by rewards alone; by
the teacher alone, where rewards are measured and teach nothing; by both, half and half; or half by rewards
and half by the policy itself, shown the group's `best` answer or the `reason` that the rewards give. The
reward is that of the sampled answers to held-out prompts, base and tuned; the KL is that of policy to teacher
on the validation prompts, in nats a token, before training and at the end; seconds are the processor's, of
the whole run.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from whole_run import whole_run

from refine_rl.run import RunFolder

ITSELF = ('teacher.model="self"', "teacher.share=0.5")

ARMS: Mapping[str, tuple[str, ...]] = {
    "reward": (),
    "teacher": ("teacher.share=1",),
    "both": ("teacher.share=0.5",),
    "best": (*ITSELF, 'teacher.shown="best"'),
    "reason": (*ITSELF, 'teacher.shown="reason"'),
}
"""What is set, beside the run that teaches where one does."""

BY_A_RUN = ("teacher", "both")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What one run came to."""

    base: float
    tuned: float
    kl: tuple[float, float] | None  # before training, and at the end
    seconds: float  # of a processor


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--recipe", default="style")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--arms", nargs="+", default=["reward", *BY_A_RUN], choices=ARMS)
    asked = parser.parse_args()
    with contextlib.ExitStack() as open_runs:
        teacher = RunFolder.open(asked.teacher) if asked.teacher else None
        if teacher is None and not set(BY_A_RUN).isdisjoint(asked.arms):
            teacher = open_runs.enter_context(whole_run("--recipe", asked.recipe, sets=["grpo.seed=100"]))
        if teacher is not None:
            print(f"The teacher's held-out reward: {mean_of(teacher, 'tuned'):.3f}\n", flush=True)
        print("| trained by | base | tuned | KL to the teacher | processor seconds |\n|---|---|---|---|---|")
        for name in asked.arms:
            cells = [cell_of(asked.recipe, name, teacher, seed, asked.steps) for seed in range(asked.seeds)]
            print(row(name, cells), flush=True)


def cell_of(recipe: str, arm: str, teacher: RunFolder | None, seed: int, steps: int) -> Cell:
    """One whole run."""
    sets = [f"grpo.seed={seed}", f"grpo.steps={steps}", *ARMS[arm]]
    if arm in BY_A_RUN and teacher is not None:
        sets.append(f'teacher.model="{teacher.path.resolve()}"')
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with whole_run("--recipe", recipe, sets=sets) as run:
        looks = [line.get("teacher_kl") for line in run.validation()]
        return Cell(
            base=mean_of(run, "base"),
            tuned=mean_of(run, "tuned"),
            kl=None if looks[0] is None else (looks[0], looks[-1]),
            seconds=resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before,
        )


def mean_of(run: RunFolder, side: str) -> float:
    """The mean held-out reward of a side of the run's comparison."""
    estimate = getattr(run.comparison(), side)
    if estimate is None:
        raise SystemExit(f"{run.path} has no comparison")
    return float(estimate.mean)


def row(name: str, cells: list[Cell]) -> str:
    """A line of the table: means over the seeds, with the smallest and the largest."""
    kls = [cell.kl for cell in cells if cell.kl is not None]
    kl = f"{span([a for a, _ in kls])} -> {span([b for _, b in kls])}" if kls else ""
    seconds = f"{fmean(cell.seconds for cell in cells):.0f}"
    return (
        f"| {name} | {span([c.base for c in cells])} | {span([c.tuned for c in cells])} | {kl} | {seconds} |"
    )


def span(values: list[float]) -> str:
    """
    >>> span([0.5]), span([0.25, 0.75])
    ('0.50', '0.50 [0.25, 0.75]')
    """
    mean = f"{fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.2f}, {max(values):.2f}]"


if __name__ == "__main__":
    main()
