"""A policy with another mouth: its texts, its shape and its weights are here, and somebody else speaks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from refine_rl.policy.policy import Policy
from refine_rl.types import Message, Segment


@dataclass(frozen=True, kw_only=True, eq=False)
class SpokenFor:
    """All of a `Speaker` that is the policy's. Who speaks adds `speak`, `memory`, `logprobs`, `reference` and
    `tolerance`."""

    policy: Policy

    @property
    def context_length(self) -> int:
        return self.policy.context_length

    @property
    def device(self) -> torch.device:
        return self.policy.device

    @property
    def shares_prompts(self) -> bool:
        return self.policy.shares_prompts

    @property
    def has_reference(self) -> bool:
        return self.policy.has_reference

    @property
    def moving(self) -> str:
        return self.policy.moving

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return self.policy.encode(messages)

    def encode_words(self, text: str) -> tuple[int, ...]:
        return self.policy.encode_words(text)

    def next_turn(
        self, messages: Sequence[Message], more: Sequence[Message], *, as_sampled: bool = False
    ) -> tuple[int, ...]:
        return self.policy.next_turn(messages, more, as_sampled=as_sampled)

    def check_turns(self, messages: Sequence[Message], role: str, *, as_sampled: bool = False) -> None:
        self.policy.check_turns(messages, role, as_sampled=as_sampled)

    def demonstrate(
        self, messages: Sequence[Message], *, every: bool, given: Collection[int] = ()
    ) -> tuple[Segment, ...]:
        return self.policy.demonstrate(messages, every=every, given=given)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.policy.decode(token_ids)

    def answer_room(self, prompt: int) -> int:
        return self.policy.answer_room(prompt)

    def dropout(self, rate: float, seed: int) -> AbstractContextManager[None]:
        return self.policy.dropout(rate, seed)

    def trainable(self) -> Mapping[str, torch.nn.Parameter]:
        return self.policy.trainable()

    def matrices(self) -> Mapping[str, float]:
        return self.policy.matrices()

    def save(self, folder: Path) -> None:
        self.policy.save(folder)
