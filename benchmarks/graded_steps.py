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

import inspect
import itertools
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from arrows import Benchmark, follow, main, sides

from refine_rl.run import RunFolder
from refine_rl.types import Outcome

TAUGHT, ASKED = (2, 3), (8, 9)  # arrows of a way
UPDATES = 120
WAYS: dict[str, tuple[str, ...]] = {
    '`flat = "keep"`': (),
    "`resample = 8`": ("grpo.resample=8",),
    '`flat = "steps"`': (
        "grpo.flat=steps",
        "grpo.solved=1.0",
        'reward.steps={function="rewards.py:right_step"}',
    ),
    "`partial credit`": ('reward.functions=["rewards.py:right_share"]',),
}
NEVER = 999  # steps without any spread are what this is about: no guard stops there


# These three are written into the task's rewards.py as they stand here.
def right(completion: str, way: list[str]) -> float:
    return float(right_share(completion, way) == 1.0)


def right_share(completion: str, way: list[str]) -> float:
    """The share of right lines before the first wrong one, of as many as there are or should be."""
    lines = completion.split("\n")
    wrong = (n for n, line in enumerate(lines) if not right_step(line, lines[:n], way))
    return next(wrong, len(lines)) / max(len(lines), len(way))


def right_step(completion: str, earlier_steps: list[str], way: list[str]) -> bool:
    """The next arrow of the way, or at its end the answer."""
    here = len(earlier_steps)
    if here + 1 < len(way):
        return completion == f"{way[here]} {way[here + 1]}"
    return here + 1 == len(way) and completion == f"answer {way[-1]}"


def question(rng: random.Random, arrows: Sequence[int]) -> tuple[str, list[str]]:
    """What is asked, and the letters of the way."""
    way = rng.sample(string.ascii_lowercase, rng.choice(arrows) + 1)
    return follow(way, rng), way


def example(rng: random.Random) -> tuple[str, str]:
    asked, way = question(rng, TAUGHT)
    return asked, "\n".join([*(f"{a} {b}" for a, b in itertools.pairwise(way)), f"answer {way[-1]}"])


def prompts() -> list[dict[str, str | list[str]]]:
    rng = random.Random("prompts")
    asked = dict(question(rng, ASKED) for _ in range(400))
    return [{"prompt": text, "way": way} for text, way in asked.items()]


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One model on the held-out prompts."""

    right: float
    greedy: float
    steps: float


def look(outcomes: Sequence[Outcome]) -> Side:
    sampled = [right_share(t.completion, o.prompt.data["way"]) for o in outcomes for t, _ in o.sampled]
    greedy = [right_share(o.greedy[0].completion, o.prompt.data["way"]) for o in outcomes]
    return Side(
        right=fmean(share == 1 for share in sampled),
        greedy=fmean(share == 1 for share in greedy),
        steps=fmean(sampled),
    )


def row(run: RunFolder) -> list[str]:
    base, tuned = map(look, sides(run))
    metrics = run.metrics()
    taught = sum(m["groups"] - m["groups_zero_variance"] + m["groups_by_steps"] for m in metrics)
    return [
        f"{base.right:.2f} -> {tuned.right:.2f}",
        f"{base.greedy:.2f} -> {tuned.greedy:.2f}",
        f"{base.steps:.2f} -> {tuned.steps:.2f}",
        f"{taught / sum(m['groups'] for m in metrics):.0%}",
    ]


if __name__ == "__main__":
    main(
        Benchmark(
            about=__doc__,
            steps=30,
            updates=UPDATES,
            example=example,
            prompts=prompts(),
            rewards="\n\n".join(inspect.getsource(f) for f in (right, right_share, right_step)),
            max_tokens=72,
            sets=(f"grpo.zero_variance_patience={NEVER}",),
            ways=WAYS,
            heads=(
                "groups of equal rewards",
                "seed",
                "right",
                "right, greedy",
                "right steps",
                "groups that taught",
            ),
            row=row,
        )
    )
