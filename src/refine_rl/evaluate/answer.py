"""A model's answers to a set of prompts, and their scores: the raw material of every comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refine_rl.envs.play import sample
from refine_rl.envs.stage import Stage
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Purpose, Speaker
from refine_rl.progress import Counted, Pause, never, uncounted
from refine_rl.types import Outcome, Prompt, Score, Trajectory

ScoreGroups = Callable[[Sequence[Prompt], Sequence[Sequence[Trajectory]]], list[list[Score]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """One prompt's answers. Where no greedy one was asked for, the first sampled one stands in for it."""

    prompt: Prompt
    sampled: tuple[Trajectory, ...]
    greedy: Trajectory

    @property
    def all(self) -> tuple[Trajectory, ...]:
        """Every answer, the greedy one last where it is one of its own."""
        return self.sampled if self.greedy == self.sampled[0] else (*self.sampled, self.greedy)


def answer(
    speaker: Speaker,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    max_tokens: int,
    purpose: Purpose,
    greedy: bool = True,
    stage: Stage | None = None,
    pause: Pause = never,
    counted: Counted = uncounted,
) -> list[Answers]:
    """For each prompt `samples` answers drawn at temperature 1 from the whole distribution, and the
    greedy one; or trajectories in the environments of a `stage`. `counted` hears of the answers that are
    there.

    Base and tuned are asked with the same `purpose`, so both meet the same random draws; what remains
    between them is the difference of the policies.
    """

    def drawn(members: int, temperature: float, before: int = 0) -> list[tuple[Trajectory, ...]]:
        return sample(
            speaker,
            prompts,
            members=members,
            sampling=Sampling(max_tokens=max_tokens, temperature=temperature),
            purpose=purpose,
            stage=stage,
            pause=pause,
            counted=lambda done, of: counted(before + members * done, of * (samples + greedy)),
        )

    sampled = drawn(samples, 1.0)
    best = drawn(1, 0.0, samples * len(prompts)) if greedy else sampled
    return [
        Answers(prompt=prompt, sampled=group, greedy=one[0])
        for prompt, group, one in zip(prompts, sampled, best, strict=True)
    ]


def scored(sides: Sequence[Sequence[Answers]], score: ScoreGroups) -> list[list[Outcome]]:
    """The outcomes of one or more sides that answered the same prompts, a prompt's answers of all sides
    scored in one group. A judge of groups sees them together and does not learn which side is which."""
    prompts = [a.prompt for a in sides[0]]
    beside = list(zip(*sides, strict=True))
    scores = score(prompts, [[t for a in answers for t in a.all] for answers in beside])
    outcomes: list[list[Outcome]] = [[] for _ in sides]
    for answers, group_scores in zip(beside, scores, strict=True):
        start = 0
        for side, a in enumerate(answers):
            its = group_scores[start : start + len(a.all)]
            start += len(a.all)
            outcomes[side].append(
                Outcome(
                    prompt=a.prompt,
                    sampled=tuple(zip(a.sampled, its[: len(a.sampled)], strict=True)),
                    greedy=(a.greedy, its[0] if len(its) == len(a.sampled) else its[-1]),
                )
            )
    return outcomes


def unscored(answers: Sequence[Answers]) -> list[Outcome]:
    """Outcomes whose scores are still missing, because they are to be given beside another side's."""
    score = Score.missing("not scored yet: it will be beside the tuned model's answer")
    return [
        Outcome(prompt=a.prompt, sampled=tuple((t, score) for t in a.sampled), greedy=(a.greedy, score))
        for a in answers
    ]


def answers_of(outcomes: Sequence[Outcome]) -> list[Answers]:
    """The answers of outcomes, without their scores."""
    return [
        Answers(prompt=o.prompt, sampled=tuple(t for t, _ in o.sampled), greedy=o.greedy[0]) for o in outcomes
    ]
