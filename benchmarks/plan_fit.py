"""The figures by which `refine plan` foretells seconds, fitted anew to timed steps on this machine.

    python benchmarks/plan_fit.py [--quick] [--dtype float32]

Times a few training steps of random models (refine bench) at several lengths, sizes and adapters, and finds
the `Fitted` of refine_rl/plan/pace.py whose predictions are nearest, each relative to what was measured: they
are linear in its three figures. Prints measured and predicted seconds, by the figures in force and by the
new ones, and the line to put into pace.py. Take a quiet machine, and the cores that runs will have.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from refine_rl.bench.measure import Bench, measure
from refine_rl.bench.random_model import Shape, write_random_model
from refine_rl.plan import machine
from refine_rl.plan.pace import FITTED, Fitted, Pace
from refine_rl.policy.size import model_size
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict

FIGURES = tuple(field.name for field in fields(Fitted))
CASES: tuple[dict[str, Any], ...] = (
    {"prompt_tokens": 64},
    {"prompt_tokens": 512},
    {"prompt_tokens": 64, "adapter": "none"},
    {"prompt_tokens": 64, "prompts": 2, "group_size": 4, "completion_tokens": 128},  # few rows: launches
    {"prompt_tokens": 64, "shape": Shape(vocabulary=65_536), "prompts": 4},
    {"prompt_tokens": 256, "shape": Shape(hidden=768, layers=12), "prompts": 2},  # 85 M weights
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """One part of a step (sampling or training): what it took, and what would foretell it."""

    name: str
    seconds: float
    pace: Pace
    part: str  # "sample" or "train"

    def predicted(self, figures: Fitted) -> float:
        s = self.pace.settings
        shape = s.grpo.prompts_per_step, s.rollout.group_size
        pace = replace(self.pace, given=figures)
        return pace.sampling(*shape) if self.part == "sample" else pace.training(*shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the first three cases, one step each")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    arguments = parser.parse_args()
    found: list[Timed] = []
    for case in CASES[: 3 if arguments.quick else None]:
        found += timed(case, steps=1 if arguments.quick else 3, dtype=arguments.dtype)
    device = found[0].pace.rates.device
    old, new = FITTED.get(device, FITTED["cuda"]), fit(found)
    print("| part of a step | measured, s | by the figures in force | by the new ones |")
    print("|---|---|---|---|")
    for t in found:
        cells = [t.seconds, t.predicted(old), t.predicted(new)]
        print(f"| {t.name}: {t.part} | " + " | ".join(f"{x:.3g}" for x in cells) + " |")
    for name, figures in (("in force", old), ("new", new)):
        middle, most = off(found, figures)
        print(f"\n{name}: off by a factor of {middle:.2f} typically, {most:.2f} at worst")
    print(f'\n    "{device}": ' + "Fitted(" + ", ".join(f"{n}={getattr(new, n):.3g}" for n in FIGURES) + "),")


def timed(case: dict[str, Any], *, steps: int, dtype: str) -> list[Timed]:
    """Sampling and training of one case."""
    shape = case.get("shape", Shape())
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(**{**case, "model": folder, "steps": steps, "warm_up": 1, "dtype": dtype})
        write_random_model(Path(folder), shape, context=bench.prompt_tokens + bench.completion_tokens)
        settings = settings_of(bench)
        size = model_size(settings.model)
        rates = machine.measure(
            settings.model,
            size,
            sampled=bench.prompts * bench.group_size,
            trained=settings.grpo.at_once,
        )
        seconds = measure(bench).seconds
    pace = Pace(settings=settings, size=size, rates=rates, prompt=bench.prompt_tokens)
    name = (
        f"{size.parameters / 1e6:.0f} M, {bench.adapter}, {bench.prompts} x {bench.group_size} x "
        f"({bench.prompt_tokens} + {bench.completion_tokens})"
    )
    return [Timed(name=name, seconds=seconds[part], pace=pace, part=part) for part in ("sample", "train")]


def settings_of(bench: Bench) -> Settings:
    return settings_from_dict(
        {
            "task": "To be timed.",
            "model": {"name": bench.model, "adapter": bench.adapter, "dtype": bench.dtype},
            "rollout": {"group_size": bench.group_size, "max_tokens": bench.completion_tokens},
            "grpo": {"prompts_per_step": bench.prompts},
        },
        Path(),
    )


def fit(found: Sequence[Timed]) -> Fitted:
    """The figures, none below 0, with the least sum of squared relative errors."""
    nothing = np.zeros(len(FIGURES))
    fixed = _by(found, nothing)
    columns = np.stack([_by(found, unit) - fixed for unit in np.eye(len(FIGURES))], axis=1)
    measured = np.array([t.seconds for t in found])
    A, b = columns / measured[:, None], 1 - fixed / measured
    best, least = nothing, math.inf
    # The best point of the allowed corner lies inside one of its faces, and there are only eight.
    faces = (itertools.combinations(range(len(FIGURES)), n + 1) for n in range(len(FIGURES)))
    for free in itertools.chain.from_iterable(faces):
        point = np.zeros(len(FIGURES))
        point[list(free)] = np.linalg.lstsq(A[:, free], b, rcond=None)[0]
        error = float(((A @ point - b) ** 2).sum())
        if (point >= 0).all() and error < least:
            best, least = point, error
    return _figures(best)


def _figures(values: Any) -> Fitted:
    return Fitted(**dict(zip(FIGURES, map(float, values), strict=True)))


def _by(found: Sequence[Timed], values: Any) -> Any:
    return np.array([t.predicted(_figures(values)) for t in found])


def off(found: Sequence[Timed], figures: Fitted) -> tuple[float, float]:
    """The median and the largest factor between measured and predicted; 1 at best."""
    factors = [math.exp(abs(math.log(max(t.predicted(figures), 1e-9) / t.seconds))) for t in found]
    return median(factors), max(factors)


if __name__ == "__main__":
    main()
