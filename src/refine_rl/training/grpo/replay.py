"""Answers of earlier steps, learned from once more.

An answer with an advantage above 0 is scarce and was paid for. For the `steps` after its own it enters the
update again, token by token, with

    -sg(min(pi / mu, MOST)) A log pi      (sg: no gradient through it),

mu being the policy that sampled it: the policy gradient of old answers, its importance weights cut (the form
of CISPO, arXiv 2506.13585, without a lower bound). A is that of its own step. Answers below their group's
mean do not come back: what they pushed away is rare by now, and pushing further has no bound.

A step that is made again finds the same answers, as the record has their tokens and log-probs exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from refine_rl.types import Group, Trajectory

MOST = 2.0

Recorded = Callable[[int], "Sequence[Group] | None"]
"""step -> its groups, where an earlier process made them."""

Again = tuple[int, Trajectory, float]
"""The step of an answer, the answer, and its advantage."""


@dataclass(kw_only=True)
class Replay:
    """The groups of the last `steps`. `recorded` gives those of a step that an earlier process made."""

    steps: int
    recorded: Recorded
    _kept: dict[int, Sequence[Group]] = field(default_factory=dict)

    def __call__(self, groups: Sequence[Group], step: int) -> list[Again]:
        """What enters the update of `step` again; its own `groups` are kept for those after it."""
        self._kept = {s: own for s, own in self._kept.items() if s >= step - self.steps} | {step: groups}
        return [
            (earlier, trajectory, advantage)
            for earlier in range(max(1, step - self.steps), step)
            for group in self._of(earlier)
            for trajectory, advantage in zip(group.trajectories, group.advantages, strict=True)
            if advantage is not None and advantage > 0
        ]

    def _of(self, step: int) -> Sequence[Group]:
        if step not in self._kept:
            self._kept[step] = self.recorded(step) or ()
        return self._kept[step]


def replayed(
    new_B_T: torch.Tensor, old_B_T: torch.Tensor, advantage_B_1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each token [B, T], and whether its weight was cut.

    >>> from math import log
    >>> new = torch.tensor([[log(0.6), log(0.2)]])
    >>> loss, cut = replayed(new, torch.tensor([[log(0.2), log(0.4)]]), torch.tensor([[1.0]]))
    >>> [round(x, 4) for x in loss[0].tolist()], cut.tolist()  # 2 log 0.6, log(0.2) / 2
    ([1.0217, 0.8047], [[True, False]])
    """
    ratio = torch.exp(new_B_T.detach() - old_B_T)
    return -ratio.clamp(max=MOST) * advantage_B_1 * new_B_T, ratio > MOST
