"""What the benchmarks on following arrows share: a taught model, `refine train` in several ways, a table.

A task is letters with arrows between them, and the question where a way ends. What a benchmark adds is what
is taught and asked, how it is rewarded, in which ways training goes on from the taught model, and what is
told of each run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from teaching import Example, teach
from whole_run import whole_run

from refine_rl.run import RunFolder
from refine_rl.types import Outcome

TASK = """task = "Follow the arrows."
[model]
name = {model}
adapter = "none"
dtype = "float32"
[prompts]
source = "file:prompts.jsonl"
train = 256
validation = 0
held_out = 64
near_duplicate = 1.0
[reward]
functions = ["rewards.py:right"]
[rollout]
group_size = 8
max_tokens = {max_tokens}
[grpo]
prompts_per_step = 8
advantage = "mean"
learning_rate = {rate}
loss = "dapo"
validate_every = 0
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """`about` is the script's docstring; `steps` of training by default, `updates` of teaching with
    `example`; `rate` is that of GRPO. `prompts` are lines of prompts.jsonl, `others` those of further files,
    `rewards` is rewards.py; `sets`, and each of `ways` by its name, are texts for --set. `row` makes the
    cells of a finished run, under `heads` after way and seed."""

    about: str
    steps: int
    updates: int
    example: Example
    prompts: Sequence[Mapping[str, Any]]
    rewards: str
    max_tokens: int
    rate: str = "5e-5"
    sets: tuple[str, ...] = ()
    ways: Mapping[str, tuple[str, ...]]
    heads: tuple[str, ...]
    others: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    row: Callable[[RunFolder], Sequence[str]]


def follow(way: Sequence[str], rng: random.Random, *, apart: Sequence[str] = ()) -> str:
    """The question where the way ends, its arrows in any order; `apart` is an arrow that is not on it."""
    arrows = [f"{a} {b}" for a, b in itertools.pairwise(way)] + ([" ".join(apart)] if apart else [])
    rng.shuffle(arrows)
    return f"Follow: {', '.join(arrows)}. From {way[0]}."


def sides(run: RunFolder) -> tuple[Sequence[Outcome], Sequence[Outcome]]:
    """What the base model and the tuned one made of the held-out prompts."""
    base, tuned = run.outcomes("base"), run.outcomes("tuned")
    assert base is not None
    assert tuned is not None
    return base, tuned


def main(b: Benchmark) -> None:
    parser = argparse.ArgumentParser(description=b.about.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=b.steps)
    parser.add_argument("--rate", default=b.rate, help="grpo.learning_rate")
    parser.add_argument("--ways", nargs="*", choices=b.ways, default=list(b.ways), metavar="WAY")
    parser.add_argument("--model", type=Path, help="a model that was taught before")
    parser.add_argument("--keep", type=Path, help="where the taught model is kept")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = a.model or a.keep or folder / "taught"
        if a.model is None:
            began = time.perf_counter()
            teach(model, b.example, updates=b.updates)
            print(f"taught in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        task = _write_task(b, folder, model, a.rate)
        print("| " + " | ".join(b.heads) + " |\n|" + "---|" * len(b.heads), flush=True)
        for name in a.ways:
            way = b.ways[name]
            for seed in range(a.seeds):
                sets = (f"grpo.seed={seed}", f"grpo.steps={a.steps}", *b.sets, *way)
                with whole_run(str(task), sets=sets) as run:
                    print("| " + " | ".join([name, str(seed), *b.row(run)]) + " |", flush=True)


def _write_task(b: Benchmark, folder: Path, model: Path, rate: str) -> Path:
    """A task folder for `refine train`."""
    for file, prompts in {"prompts.jsonl": b.prompts, **b.others}.items():
        lines = [json.dumps(prompt) + "\n" for prompt in prompts]
        (folder / file).write_text("".join(lines), encoding="utf-8")
    (folder / "rewards.py").write_text(b.rewards, encoding="utf-8")
    text = TASK.format(model=json.dumps(str(model.resolve())), max_tokens=b.max_tokens, rate=rate)
    (folder / "task.toml").write_text(text, encoding="utf-8")
    return folder / "task.toml"
