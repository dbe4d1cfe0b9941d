"""How long until a held-out reward: Re:Fine (plain, thrifty, in small steps) and TRL's GRPOTrainer.

    python benchmarks/against_trl.py --task style [--seeds 3] [--arms plain small trl] [--results FOLDER]

All train the bundled model on the recipe's prompts, in the same order and as many a step (small steps: a
quarter, four times as often), with its reward functions, LoRA, learning rate and group size; after the same
prompts the same validation prompts are answered by the same sampler with the same draws, while the clock
stands still. A run ends once the last target is
reached. Each is a process of its own. Processor seconds are of all its threads and depend little on who else
is there; with --threads 1 they are what the clock would say on a free machine, but for waiting. First TRL
tries each micro-batch of --micro-batches in both formats, two steps each; its best one races.

`--results` keeps each process's line, and takes those that it has from there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

TARGETS = (0.8, 0.9)
SMALL = 4
"""Small steps have a quarter of a step's prompts, and are four times as many."""
ARMS = {
    "plain": [],
    "thrifty": ["grpo.thrifty=true"],
    "small": [
        "grpo.prompts_per_step=2",
        "grpo.updates_per_step=2",
        "grpo.kl_stop=0.03",
        'grpo.schedule="linear"',
    ],
    "trl": [],
}
SAME = ("grpo.prompts_per_step=8", "prompts.held_out=16", "evaluate.bootstrap=200")
"""The held-out prompts are no part of the race."""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="style", help="a recipe")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    parser.add_argument("--steps", type=int, default=80, help="at most")
    parser.add_argument(
        "--thrifty-steps", type=int, default=30, help="over which the rate of thrifty falls to 0"
    )
    parser.add_argument("--look-every", type=int, default=2, help="steps")
    parser.add_argument("--micro-batches", default="8,16,32,64", help="answers a pass that TRL tries")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all of them")
    parser.add_argument("--results", type=Path, help="a folder")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # JSON: be one side's process
    a = parser.parse_args(arguments)
    if a.one:
        print(json.dumps(side(**json.loads(a.one))))
        return
    best = {"micro_batch": 16, "dtype": "float32"}
    tried: list[dict[str, Any]] = []
    if "trl" in a.arms:
        sizes = [int(n) for n in a.micro_batches.split(",")]
        settings = [{"micro_batch": n, "dtype": d} for d in ("float32", "bfloat16") for n in sizes]
        tried = [{**s, **of_process(a, f"trl {s}", arm="trl", steps=2, every=0, **s)} for s in settings]
        fastest = min(tried, key=lambda t: t["processor"])
        best = {name: fastest[name] for name in best}
    found = {
        arm: [
            of_process(
                a,
                f"{arm} {seed}",
                arm=arm,
                seed=seed,
                steps={"thrifty": a.thrifty_steps, "small": SMALL * a.thrifty_steps}.get(arm, a.steps),
                every=SMALL * a.look_every if arm == "small" else a.look_every,
                until=TARGETS[-1],
                **best,
            )
            for seed in range(a.seeds)
        ]
        for arm in a.arms
    }
    if a.seeds:
        print(table(found))
    if tried:
        shown = ", ".join(f"{t['dtype']} {t['micro_batch']}: {t['processor'] / 2:.2f}" for t in tried)
        print(f"\nTRL, processor seconds a step by format and micro-batch: {shown}.")


def of_process(a: argparse.Namespace, name: str, **what: Any) -> dict[str, Any]:
    """What one side's process said, now or before."""
    kept = a.results / f"{a.task} {name}.json" if a.results else None
    if kept is not None and kept.exists():
        return dict(json.loads(kept.read_text("utf-8")))
    asked = json.dumps({"recipe": a.task, "sets": a.set, **what})
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("against_trl.py")), "--task", a.task, "--one", asked],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(a.threads), "HF_HUB_OFFLINE": "1"},
    )
    line = done.stdout.splitlines()[-1]
    print(name, line, file=sys.stderr, flush=True)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(line, encoding="utf-8")
    return dict(json.loads(line))


# -- the sides, each in its own process -----------------------------------------------------------------


