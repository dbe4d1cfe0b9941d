"""The component `nearness`: how near an answer is to what a teacher would have written, where nothing else
says what is good."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from refine_rl.types import Prompt, Score, Trajectory

NEARNESS = "nearness"
"""Its name in breakdowns."""

SUCCESS = -0.1
"""Nats a token from which an answer counts as one of the teacher's own."""

Ask = Callable[[Sequence[Trajectory]], Sequence[Sequence[float]]]
"""Trajectories -> the teacher's log-probs of their sampled tokens."""

_teacher: ContextVar[Ask | None] = ContextVar("refine_teacher", default=None)


@contextmanager
def taught_by(ask: Ask | None) -> Iterator[None]:
    """Whom `Nearness` asks while scoring is begun inside."""
    token = _teacher.set(ask)
    try:
        yield
    finally:
        _teacher.reset(token)


@dataclass(frozen=True, kw_only=True, slots=True)
class Nearness:
    """The mean over an answer's tokens of log p - log mu, p the teacher's probability and mu the policy's:
    its mean over answers estimates minus the KL of policy to teacher, in nats a token, so that 0 is the best
    that can be had on average."""

    name: str = NEARNESS

    def check_prompt(self, prompt: Prompt) -> None: ...

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        ask = _teacher.get()
        if ask is None or not all(t.completion_tokens for t in trajectories):
            why = "nearness to a teacher is measured on tokens that a model sampled, with the teacher at hand"
            return [Score.missing(why)] * len(trajectories)
        given = await asyncio.to_thread(ask, trajectories)
        return [near(t, its) for t, its in zip(trajectories, given, strict=True)]


def near(trajectory: Trajectory, logprobs: Sequence[float]) -> Score:
    """
    >>> from refine_rl.types import Segment
    >>> said = Segment(token_ids=(7, 8), trainable=True, logprobs=(-1.0, -2.0))
    >>> t = Trajectory(prompt_id="p", member=0, messages=(), segments=(said,), stop_reason="stop")
    >>> near(t, [-1.5, -2.5]).value
    -0.5
    """
    own = [x for s in trajectory.segments for x in s.logprobs]
    value = math.fsum(p - mu for p, mu in zip(logprobs, own, strict=True)) / len(own)
    return Score(value=value, explanation=f"{value:.4g} nats a token to the teacher")
