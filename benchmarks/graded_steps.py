"""Wrong answers that still teach: all-wrong groups kept, replaced, or graded by steps.

    python benchmarks/graded_steps.py [--seeds 3] [--steps 30] [--model FOLDER] [--keep FOLDER]

The task is to follow arrows, a line for each, and to say where the way ends:

    Follow: k r, t b, r m, b k. From t.        t b / b k / k r / r m / answer m

The bundled model is taught on ways of two and three arrows (next-token loss; `--model` takes one that was
taught before, `--keep` keeps it) and asked for ways of eight and nine, of which it gets hardly any right. An
answer is right where every line is. Then `refine train` goes on from it, each run in a process of its own, in
ways that differ in what becomes of groups whose rewards are all equal; and in a fourth, whose reward is the
share of right lines itself. Figures are those of 64 held-out prompts: the share of right answers, sampled and
greedy, and of the right lines before the first wrong one; and the share of groups that had any advantage.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from teaching import teach

from refine_rl.runs import RunFolder
from refine_rl.types import Outcome

TAUGHT, ASKED = (2, 3), (8, 9)  # arrows of a way
UPDATES = 120
WAYS: dict[str, tuple[str, ...]] = {
    'flat = "keep"': (),
    "resample = 8": ("grpo.resample=8",),
    'flat = "steps"': (
        "grpo.flat=steps",
        "grpo.solved=1.0",
        'reward.steps={function="rewards.py:right_step"}',
    ),
    "partial credit": ('reward.functions=["rewards.py:right_share"]',),
}
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
max_tokens = 72
[grpo]
prompts_per_step = 8
advantage = "mean"
learning_rate = 5e-5
loss = "dapo"
validate_every = 0
zero_variance_patience = 999
"""
REWARDS = '''def right(completion, way):
    return float(right_share(completion, way) == 1.0)


def right_share(completion, way):
    lines = completion.split("\\n")
    wrong = (n for n, line in enumerate(lines) if not right_step(line, lines[:n], way))
    return next(wrong, len(lines)) / max(len(lines), len(way))


def right_step(completion, earlier_steps, way):
    """The next arrow of the way, or at its end the answer."""
    here = len(earlier_steps)
    if here + 1 < len(way):
        return completion == f"{way[here]} {way[here + 1]}"
    return here + 1 == len(way) and completion == f"answer {way[-1]}"
'''


def question(rng: random.Random, arrows: Sequence[int]) -> tuple[str, list[str]]:
    """What is asked, and the letters of the way."""
    way = rng.sample(string.ascii_lowercase, rng.choice(arrows) + 1)
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(way)]
    rng.shuffle(pairs)
    return f"Follow: {', '.join(pairs)}. From {way[0]}.", way


def answer(way: Sequence[str]) -> str:
    return "\n".join([*(f"{a} {b}" for a, b in itertools.pairwise(way)), f"answer {way[-1]}"])


def example(rng: random.Random) -> tuple[str, str]:
    asked, way = question(rng, TAUGHT)
    return asked, answer(way)


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One model on the held-out prompts."""

    right: float
    greedy: float
    steps: float


def look(outcomes: Sequence[Outcome], ways: dict[str, list[str]]) -> Side:
    sampled = [right_steps(t.completion, ways[o.prompt.text]) for o in outcomes for t, _ in o.sampled]
    greedy = [right_steps(o.greedy[0].completion, ways[o.prompt.text]) for o in outcomes]
    return Side(
        right=fmean(share == 1 for share in sampled),
        greedy=fmean(share == 1 for share in greedy),
        steps=fmean(sampled),
    )


def right_steps(text: str, way: Sequence[str]) -> float:
    """The share of right lines before the first wrong one, of as many as there are or should be."""
    said, wanted = text.split("\n"), answer(way).split("\n")
    right = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(said, wanted, strict=False))
    return len(list(right)) / max(len(said), len(wanted))


def train(
    folder: Path, seed: int, sets: Sequence[str], ways: dict[str, list[str]]
) -> tuple[Side, Side, float]:
    """Base, tuned, and the share of the groups that moved the weights."""
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        command = [sys.executable, "-m", "refine_rl", "train", str(folder / "task.toml"), "--run", str(run)]
        for one in (f"grpo.seed={seed}", *sets):
            command += ["--set", one]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        record = RunFolder.open(run)
        base, tuned = record.outcomes("base"), record.outcomes("tuned")
        assert base is not None
        assert tuned is not None
        metrics = record.metrics()
        taught = sum(m["groups"] - m["groups_zero_variance"] + m["groups_by_steps"] for m in metrics)
        return look(base, ways), look(tuned, ways), taught / sum(m["groups"] for m in metrics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--model", type=Path, help="a model that was taught before")
    parser.add_argument("--keep", type=Path, help="where the taught model is kept")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = a.model or a.keep or folder / "taught"
        if a.model is None:
            began = time.perf_counter()
            teach(model, example, updates=UPDATES)
            print(f"taught in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        ways = write_task(folder, model)
        cells = [
            "groups of equal rewards",
            "seed",
            "right",
            "right, greedy",
            "right steps",
            "groups that taught",
        ]
        print("| " + " | ".join(cells) + " |\n|" + "---|" * len(cells), flush=True)
        for name, sets in WAYS.items():
            for seed in range(a.seeds):
                base, tuned, taught = train(folder, seed, (f"grpo.steps={a.steps}", *sets), ways)
                cells = [
                    f"`{name}` | {seed} | {base.right:.2f} -> {tuned.right:.2f}",
                    f"{base.greedy:.2f} -> {tuned.greedy:.2f}",
                    f"{base.steps:.2f} -> {tuned.steps:.2f}",
                    f"{taught:.0%}",
                ]
                print("| " + " | ".join(cells) + " |", flush=True)


def write_task(folder: Path, model: Path) -> dict[str, list[str]]:
    """A task folder for `refine train`; returns the ways by what is asked."""
    rng = random.Random("prompts")
    ways = dict(question(rng, ASKED) for _ in range(400))
    lines = [json.dumps({"prompt": text, "way": way}) + "\n" for text, way in ways.items()]
    (folder / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "rewards.py").write_text(REWARDS, encoding="utf-8")
    task = TASK.format(model=json.dumps(str(model.resolve())))
    (folder / "task.toml").write_text(task, encoding="utf-8")
    return ways


if __name__ == "__main__":
    main()
