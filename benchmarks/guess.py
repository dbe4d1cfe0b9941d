"""The figures of the recipe `guess`: games solved in held-out ranges, and where the guesses are, as tables.

    python benchmarks/guess.py [--seeds 3] [--set KEY=VALUE]

Each seed is one whole `refine train` in a process of its own, of an untrained model of that seed: supervised
fine-tuning, GRPO, the comparison of both. Means on held-out prompts have 95 % bootstrap intervals over the
prompts. A guess lies between 0, the smallest number that was still possible, and 1, the largest.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from refine_rl.run import RunFolder
from refine_rl.types import Outcome

BANDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    heads = ["seed", "solved, after SFT", "solved, tuned", "greedy, after SFT -> tuned"]
    heads += ["middle, after SFT -> tuned", "seconds", "of the processor"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    firsts = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            row, first = train(seed, Path(folder) / "run", arguments.set)
        print("| " + " | ".join(row) + " |", flush=True)
        firsts.append(first)
    ends = [f"{n / BANDS:.1f}-{(n + 1) / BANDS:.1f}" for n in range(BANDS)]
    print(
        "\nWhere the guesses lie, all seeds\n\n| turn | model | "
        + " | ".join(ends)
        + " |\n|---|---|"
        + "---|" * BANDS
    )
    for turn in range(4):
        for side in ("after SFT", "tuned"):
            places = [p for first in firsts for p in first[side][turn]]
            shares = [
                sum(int(min(p, 0.999) * BANDS) == n for p in places) / len(places) for n in range(BANDS)
            ]
            print(f"| {turn + 1} | {side} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")


def train(seed: int, run: Path, changes: Sequence[str]) -> tuple[list[str], dict[str, list[list[float]]]]:
    """The row of a seed, and for both models the places of the guesses by turn."""
    own = [f"model.name=recipe:guess#{seed}", f"sft.seed={seed}", f"grpo.seed={seed}", *changes]
    command = [sys.executable, "-m", "refine_rl", "train", "--recipe", "guess", "--json", "--run", str(run)]
    began, used = time.perf_counter(), processor()
    done = subprocess.run(
        [*command, *(word for change in own for word in ("--set", change))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    spent, worked = time.perf_counter() - began, processor() - used
    c: dict[str, Any] = json.loads(done.stdout)
    before = c["others"]["sft"]
    greedy, middle = before["details"]["greedy"], before["details"]["component:middle"]
    row = [
        str(seed),
        show(before),
        show(c["tuned"]),
        f"{greedy['base']['mean']:.2f} -> {greedy['tuned']['mean']:.2f}",
        f"{middle['base']['mean']:.2f} -> {middle['tuned']['mean']:.2f}",
        f"{spent:.0f}",
        f"{worked:.0f}",
    ]
    folder = RunFolder.open(run)
    sides = {"after SFT": "sft", "tuned": "tuned"}
    return row, {label: by_turn(folder.outcomes(side) or []) for label, side in sides.items()}


def by_turn(outcomes: Sequence[Outcome]) -> list[list[float]]:
    """Where the guesses of each turn lie, of the sampled games."""
    found: list[list[float]] = [[] for _ in range(5)]
    for outcome in outcomes:
        for trajectory, _ in outcome.sampled:
            for turn, place in enumerate(
                places(outcome.prompt.text, [m["content"] for m in trajectory.messages])
            ):
                if place is not None:
                    found[turn].append(place)
    return found


def places(asked: str, said: Sequence[str]) -> Iterator[float | None]:
    """Of each guess of a game; None for one that was not possible any more, or at one number alone."""
    low, high = map(int, re.findall(r"\d+", asked))
    for guess, answer in zip(said[1::2], [*said[2::2], ""], strict=False):
        number = int(guess) if guess.isdigit() else -1
        yield (number - low) / (high - low) if low <= number <= high and low < high else None
        if number >= 0 and answer == "higher":
            low = max(low, number + 1)
        elif number >= 0 and answer == "lower":
            high = min(high, number - 1)


def processor() -> float:
    """Seconds that the processes begun here have worked."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


def show(estimate: dict[str, Any]) -> str:
    low, high = estimate["ci95"]
    return f"{estimate['mean']:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
