"""The log-probs of a step's answers under a model: the untrained one, or the trainer of this moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from refine_rl.policy.protocol import Speaker
from refine_rl.policy.tokens import token_batch
from refine_rl.training.lanes import in_lanes, lanes_of
from refine_rl.training.rows import MemberKey, micro_batches
from refine_rl.types import Trajectory


@dataclass(kw_only=True)
class References:
    """Asked for once, and kept until others are asked for: a step's advantages and its loss may both need
    them. `tokens` go through the model at once."""

    speaker: Speaker
    temperature: float
    tokens: int
    _known: dict[MemberKey, tuple[Trajectory, tuple[float, ...]]] = field(default_factory=dict)

    @property
    def at_hand(self) -> bool:
        """Whether they cost no second model."""
        return self.speaker.has_reference

    def of(self, trajectories: Sequence[Trajectory]) -> dict[MemberKey, tuple[float, ...]]:
        """The reference's log-probs of each trajectory's sampled tokens."""
        keys = [(t.prompt_id, t.member) for t in trajectories]
        pairs = zip(keys, trajectories, strict=True)
        if not all(key in self._known and self._known[key][0] is t for key, t in pairs):
            found = self._computed(trajectories)
            self._known = {key: (t, found[key]) for key, t in zip(keys, trajectories, strict=True)}
        return {key: self._known[key][1] for key in keys}

    def _computed(self, trajectories: Sequence[Trajectory]) -> dict[MemberKey, tuple[float, ...]]:
        with self.speaker.reference() as reference:
            return logprobs_of(reference, trajectories, temperature=self.temperature, tokens=self.tokens)


@torch.no_grad()
def logprobs_of(
    speaker: Speaker, trajectories: Sequence[Trajectory], *, temperature: float, tokens: int
) -> dict[MemberKey, tuple[float, ...]]:
    """The speaker's log-probs of each trajectory's sampled tokens; `tokens` go through it at once."""
    found: dict[MemberKey, tuple[float, ...]] = {}
    lanes = lanes_of(speaker)
    chunks = list(micro_batches(trajectories, tokens, packed=speaker.shares_prompts, lanes=lanes))

    def work(n: int, lane: int) -> None:
        some = [trajectories[i] for i in chunks[n]]
        batch = token_batch(some)
        values = speaker.logprobs(batch, temperature=temperature).cpu()
        for row, t in enumerate(some):
            found[t.prompt_id, t.member] = tuple(values[row][batch.trainable[row]].tolist())

    in_lanes(work, len(chunks), lanes)
    return found
