"""The figures of the recipe `codet5`: untrained, after SFT, after GRPO, and what needs no training.

    nice -n 5 python benchmarks/codet5.py [--seeds 3] [--runs FOLDER] [--set KEY=VALUE ...]

Each seed is one whole `refine train --recipe codet5` in a process of its own, with another untrained model,
other examples, prompts and draws; a run that stands in FOLDER already is read, not made again. Rewards are
means over held-out prompts; `+` is a difference paired by prompt, with its 95 % bootstrap interval. `exact`
is the share of answers that are the reference to the letter, `understood` of those that say what it says
whatever they call the parameters. "nearest" answers with the docstring of the example whose code, or whose
function's name, is nearest (cosine of words, rare ones weighing more).

The last table asks the last run's model about functions of the standard library: code unlike any that it has
seen. No claim is made of it.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from refine_rl.recipes.codet5 import pairs as examples
from refine_rl.recipes.codet5 import rules
from refine_rl.run import RunFolder
from refine_rl.types import Outcome, Prompt, Score, Trajectory

MODULES = (
    "textwrap shutil statistics calendar string fractions random heapq os.path glob json.decoder colorsys"
)
EXAMPLES = 70_000
WHICH = ("base", "sft", "tuned")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/codet5"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    print(
        "| seed | | greedy | + | sampled | + | exact | understood, greedy | + | understood, sampled | + | s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for seed in range(arguments.seeds):
        run = arguments.runs / f"seed-{seed}"
        seconds = train(run, seed, arguments.set)
        folder = RunFolder.open(run)
        table(seed, folder, seconds)
    print()
    real_code(folder)


def train(run: Path, seed: int, changes: Sequence[str]) -> str:
    """Trains, unless the run is there; the seconds of it, "" where it was."""
    if (run / "report.html").is_file():
        return ""
    settings = [f"grpo.seed={seed}", f"sft.seed={seed}", f"model.name=recipe:codet5#{seed}", *changes]
    command = [sys.executable, "-m", "refine_rl", "train", "--recipe", "codet5", "--run", str(run)]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, *(word for change in settings for word in ("--set", change))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"seed {seed}: {done.stderr}")
    return f"{time.perf_counter() - began:.0f}"


def table(seed: int, run: RunFolder, seconds: str) -> None:
    """A row for each model and each control."""
    prompts = [prompt for prompt in run.prompts() if prompt.split == "held_out"]
    columns = {
        "nearest by name": nearest(prompts, seed, by_name),
        "nearest by code": nearest(prompts, seed, by_code),
        **{which: measured(outcomes) for which in WHICH if (outcomes := run.outcomes(which))},
    }
    against = {"sft": "nearest by code", "tuned": "sft"}
    for name, found in columns.items():
        other = columns[against[name]] if name in against else None
        cells: list[str] = []
        for key in ("greedy", "sampled", "exact", "understood", "understood_sampled"):
            cells.append(show(found[key]) if key in found else "")
            if key != "exact":
                compared = other.get(key, other["greedy"] if key == "sampled" else None) if other else None
                cells.append(difference(found[key], compared) if compared is not None else "")
        print(
            f"| {seed} | {name} | " + " | ".join([*cells, seconds if name == "tuned" else ""]) + " |",
            flush=True,
        )


Columns = dict[str, np.ndarray]


def measured(outcomes: Sequence[Outcome]) -> Columns:
    """A number a prompt, of each column."""

    def mean(scores: Sequence[tuple[Trajectory, Score]], key: str = "") -> float:
        return float(np.mean([score.breakdown[key] if key else score.value for _, score in scores]))

    return {
        "greedy": np.array([mean([o.greedy]) for o in outcomes]),
        "sampled": np.array([mean(o.sampled) for o in outcomes]),
        "exact": np.array(
            [o.greedy[0].completion.strip() == o.prompt.data["reference"] for o in outcomes], float
        ),
        "understood": np.array([mean([o.greedy], "understood") for o in outcomes]),
        "understood_sampled": np.array([mean(o.sampled, "understood") for o in outcomes]),
    }


def nearest(prompts: Sequence[Prompt], seed: int, of: Callable[[str], list[str]]) -> Columns:
    """What the docstring of the nearest example is worth."""
    rows = examples.pairs(EXAMPLES, seed)
    bags = [Counter(of(row["prompt"])) for row in rows]
    rare = {word: math.log(len(bags) / n) for word, n in Counter(w for bag in bags for w in bag).items()}
    places = {word: place for place, word in enumerate(rare)}

    def vector(bag: Counter[str]) -> np.ndarray:
        values = np.zeros(len(places), dtype=np.float32)
        for word in bag.keys() & places.keys():
            values[places[word]] = (1 + math.log(bag[word])) * rare[word]
        return values / (np.linalg.norm(values) or 1.0)

    known = np.stack([vector(bag) for bag in bags])
    greedy, exact, understood = [], [], []
    for prompt in prompts:
        answer = rows[int((known @ vector(Counter(of(prompt.text)))).argmax())]["answer"]
        greedy.append(reward(prompt, answer))
        exact.append(float(answer == prompt.data["reference"]))
        data = prompt.data
        understood.append(rules.understood("", answer, data["reference"], data["parameters"]).value)
    return {"greedy": np.array(greedy), "exact": np.array(exact), "understood": np.array(understood)}


def by_code(code: str) -> list[str]:
    return rules.content_words(code)


def by_name(code: str) -> list[str]:
    found = re.match(r"def (\w+)", code)
    return rules.content_words(found[1]) if found else []


def reward(prompt: Prompt, answer: str) -> float:
    """The recipe's reward of a docstring."""
    code, data = prompt.text, prompt.data
    weighted = [
        (0.4, rules.meaning(code, answer, data["reference"])),
        (0.2, rules.parameters(code, answer, data["parameters"])),
        (0.1, rules.returns(code, answer, data["returns"])),
        (0.1, rules.length(code, answer)),
        (0.1, rules.no_repeats(code, answer)),
        (0.1, rules.ends(code, answer)),
    ]
    return float(sum(weight * (score.value or 0.0) for weight, score in weighted))


