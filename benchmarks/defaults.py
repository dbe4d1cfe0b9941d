"""A recipe's own settings beside others of schedule, loss, rate and updates, several seeds.

    python benchmarks/defaults.py [--recipe style] [--seeds 3] [--only NAME ...] [--results FILE]

Each cell is one whole `refine train` in a process of its own, in float32; the rows differ in the settings
that are named and in nothing else. Reward and success are those of the tuned model on held-out prompts,
sampled: mean over the seeds, with the smallest and the largest. `--results` keeps what each row gave, and
takes rows that it has from there.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from algorithms import Result, head, row, train

from refine_rl.recipes import recipe_folder
from refine_rl.settings.file import load_settings

OTHERS: dict[str, tuple[tuple[str, ...], float]] = {
    "its own": ((), 1.0),
    "linear": (('grpo.schedule="linear"', 'grpo.loss="grpo"'), 1.0),
    "constant": (('grpo.schedule="constant"', 'grpo.loss="grpo"'), 1.0),
    "linear, dapo": (('grpo.schedule="linear"', 'grpo.loss="dapo"'), 1.0),
    "constant, dapo": (('grpo.schedule="constant"', 'grpo.loss="dapo"'), 1.0),
    "cosine, dapo": (('grpo.schedule="cosine"', 'grpo.loss="dapo"'), 1.0),
    "constant, dapo, 2 updates": (
        ('grpo.schedule="constant"', 'grpo.loss="dapo"', "grpo.updates_per_step=2"),
        1.0,
    ),
    "constant, dapo, half the rate": (('grpo.schedule="constant"', 'grpo.loss="dapo"'), 0.5),
    "constant, dapo, 1.5 times the rate": (('grpo.schedule="constant"', 'grpo.loss="dapo"'), 1.5),
}
"""The settings of a row, and what the recipe's learning rate is multiplied by."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="style")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=OTHERS, help="rows of these names alone")
    parser.add_argument("--results", type=Path)
    a = parser.parse_args()
    rate = load_settings(recipe_folder(a.recipe), overrides=[]).learning_rate
    kept = json.loads(a.results.read_text("utf-8")) if a.results and a.results.exists() else {}
    print("\n".join(head(a.recipe)), flush=True)
    for name, (sets, times) in OTHERS.items():
        if a.only and name not in a.only:
            continue
        results = []
        for seed in range(a.seeds):
            own = ('model.dtype="float32"', f"grpo.learning_rate={rate * times}", *sets)
            key = " ".join([a.recipe, str(seed), *own])
            if key not in kept:
                kept[key] = asdict(train(a.recipe, seed, own))
                if a.results:
                    a.results.write_text(json.dumps(kept), encoding="utf-8")
            results.append(Result(**kept[key]))
        print(row(name, results), flush=True)


if __name__ == "__main__":
    main()