def side(
    *,
    recipe: str,
    arm: str,
    sets: list[str],
    steps: int,
    every: int,
    seed: int = 0,
    until: float | None = None,
    micro_batch: int,
    dtype: str,
) -> dict[str, Any]:
    from rival_loops import TaskReward, trl_with_judge  # beside this file

    from refine_rl.recipes import load_task

    changes = [*SAME, f"grpo.steps={steps}", f"grpo.seed={seed}", *sets, *ARMS[arm]]
    settings = load_task(None, recipe=recipe, overrides=[*changes, f"grpo.validate_every={every}"])
    if arm != "trl":
        return of_refine(settings, until)
    with TaskReward(settings) as reward:
        result = trl_with_judge(
            settings, reward, every=every, until=until, micro_batch=micro_batch, dtype=dtype
        )
    return asdict(replace(result, log=()))


class Reached(Exception):  # noqa: N818 - it is an end, no error
    """The last target."""


def of_refine(settings: Any, until: float | None) -> dict[str, Any]:
    """A run of Re:Fine, with a clock that stands still while it validates."""
    import resource
    import time

    from rival_loops import Point

    from refine_rl.pipeline import grpo
    from refine_rl.pipeline.train import run
    from refine_rl.run import RunFolder

    look_before, validate = grpo.look_before, grpo.validate
    curve: list[Point] = []
    since, spent = [0.0, 0.0], [0.0, 0.0]

    def start() -> None:
        since[:] = time.perf_counter(), time.process_time()

    def first(*arguments: Any) -> None:
        look_before(*arguments)
        start()

    def look(work: Any, prompts: Any, training: Any, step: int) -> float:
        now = time.perf_counter(), time.process_time()
        spent[:] = (spent[0] + now[0] - since[0], spent[1] + now[1] - since[1])
        reward = validate(work, prompts, training, step)
        groups = sum(m["groups"] for m in work.folder.metrics()[:step])
        point = Point(step=step, groups=groups, calls=0, seconds=spent[0], processor=spent[1], reward=reward)
        curve.append(point)
        if until is not None and reward >= until:
            raise Reached
        start()
        return reward

    with tempfile.TemporaryDirectory() as place, patch.multiple(grpo, look_before=first, validate=look):
        with contextlib.suppress(Reached):
            run(RunFolder.create(Path(place) / "run", settings))
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return {"curve": [asdict(p) for p in curve], "processor": spent[1], "seconds": spent[0], "peak_mb": peak}


# -- the table ------------------------------------------------------------------------------------------


def reached(run: dict[str, Any], target: float) -> dict[str, Any] | None:
    """The first look that finds the target."""
    return next((p for p in run["curve"] if p["reward"] >= target), None)


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Medians over the seeds, and each seed's processor seconds."""
    heads = ["", "seeds"]
    for target in TARGETS:
        heads += [f"{target}: groups", "seconds", "processor s", "each", "of TRL's"]
    heads += ["processor s a step", "peak memory, MB"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for arm, runs in found.items():
        row = [arm, str(len(runs))]
        for target in TARGETS:
            row += cells(
                [reached(r, target) for r in runs], [reached(r, target) for r in found.get("trl", [])]
            )
        row += [
            f"{median(r['curve'][-1]['processor'] / r['curve'][-1]['step'] for r in runs):.2f}",
            f"{median(r['peak_mb'] for r in runs):,.0f}",
        ]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def cells(points: list[dict[str, Any] | None], theirs: list[dict[str, Any] | None]) -> list[str]:
    """Groups, seconds by the clock, processor seconds, those of each seed; what share of TRL's seconds and
    processor seconds. A seed that never got there is above all others."""

    def middle(which: list[dict[str, Any] | None], name: str) -> float:
        return float(median(float("inf") if p is None else p[name] for p in which))

    row = [f"{middle(points, name):.0f}" for name in ("groups", "seconds", "processor")]
    shares = [f"{middle(points, n) / middle(theirs, n):.0%}" for n in ("seconds", "processor") if theirs]
    each = ", ".join("-" if p is None else f"{p['processor']:.0f}" for p in points)
    return [*row, each, " / ".join(shares) or "-"]
