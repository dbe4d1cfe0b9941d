"""Short thoughts: GRPO and S-GRPO on a small reasoning task that the bundled model is first taught.

    python benchmarks/early_exit.py [--seeds 3] [--steps 20] [--model FOLDER] [--keep FOLDER]

The task is to follow arrows: `Follow: t b, k r, b k, m s. From t.` ends at r. The thought says the way, and
the teaching texts say it again and again, one to five times, before they answer: what a model does that was
paid for right answers alone. The bundled model learns this from such texts (80 updates, next-token loss;
`--model` takes one that was taught before, `--keep` keeps it). Then `refine train` goes on from it, each run
in a process of its own, in two ways that differ in `[rollout.early_exit]` and in nothing else. Figures are
those of 64 held-out prompts: share of right answers and tokens of the thought, sampled and greedy.
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

from teaching import TINY, teach
from transformers import AutoTokenizer

from refine_rl.runs import RunFolder
from refine_rl.types import Outcome, Trajectory

ENDS = "\nanswer"
PASSES, OFTEN = (1, 2, 3, 4, 5), (1, 2, 3, 2, 2)  # how often a teaching text says the way, and its weight
UPDATES = 80  # of teaching: enough for mostly right answers, with something left to win
WAYS: dict[str, tuple[str, ...]] = {
    "GRPO": (),
    "S-GRPO": (f"rollout.early_exit={{ends={json.dumps(ENDS)}, answer_tokens=6}}",),
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
max_tokens = 64
[grpo]
prompts_per_step = 8
advantage = "mean"
learning_rate = 5e-5
loss = "dapo"
validate_every = 0
"""
REWARD = """def right(completion, answer):
    return float(completion.partition("\\nanswer")[2].strip() == answer)
"""


def question(rng: random.Random) -> tuple[str, list[str]]:
    """What is asked, and the way from the first letter to the last."""
    letters = rng.sample(string.ascii_lowercase, rng.randint(4, 5) + 2)
    way, apart = letters[:-2], letters[-2:]
    arrows = [f"{a} {b}" for a, b in itertools.pairwise(way)] + [" ".join(apart)]
    rng.shuffle(arrows)
    return f"Follow: {', '.join(arrows)}. From {way[0]}.", way


def taught_answer(way: Sequence[str], rng: random.Random) -> str:
    times = rng.choices(PASSES, OFTEN)[0]
    return "\n".join(["go " + " ".join(way)] * times) + f"{ENDS} {way[-1]}"


def example(rng: random.Random) -> tuple[str, str]:
    asked, way = question(rng)
    return asked, taught_answer(way, rng)


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One model on the held-out prompts; the thought in tokens."""

    right: float
    thought: float
    right_greedy: float
    thought_greedy: float


def look(outcomes: Sequence[Outcome]) -> Side:
    tokenizer = AutoTokenizer.from_pretrained(TINY)

    def thought(t: Trajectory) -> int:
        text = t.completion.partition(ENDS)[0]
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    sampled = [pair for o in outcomes for pair in o.sampled]
    greedy = [o.greedy for o in outcomes]
    return Side(
        right=fmean(s.value or 0.0 for _, s in sampled),
        thought=fmean(thought(t) for t, _ in sampled),
        right_greedy=fmean(s.value or 0.0 for _, s in greedy),
        thought_greedy=fmean(thought(t) for t, _ in greedy),
    )


def train(folder: Path, seed: int, sets: Sequence[str]) -> tuple[Side, Side]:
    """Base and tuned."""
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
        return look(base), look(tuned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
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
        write_task(folder, model)
        cells = ["way", "seed", "right", "thought, tokens", "right, greedy", "thought, greedy"]
        print("| " + " | ".join(cells) + " |\n|" + "---|" * len(cells), flush=True)
        for name, sets in WAYS.items():
            for seed in range(a.seeds):
                base, tuned = train(folder, seed, (f"grpo.steps={a.steps}", *sets))
                cells = [
                    f"{name} | {seed} | {base.right:.2f} -> {tuned.right:.2f}",
                    f"{base.thought:.1f} -> {tuned.thought:.1f}",
                    f"{base.right_greedy:.2f} -> {tuned.right_greedy:.2f}",
                    f"{base.thought_greedy:.1f} -> {tuned.thought_greedy:.1f}",
                ]
                print("| " + " | ".join(cells) + " |", flush=True)


def write_task(folder: Path, model: Path) -> None:
    """A task folder for `refine train`."""
    rng = random.Random("prompts")
    asked = dict(question(rng) for _ in range(400))
    lines = [json.dumps({"prompt": text, "answer": way[-1]}) + "\n" for text, way in asked.items()]
    (folder / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "rewards.py").write_text(REWARD, encoding="utf-8")
    task = TASK.format(model=json.dumps(str(model.resolve())))
    (folder / "task.toml").write_text(task, encoding="utf-8")


if __name__ == "__main__":
    main()
