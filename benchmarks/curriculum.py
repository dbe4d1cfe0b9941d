"""Prompts of all difficulties: each in its turn, with rests, or drawn by what they promise.

    python benchmarks/curriculum.py [--seeds 3] [--steps 40] [--rate 2e-4] [--ways WAY ...] [--model FOLDER]
                                    [--keep FOLDER]

The task is that of graded_steps.py: follow arrows, a line for each, and say where the way ends. The bundled
model is taught on ways of which every further arrow is rarer (next-token loss; `--model` takes one that was
taught before, `--keep` keeps it) and asked for ways of 1 to 16 arrows, as many prompts of each: the short
ones it gets right always, the long ones never. An answer is right where every line is; the reward is 1 or
0. Then `refine train` goes on from it, each run in a process of its own, with each value of `prompts.pool`,
as a curriculum once more with 24 steps only, and once more without the facet that says how long a way is.

Of each run: the share of groups whose rewards were all equal (of the whole run, and of its second half); the
share of right answers to 96 validation prompts at the start, halfway and at the end; the same share on the
128 held-out prompts, base and tuned (the checkpoint that validation chose), with the interval of their
difference; and how many training prompts were used.
"""

from __future__ import annotations

import inspect
import itertools
import random
import string
from collections.abc import Sequence
from typing import Any

from arrows import Benchmark, follow, main

from refine_rl.run import RunFolder

ARROWS = range(1, 17)  # of a way
UPDATES = 100
EACH = 32  # prompts of a length
RARER = 0.4  # than a way of one arrow less, in teaching
WAYS: dict[str, tuple[str, ...]] = {
    "`all`": (),
    "`curriculum`": ("prompts.pool=curriculum",),
    "`curriculum`, 24 steps": ("prompts.pool=curriculum", "grpo.steps=24"),
    "`curriculum`, no facets": ("prompts.pool=curriculum", "prompts.source=file:plain.jsonl"),
    "`informative`": ("prompts.pool=informative",),
}


# Written into the task's rewards.py as it stands here.
def right(completion: str, way: list[str]) -> float:
    arrows = [f"{way[place]} {way[place + 1]}" for place in range(len(way) - 1)]
    return float(completion == "\n".join([*arrows, f"answer {way[-1]}"]))


def question(rng: random.Random, arrows: int) -> tuple[str, list[str]]:
    """What is asked, and the letters of the way."""
    way = rng.sample(string.ascii_lowercase, arrows + 1)
    return follow(way, rng), way


def example(rng: random.Random) -> tuple[str, str]:
    asked, way = question(rng, rng.choices(ARROWS, [RARER**n for n in ARROWS])[0])
    return asked, "\n".join([*(f"{a} {b}" for a, b in itertools.pairwise(way)), f"answer {way[-1]}"])


def prompts() -> list[dict[str, Any]]:
    rng = random.Random("prompts")
    found: list[dict[str, Any]] = []
    for arrows in ARROWS:
        asked = dict(question(rng, arrows) for _ in range(EACH))
        found += [{"prompt": t, "way": w, "facets": {"arrows": str(arrows)}} for t, w in asked.items()]
    return found


def row(run: RunFolder) -> list[str]:
    metrics, looks = run.metrics(), [(v["step"], v["reward"]["mean"]) for v in run.validation.lines()]
    half = [reward for step, reward in looks if step <= metrics[-1]["step"] / 2][-1]
    comparison = run.comparison()
    assert comparison is not None
    assert comparison.reward is not None
    base, tuned, (low, high) = comparison.base, comparison.tuned, comparison.reward.difference.ci95
    assert tuned is not None
    return [
        f"{_wasted(metrics):.0%}",
        f"{_wasted(metrics[len(metrics) // 2 :]):.0%}",
        f"{looks[0][1]:.2f} -> {half:.2f} -> {looks[-1][1]:.2f}",
        f"{base.mean:.2f} -> {tuned.mean:.2f} [{low:+.2f}, {high:+.2f}]",
        str(len({g["prompt_id"] for g in run.groups.lines()})),
    ]


def _wasted(metrics: Sequence[dict[str, Any]]) -> float:
    """The share of groups whose rewards were all equal."""
    return sum(m["groups_zero_variance"] for m in metrics) / sum(m["groups"] for m in metrics)


if __name__ == "__main__":
    main(
        Benchmark(
            about=__doc__,
            steps=40,
            rate="2e-4",
            updates=UPDATES,
            example=example,
            prompts=prompts(),
            others={"plain.jsonl": [{**p, "facets": {}} for p in prompts()]},
            rewards=inspect.getsource(right),
            max_tokens=96,
            sets=(
                "prompts.validation=96",
                "prompts.held_out=128",
                "grpo.validate_every=5",
                "grpo.zero_variance_patience=999",
                "rollout.group_size=8",
            ),
            ways=WAYS,
            heads=(
                "pool",
                "seed",
                "wasted",
                "second half",
                "validation",
                "held out",
                "prompts seen",
            ),
            row=row,
        )
    )
