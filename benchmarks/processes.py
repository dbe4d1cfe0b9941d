"""Two processes on two cores against one, and that they train the same.

    python benchmarks/processes.py [--recipe dots] [--steps 6] [--set KEY=VALUE ...]

The recipe is trained with one process of one thread, with one of two threads (two lanes of micro-batches),
and with two processes of one thread each; a step's seconds are the median over all but the first. Wall-clock
ratios want a quiet machine. On a busy one the processor seconds of the first process say more: it has about
half the work, so their ratio is what two free cores would show, waiting for one another apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

WAYS = {"one process, 1 thread": (1, 1), "one process, 2 threads": (1, 2), "two processes": (2, 2)}
"""Processes, and threads that they share."""

CHILD = """
import json, sys, time
from pathlib import Path
from refine_rl.pipeline.train import run
from refine_rl.progress import Quiet
from refine_rl.recipes import load_task
from refine_rl.run import RunFolder

class Clock(Quiet):
    used = []
    def step(self, metrics, steps):
        self.used.append(time.process_time())

folder, recipe, *overrides = sys.argv[1:]
run(RunFolder.create(Path(folder), load_task(None, recipe=recipe, overrides=overrides)), observer=Clock())
print(json.dumps([b - a for a, b in zip(Clock.used, Clock.used[1:])]))
"""


def trained(folder: Path, recipe: str, processes: int, threads: int, overrides: list[str]) -> float:
    """Trains; the median processor seconds of the first process in a step."""
    command = [sys.executable, "-c", CHILD, str(folder), recipe, f"engine.processes={processes}", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return statistics.median(json.loads(said.splitlines()[-1]))


def seconds(folder: Path) -> dict[str, float]:
    """The median of a later step's parts."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][1:]
    parts = ("sample", "train", "total")
    return {part: statistics.median(m["seconds"][part] for m in lines) for part in parts}


def apart(a: Path, b: Path) -> dict[str, Any]:
    """How far the weights of two runs are from one another after their last step."""
    ours, theirs = (load_file(max((f / "checkpoints").iterdir()) / "weights.safetensors") for f in (a, b))
    largest = max(float((value - theirs[name]).abs().max()) for name, value in ours.items())
    size = max(float(value.abs().max()) for value in ours.values())
    return {"largest difference of a weight": largest, "largest weight": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", default="dots")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    a = parser.parse_args()
    small = ["prompts.held_out=4", "prompts.validation=0", "evaluate.samples=1", "model.dtype=float32"]
    overrides = [*small, f"grpo.steps={a.steps}", *a.overrides]
    with tempfile.TemporaryDirectory() as root:
        folders = {name: Path(root) / str(n) for n, name in enumerate(WAYS)}
        found: dict[str, dict[str, float]] = {}
        for name, (processes, threads) in WAYS.items():
            used = trained(folders[name], a.recipe, processes, threads, overrides)
            found[name] = {**seconds(folders[name]), "processor": used}
            print(f"{name}: {json.dumps(found[name])}", flush=True)
        *ones, two = found.values()
        for name, one in zip(WAYS, ones, strict=False):
            ratios = {part: round(one[part] / two[part], 2) for part in two}
            print(f"two processes against {name}: {json.dumps(ratios)}")
        first, _, last = folders.values()
        print("weights, two processes and one:", json.dumps(apart(first, last)))


if __name__ == "__main__":
    main()
