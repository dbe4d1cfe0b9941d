"""What the rest of the house may ask of a model that is trained, whatever kind of model it is.

A `Speaker` continues trajectories by one turn, token by token, and hands out whole groups as they end. The
models of this room are `Policy`, decoder-only ones and encoder-decoders; a served model is another one.
`Network` is the inside of a model, which only this room sees.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from refine_rl.policy.draw import Sampling
from refine_rl.policy.fast import Fast
from refine_rl.policy.memory import Memory
from refine_rl.policy.tokens import TokenBatch
from refine_rl.progress import Pause
from refine_rl.types import Message, Prompt, Segment, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Purpose:
    """What the draws are for; with prompt and member it is the whole key of the randomness."""

    seed: int
    step: int
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """What stands already of member `member` of its prompt's group; the first segment is the prompt.

    `messages` is the conversation before a turn of several: then what is sampled is an answer of its own.
    Without it, all that stands behind the prompt is the beginning of the prompt's answer.
    """

    prompt: Prompt
    member: int
    segments: tuple[Segment, ...]
    messages: tuple[Message, ...] = ()

    @property
    def asked(self) -> tuple[Message, ...]:
        """What the answer answers."""
        return self.messages or self.prompt.messages

    @property
    def answered(self) -> tuple[int, ...]:
        """The tokens of the answer that stand already."""
        return () if self.messages else tuple(i for s in self.segments[1:] for i in s.token_ids)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Everything that stands already."""
        return tuple(i for s in self.segments for i in s.token_ids)


Spoken = tuple[int, tuple[Trajectory, ...]]
"""A group's place among those that were asked for, and its trajectories."""


class Speaker(Protocol):
    """A model that answers, and can be trained."""

    @property
    def context_length(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def tolerance(self) -> float:
        """The mean difference, in nats a token, that rounding may leave between the log-probs with which it
        samples and those of `logprobs`."""

    @property
    def shares_prompts(self) -> bool:
        """Whether `logprobs` computes a prompt once for the rows that begin with it."""

    @property
    def has_reference(self) -> bool:
        """Whether the untrained model is at hand."""

    @property
    def moving(self) -> str:
        """How its positions follow the longest text of a batch; "" where they do not."""

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The token ids of a prompt, ready for an answer."""

    def encode_words(self, text: str) -> tuple[int, ...]:
        """The token ids of a text that is put into an answer."""

    def next_turn(
        self, messages: Sequence[Message], more: Sequence[Message], *, as_sampled: bool = False
    ) -> tuple[int, ...]:
        """The token ids that the template writes behind a sampled answer that ended with its stop token
        (`messages` end with that answer), through the messages `more`, until the policy is to speak again.
        Raises UserError where the template writes earlier turns anew, unless they are to stay
        `as_sampled`; and where the model knows no second turn."""

    def check_turns(self, messages: Sequence[Message], role: str, *, as_sampled: bool = False) -> None:
        """Raises UserError where `next_turn` would for answers to these messages, among them such as think,
        each followed by a message of `role`."""

    def demonstrate(
        self, messages: Sequence[Message], *, every: bool, given: Collection[int] = ()
    ) -> tuple[Segment, ...]:
        """A chat whose answers are to be imitated, as segments: what is given (the first is the prompt as
        `encode` gives it), and as targets every answer of the assistant, or the last one, each with the token
        that ends it; answers at the places `given` are none. Raises UserError where the model's form of a
        chat does not allow that."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of sampled tokens."""

    def answer_room(self, prompt: int) -> int:
        """The most tokens of an answer to a prompt of `prompt` tokens; 0 or less: there is no room."""

    def memory(self) -> Memory | None:
        """What keeps keys and values between the turns of one play; None: this model keeps none."""

    def speak(
        self,
        groups: Sequence[Sequence[Begun]],
        *,
        sampling: Sampling,
        purpose: Purpose,
        pause: Pause,
        memory: Memory | None = None,
    ) -> Iterator[Spoken]:
        """Continues each member by one turn of at most `sampling.max_tokens` tokens; a group comes out as
        soon as its last member has ended. `pause` is called between tokens, and may raise to leave early.

        With the play's `memory` only what is new goes through the model; then each turn names all members
        that go on, and one that was cut does not. Without it, or where it has forgotten, all is computed
        anew."""

    def logprobs(self, batch: TokenBatch, *, temperature: float) -> torch.Tensor:
        """log pi(token | all before it), [B, T] float32 with gradient, 0 where not trainable."""

    def dropout(self, rate: float, seed: int) -> AbstractContextManager[None]:
        """Inside, forward passes drop with a randomness of their own."""

    def reference(self) -> AbstractContextManager[Speaker]:
        """The model as it was before training."""

    def trainable(self) -> Mapping[str, torch.nn.Parameter]:
        """The parameters that training changes, by name."""

    def matrices(self) -> Mapping[str, float]:
        """The names of those that linear layers multiply by, the head apart; and how large a step each wants
        beside the others."""

    def save(self, folder: Path) -> None:
        """The adapter or the model, as its libraries load it."""


LEAVE = 8
"""Rows are moved together once one in so many has stopped: moving costs a copy of keys and values."""


class Way(Protocol):
    """A way to compute the next token of many rows: so many tokens are drawn `ahead` of looking at them, and
    the rest moves together once one row in `leave` has stopped."""

    ahead: int
    leave: int

    def inside(self) -> AbstractContextManager[None]:
        """What the following are called in; left whenever a group is handed out."""

    def start(self) -> None: ...
    def draw(self, rows: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]: ...
    def stay(self, rows: torch.Tensor) -> None: ...
    def step(self, token: torch.Tensor) -> None: ...
    def kept(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A row's keys and values behind its prompt, of all layers; only where there is a memory."""


class Network(Protocol):
    """The inside of a model."""

    model: Any
    device: torch.device
    compute_dtype: torch.dtype
    stop_ids: frozenset[int]

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]: ...
    def opening(self, messages: Sequence[Message]) -> str: ...
    def decode(self, token_ids: Sequence[int]) -> str: ...
    def precision(self) -> AbstractContextManager[None]: ...
    def way(
        self,
        begun: Sequence[Begun],
        counts: Sequence[int],
        sampling: Sampling,
        draws_R_T: torch.Tensor,
        memory: Memory | None,
    ) -> Way: ...


class DecoderNetwork(Network, Protocol):
    """The inside of a decoder-only model."""

    @property
    def fast(self) -> Fast | None: ...
    def forward(self, **inputs: Any) -> Any: ...


def begun(token_ids: tuple[int, ...], prompt: Prompt, members: int) -> tuple[Begun, ...]:
    """A group of which nothing but the prompt stands."""
    segments = (Segment(token_ids=token_ids, trainable=False),)
    return tuple(Begun(prompt=prompt, member=m, segments=segments) for m in range(members))
