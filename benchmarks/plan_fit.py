"""The figures by which `refine plan` foretells seconds, fitted anew to timed steps on this machine.

    python benchmarks/plan_fit.py [--quick] [--dtype float32]
    python benchmarks/plan_fit.py --points gpu.json     # the steps that benchmarks/gpu.py timed on a card

Times a few training steps of random models (refine bench) at several lengths, sizes and adapters, and finds
the `Fitted` of refine_rl/plan/pace.py whose predictions are nearest, each relative to what was measured: they
are linear in its four figures. Prints measured and predicted seconds, by the figures in force and by the
new ones, and the line to put into pace.py. Take a quiet machine, and the cores that runs will have.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from refine_rl.bench.measure import Bench, measure
from refine_rl.bench.random_model import Shape, write_random_model
from refine_rl.plan import machine
from refine_rl.plan.machine import Rates
from refine_rl.plan.memory import sampling_bytes
from refine_rl.plan.pace import FITTED, Fitted, Pace
from refine_rl.policy.size import Size, model_size
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict
from refine_rl.training.memory import held, program, training_bytes

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
    parser.add_argument("--points", type=Path, help="gpu.json: steps that were timed on a card")
    arguments = parser.parse_args()
    found: list[Timed] = []
    if arguments.points:
        results = json.loads(arguments.points.read_text(encoding="utf-8"))
        found = list(points(results))
        if not found:
            sys.exit(f"{arguments.points} has no step of Re:Fine's")
        print("\n".join([*memory_table(results), ""]))
    else:
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


def steps_of(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Re:Fine's steps among what gpu.py measured; those of its sweep have `asked`."""
    for result in results["items"].values():
        for step in (result.get("refine"), *result.get("rows", ()), *result.get("steps", {}).values()):
            if isinstance(step, dict) and "rates" in step:
                yield step


def points(results: dict[str, Any]) -> Iterator[Timed]:
    """Sampling and training of each step; of the sweep, whose sampling is always the same, training alone."""
    for step in steps_of(results):
        pace = pace_of(step)
        for part in ("train",) if "asked" in step else ("sample", "train"):
            yield Timed(name=name_of(step), seconds=step["seconds"][part], pace=pace, part=part)


def pace_of(step: dict[str, Any]) -> Pace:
    settings = settings_from_dict(
        {
            "task": "To be timed.",
            "model": {"adapter": step["adapter"], "dtype": step["dtype"]},
            "rollout": {"group_size": step["group_size"], "max_tokens": step["completion_tokens"]},
            "grpo": {
                "prompts_per_step": step["prompts"],
                "tokens_per_micro_batch": step["tokens_at_once"],
            },
        },
        Path(),
    )
    return Pace(
        settings=settings,
        size=Size(**step["size"]),
        rates=Rates(**step["rates"]),
        prompt=step["prompt_tokens"],
    )


def name_of(step: dict[str, Any]) -> str:
    return (
        f"{step['parameters'] / 1e6:.0f} M, {step['adapter']}, {step['prompts']} x {step['group_size']} x "
        f"({step['prompt_tokens']} + {step['completion_tokens']}), {step['tokens_at_once']:,} at once"
    )


def memory_table(results: dict[str, Any]) -> Iterator[str]:
    """What the card's memory held at most, beside the formulas of the plan (without the program's share)."""
    yield "| step | peak, MB | by the formulas |"
    yield "|---|---|---|"
    for step in steps_of(results):
        pace = pace_of(step)
        s, size, rates = pace.settings, pace.size, pace.rates
        members, length = s.rollout.group_size, step["prompt_tokens"] + step["completion_tokens"]
        most = step["prompts"] * (step["prompt_tokens"] + members * step["completion_tokens"])
        training = training_bytes(s.model, size, rates, min(step["tokens_at_once"], most))
        sampling = sampling_bytes(size, rates, asked=step["prompts"] * members, length=length)
        there = held(s.model, size, rates) - program(rates)
        measured = "-" if step["peak_device_mb"] is None else f"{step['peak_device_mb']:,.0f}"
        yield f"| {name_of(step)} | {measured} | {(there + max(training, sampling)) / 1e6:,.0f} |"


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
    # The best point of the allowed corner lies inside one of its faces, and there are only sixteen.
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
