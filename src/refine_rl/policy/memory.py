"""Keys and values kept between the turns of trajectories, so that only what is new goes through the model.

A prompt's stand once for all members of its group; each member has its own behind it. What is kept is that of
one play: whoever does not go on in the next turn is forgotten, and everything is once the weights have moved.
What is not there, for whatever reason, is computed anew: memory changes what it costs, never what is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from refine_rl.types import Prompt, Segment

KeysAndValues = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Layer -> keys and values."""

Member = tuple[str, int]
"""A prompt's name, and the member of its group."""


class Standing(Protocol):
    """What stands of a member of its prompt's group; the first segment is the prompt."""

    @property
    def prompt(self) -> Prompt: ...
    @property
    def member(self) -> int: ...
    @property
    def segments(self) -> tuple[Segment, ...]: ...
    @property
    def token_ids(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Own:
    """A member's keys and values behind its prompt, of these n tokens, all layers [layers, K, n, D]."""

    token_ids: tuple[int, ...]
    keys: torch.Tensor
    values: torch.Tensor


@dataclass(kw_only=True, eq=False)
class Memory:
    """What a speaker keeps between the turns of one play.

    `limit` is the most tokens, prompts' and members' together, that may be kept; each turn sets it. `again`
    counts the tokens of earlier turns that had to go through the model once more.
    """

    limit: int = 0
    again: int = 0
    _prompts: dict[tuple[int, ...], KeysAndValues] = field(default_factory=dict)
    _own: dict[Member, Own] = field(default_factory=dict)
    _weights: tuple[object, ...] = ()

    @property
    def tokens(self) -> int:
        """How many tokens' keys and values are kept now."""
        return sum(map(len, self._prompts)) + sum(len(own.token_ids) for own in self._own.values())

    def begin(self, model: Any, going_on: Sequence[Standing], limit: int) -> None:
        """A turn of these members begins, and nobody else will come back. Forgets everything where the
        weights are no longer those that made it."""
        if (weights := _state(model)) != self._weights:
            self._prompts, self._own = {}, {}
        self._weights, self.limit = weights, limit
        members = {_member(b) for b in going_on}
        prompts = {b.segments[0].token_ids for b in going_on}
        self._own = {m: own for m, own in self._own.items() if m in members}
        self._prompts = {ids: kept for ids, kept in self._prompts.items() if ids in prompts}

    def prompt(self, token_ids: tuple[int, ...]) -> KeysAndValues | None:
        """A prompt's keys and values, [K, n, D] each."""
        return self._prompts.get(token_ids)

    def keep_prompt(self, token_ids: tuple[int, ...], kept: KeysAndValues) -> None:
        """For its members that come back, where there is room."""
        if token_ids not in self._prompts and self.tokens + len(token_ids) <= self.limit:
            self._prompts[token_ids] = {layer: (k.clone(), v.clone()) for layer, (k, v) in kept.items()}

    def take(self, begun: Standing) -> Own | None:
        """A member's own, if they are those of what it has behind its prompt; they are kept no longer."""
        own = self._own.pop(_member(begun), None)
        behind = begun.token_ids[len(begun.segments[0].token_ids) :]
        # The last token's are never needed without a pass through the model: it predicts what comes.
        if own and len(own.token_ids) < len(behind) and behind[: len(own.token_ids)] == own.token_ids:
            return own
        return None

    def keep(
        self, begun: Standing, written: Sequence[int], kept: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        """What stands of a member that may come back, and what it has `written` since; `kept` gives their
        keys and values."""
        behind = (*begun.token_ids[len(begun.segments[0].token_ids) :], *written)
        if self.tokens + len(behind) <= self.limit:
            keys, values = kept()
            self._own[_member(begun)] = Own(token_ids=behind, keys=keys, values=values)


def _member(begun: Standing) -> Member:
    return begun.prompt.id, begun.member


def _state(model: Any) -> tuple[object, ...]:
    """Changes whenever the weights do, or an adapter is switched on or off: torch counts how often a tensor
    was written to."""
    weights = tuple((id(p), p._version) for p in model.parameters() if p.requires_grad)
    off = tuple(bool(m.disable_adapters) for m in model.modules() if hasattr(m, "disable_adapters"))
    return id(model), off, weights
