"""The recipe `docstrings`: from one supervised start, GRPO with each sum of the components, several seeds.

    OMP_NUM_THREADS=1 python benchmarks/docstrings.py FOLDER [--seeds 0,1,2]

FOLDER is a copy of the recipe with its pairs.jsonl; what is trained stays in its `runs` folder, and is not
trained again. Every row is on the same held-out functions of packages that training did not see.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

WAYS = {"plain sum": "zscore", "each component normalised": "gdpo"}
COLUMNS = {
    "reward": "reward",
    "reward, greedy": "greedy",
    "semantic": "component:semantic",
    "length": "component:length",
    "name words": "component:name_words",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    a = parser.parse_args()
    start = trained(a.folder, a.folder / "runs" / "sft", "sft")
    print("| advantage | seed | " + " | ".join(COLUMNS) + " |")
    print("|---|---|" + "---|" * len(COLUMNS))
    for way, advantage in WAYS.items():
        for seed in a.seeds.split(","):
            run = a.folder / "runs" / f"{advantage}-{seed}"
            chosen = [f"grpo.seed={seed}", f"grpo.advantage={advantage}", f"model.start={start}"]
            trained(a.folder, run, "train", *chosen)
            compared = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
            print(row(way, seed, compared), flush=True)


def trained(folder: Path, run: Path, verb: str, *chosen: str) -> Path:
    """The finished run in `run`."""
    if not (run / "report.html").is_file():
        options = [word for text in chosen for word in ("--set", text)]
        command = [sys.executable, "-m", "refine_rl", verb, str(folder / "task.toml"), "--run", str(run)]
        subprocess.run([*command, *options], check=True, stdout=sys.stderr)
    return run


def row(way: str, seed: str, compared: dict[str, Any]) -> str:
    """A line of the table: base -> tuned, and the difference with its interval."""
    cells = []
    for name in COLUMNS.values():
        both = compared if name == "reward" else compared["details"][name]
        base, tuned, change = (both[side] for side in ("base", "tuned", "difference"))
        low, high = change["ci95"]
        cells.append(
            f"{base['mean']:.3f} -> {tuned['mean']:.3f} ({change['mean']:+.3f} [{low:+.3f}, {high:+.3f}])"
        )
    return f"| {way} | {seed} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
