"""The demo's figures: the style recipe on the bundled model, several seeds, as a table.

    python benchmarks/style.py [--seeds 3] [--recipe style]

Each seed is one whole `refine train` in a process of its own: base model, training, tuned model,
report. Seconds include imports. Reward and success are means on held-out prompts, with 95 % bootstrap
intervals over the prompts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", default="style")
    arguments = parser.parse_args()
    heads = ["seed", "reward, base", "reward, tuned", "success, base", "success, tuned"]
    print("| " + " | ".join([*heads, "greedy, base -> tuned", "seconds"]) + " |")
    print("|---|---|---|---|---|---|---|")
    seconds = []
    for seed in range(arguments.seeds):
        began = time.perf_counter()
        c = train(arguments.recipe, seed)
        seconds.append(time.perf_counter() - began)
        success, greedy = c["details"]["success"], c["details"]["success_greedy"]
        cells = [seed, show(c["base"]), show(c["tuned"]), show(success["base"]), show(success["tuned"])]
        cells += [f"{greedy['base']['mean']:.2f} -> {greedy['tuned']['mean']:.2f}", f"{seconds[-1]:.0f}"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    print(f"\nmedian {median(seconds):.0f} s a run")


def train(recipe: str, seed: int) -> dict[str, Any]:
    """The comparison of one run in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "refine_rl", "train", "--recipe", recipe, "--json"]
        command += ["--run", str(Path(folder) / "run"), "--set", f"grpo.seed={seed}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        result: dict[str, Any] = json.loads(done.stdout)
        return result


def show(estimate: dict[str, Any]) -> str:
    low, high = estimate["ci95"]
    return f"{estimate['mean']:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
