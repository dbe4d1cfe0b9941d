"""A model's answers to a set of prompts, scored: the raw material of every comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from refine_rl.policy.policy import Policy
from refine_rl.policy.sample import Purpose, Sampling, sample
from refine_rl.types import Outcome, Prompt, Score, Trajectory

ScoreGroups = Callable[[Sequence[Prompt], Sequence[Sequence[Trajectory]]], list[list[Score]]]


def answer(
    policy: Policy,
    prompts: Sequence[Prompt],
    score: ScoreGroups,
    *,
    samples: int,
    max_tokens: int,
    purpose: Purpose,
    greedy: bool = True,
    pause: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """For each prompt `samples` answers drawn at temperature 1 from the whole distribution, and the
    greedy one.

    Base and tuned are asked with the same `purpose`, so both meet the same random draws; what remains
    between them is the difference of the policies. Without `greedy` the first sampled answer stands in
    for the greedy one.
    """
    sampled = sample(
        policy,
        prompts,
        members=samples,
        sampling=Sampling(max_tokens=max_tokens),
        purpose=purpose,
        pause=pause,
    )
    best = (
        sample(
            policy,
            prompts,
            members=1,
            sampling=Sampling(max_tokens=max_tokens, temperature=0.0),
            purpose=purpose,
            pause=pause,
        )
        if greedy
        else [() for _ in sampled]
    )
    scores = score(prompts, [(*group, *one) for group, one in zip(sampled, best, strict=True)])
    return [
        Outcome(
            prompt=prompt,
            sampled=tuple(zip(group, group_scores[:samples], strict=True)),
            greedy=(one[0], group_scores[-1]) if greedy else (group[0], group_scores[0]),
        )
        for prompt, group, one, group_scores in zip(prompts, sampled, best, scores, strict=True)
    ]