def show(values: np.ndarray) -> str:
    return f"{values.mean():.2f}"


def difference(values: np.ndarray, others: np.ndarray) -> str:
    """The mean difference and its interval: 10,000 resamples of the prompts."""
    gained = values - others
    places = np.random.default_rng(0).integers(0, len(gained), (10_000, len(gained)))
    low, high = np.quantile(gained[places].mean(1), (0.025, 0.975))
    return f"{gained.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def real_code(run: RunFolder) -> None:
    """Functions of the standard library through the run's model."""
    file = run.path / "standard_library.jsonl"
    rows = list(library())
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "refine_rl",
        "eval",
        str(run.path),
        "--prompts",
        f"file:{file.resolve()}",
    ]
    done = subprocess.run(
        [*command, "--name", "standard_library", "--json"], stdout=subprocess.PIPE, check=True
    )
    c = json.loads(done.stdout)
    tuned, greedy = c["tuned"]["mean"], c["details"]["greedy"]["tuned"]["mean"]
    print(
        f"{c['prompts']} functions of the standard library: reward greedy {greedy:.2f}, sampled {tuned:.2f}\n"
    )
    for example in c["examples"][:4]:
        print(f"- {example['prompt'][:60]!r}: {example['tuned']!r}")


def library() -> list[dict[str, Any]]:
    """Short functions and the first sentence of their docstrings, docstring taken out."""
    rows = []
    for name in MODULES.split():
        tree = ast.parse(inspect.getsource(import_module(name)))
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or not (text := ast.get_docstring(node)):
                continue
            node.body = node.body[1:]
            code = ast.unparse(node)
            if not node.body or len(code) > 300:
                continue
            rows.append(
                {
                    "prompt": code,
                    "reference": re.split(r"(?<=\.)\s|\n\n", text)[0].replace("\n", " "),
                    "name": node.name,
                    "parameters": [arg.arg for arg in node.args.args if arg.arg != "self"],
                    "returns": re.search(r"\b(return|yield)\b", code) is not None,
                }
            )
    return rows


if __name__ == "__main__":
    main()
