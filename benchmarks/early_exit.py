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

import json
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from arrows import Benchmark, follow, main, sides
from teaching import TINY
from transformers import AutoTokenizer

from refine_rl.run import RunFolder
from refine_rl.types import Outcome, Trajectory

ENDS = "\nanswer"
PASSES, OFTEN = (1, 2, 3, 4, 5), (1, 2, 3, 2, 2)  # how often a teaching text says the way, and its weight
UPDATES = 80  # of teaching: enough for mostly right answers, with something left to win
WAYS: dict[str, tuple[str, ...]] = {
    "GRPO": (),
    "S-GRPO": (f"rollout.early_exit={{ends={json.dumps(ENDS)}, answer_tokens=6}}",),
}
REWARD = """def right(completion, answer):
    return float(completion.partition("\\nanswer")[2].strip() == answer)
"""


def question(rng: random.Random) -> tuple[str, list[str]]:
    """What is asked, and the way from the first letter to the last."""
    letters = rng.sample(string.ascii_lowercase, rng.randint(4, 5) + 2)
    way, apart = letters[:-2], letters[-2:]
    return follow(way, rng, apart=apart), way


def example(rng: random.Random) -> tuple[str, str]:
    asked, way = question(rng)
    times = rng.choices(PASSES, OFTEN)[0]
    return asked, "\n".join(["go " + " ".join(way)] * times) + f"{ENDS} {way[-1]}"


def prompts() -> list[dict[str, str]]:
    rng = random.Random("prompts")
    asked = dict(question(rng) for _ in range(400))
    return [{"prompt": text, "answer": way[-1]} for text, way in asked.items()]


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


def row(run: RunFolder) -> list[str]:
    base, tuned = map(look, sides(run))
    return [
        f"{base.right:.2f} -> {tuned.right:.2f}",
        f"{base.thought:.1f} -> {tuned.thought:.1f}",
        f"{base.right_greedy:.2f} -> {tuned.right_greedy:.2f}",
        f"{base.thought_greedy:.1f} -> {tuned.thought_greedy:.1f}",
    ]


if __name__ == "__main__":
    main(
        Benchmark(
            about=__doc__,
            steps=20,
            updates=UPDATES,
            example=example,
            prompts=prompts(),
            rewards=REWARD,
            max_tokens=64,
            ways=WAYS,
            heads=("way", "seed", "right", "thought, tokens", "right, greedy", "thought, greedy"),
            row=row,
        )
    )
