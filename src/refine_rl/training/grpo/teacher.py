"""On-policy distillation: a teacher says how likely it would have written what the policy wrote.

The policy mu answers; p is the teacher's probability of each of its tokens, behind what stands before it. The
token's advantage is

    A = sg(log p - log mu)      (sg: no gradient through it),

whose mean over tokens of mu is -KL(mu || p) at each place: the policy gradient follows the reverse KL, on
what the policy itself writes (Agarwal et al. 2023, arXiv 2306.13649, with lambda = 1 and the reverse KL; Lu
and Thinking Machines Lab 2025, "On-Policy Distillation"). A token answers for itself alone, not for what its
followers make of it (their discount 0). Where rewards count as well, with w the teacher's share,

    A = (1 - w) A_reward + w sg(log p - log mu).

The sampled token alone is asked for, not the whole distribution: an endpoint that gives log-probs of a prompt
is teacher enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from refine_rl.policy.protocol import Speaker
from refine_rl.progress import Pause, never
from refine_rl.training.grpo.advantages import Scored
from refine_rl.training.reference import logprobs_of
from refine_rl.training.rows import sampled_logprobs
from refine_rl.types import Taught, Trajectory

Teach = Callable[[Sequence[Scored]], "Sequence[tuple[Taught | None, ...]] | None"]
"""Scored groups -> what a teacher makes of each member (None: nothing); None where there is none."""


class Teacher(Protocol):
    """A model that says how likely it would have written an answer."""

    def begin(self, trajectories: Sequence[Trajectory]) -> None:
        """These are going to be asked for: what can be done by now is done or begun."""

    def of(self, trajectories: Sequence[Trajectory], pause: Pause = never) -> list[tuple[float, ...]]:
        """The log-probs of each trajectory's sampled tokens. From any thread."""

    def let_go(self, trajectories: Sequence[Trajectory]) -> None:
        """They are asked for no more."""

    def close(self) -> None:
        """Lets go of whoever computes; it may be called twice."""


@dataclass(kw_only=True)
class LocalTeacher:
    """A model in this process. It computes in the thread that begins, a group at a time, so that what it says
    of a group does not depend on what else is asked. `tokens` go through it at once."""

    speaker: Speaker
    tokens: int
    _known: dict[int, tuple[Trajectory, tuple[float, ...]]] = field(default_factory=dict)

    def begin(self, trajectories: Sequence[Trajectory]) -> None:
        new = [t for t in trajectories if id(t) not in self._known]
        if not new:
            return
        # Numbered: among answers to be compared, two may be the same member of their prompt's.
        each = [replace(t, member=n) for n, t in enumerate(new)]
        found = logprobs_of(self.speaker, each, temperature=1.0, tokens=self.tokens)
        # The trajectory is kept beside, so that no other one gets its id.
        self._known |= {id(t): (t, found[t.prompt_id, n]) for n, t in enumerate(new)}

    def of(self, trajectories: Sequence[Trajectory], pause: Pause = never) -> list[tuple[float, ...]]:
        self.begin(trajectories)
        return [self._known[id(t)][1] for t in trajectories]

    def let_go(self, trajectories: Sequence[Trajectory]) -> None:
        for t in trajectories:
            self._known.pop(id(t), None)

    def close(self) -> None:
        """Nothing is held but memory."""


def lessons(
    teacher: Teacher, groups: Sequence[Sequence[Trajectory]], pause: Pause = never
) -> list[tuple[Taught, ...]]:
    """What a teacher makes of each member: all groups are begun before any is waited for."""
    for group in groups:
        teacher.begin(group)
    found = []
    for group in groups:
        found.append(tuple(Taught(logprobs=its) for its in teacher.of(group, pause)))
        teacher.let_go(group)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Lessons:
    """What training asks of a teacher, once a step."""

    teacher: Teacher
    pause: Pause = never

    def __call__(self, scored: Sequence[Scored]) -> list[tuple[Taught, ...]]:
        """See `Teach`."""
        return lessons(self.teacher, [group for _, group, _ in scored], self.pause)


def apart(trajectory: Trajectory, taught: Taught | None) -> list[float]:
    """log mu - log p of each sampled token: estimates of the reverse KL, which may be below 0. None without a
    teacher."""
    if taught is None:
        return []
    return [mu - p for mu, p in zip(sampled_logprobs(trajectory), taught.logprobs, strict=True)]


def token_advantages(
    advantages_B: torch.Tensor,
    taught_B_T: torch.Tensor,
    old_B_T: torch.Tensor,
    share: float,
    taught_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """The advantage of each token, [B, T], without gradient. All rows have a teacher, or those of `taught_B`;
    the others keep their own advantage. Of no account where nothing was sampled.

    >>> token_advantages(torch.tensor([2.0]), torch.tensor([[-1.0, -3.0]]), torch.tensor([[-2.0, -2.0]]), 0.5)
    tensor([[1.5000, 0.5000]])
    """
    found = (1 - share) * advantages_B[:, None] + share * (taught_B_T - old_B_T)
    return found if taught_B is None else torch.where(taught_B[:, None], found, advantages_B[:, None])
