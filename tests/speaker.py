"""A speaker without a model: it answers at once, what it is told to.

from speaker import Parrot
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Begun, Purpose, Spoken
from refine_rl.types import Message, Segment, Trajectory


class Parrot:
    """Says `says(begun, purpose)`: tokens, each a letter of the alphabet; groups end in the order of `last`
    first. Remembers what it was asked for together."""

    def __init__(self, says: Callable[[Begun, Purpose], Sequence[int]], *, backwards: bool = False) -> None:
        self._says, self._backwards = says, backwards
        self.asked: list[tuple[str, int, list[list[int]]]] = []  # purpose, tokens, members of each group

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(len(m["content"]) for m in messages)

    def next_turn(
        self, messages: Sequence[Message], more: Sequence[Message], *, as_sampled: bool = False
    ) -> tuple[int, ...]:
        """Each further message is its letters, with a 99 before and behind; what ends an answer is its own
        token already."""
        assert messages[-1]["role"] == "assistant"
        return tuple(i for m in more for i in (99, *self.encode_words(m["content"]), 99))

    def check_turns(self, messages: Sequence[Message], role: str, *, as_sampled: bool = False) -> None: ...

    def encode_words(self, text: str) -> tuple[int, ...]:
        return tuple(ord(letter) - 97 for letter in text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(97 + i) for i in token_ids)

    def memory(self) -> None: ...

    def speak(
        self,
        groups: Sequence[Sequence[Begun]],
        *,
        sampling: Sampling,
        purpose: Purpose,
        pause: Callable[[], None] = lambda: None,
        memory: None = None,
    ) -> Iterator[Spoken]:
        self.asked.append(
            (purpose.name, sampling.max_tokens, [[b.member for b in group] for group in groups])
        )
        places = range(len(groups))
        for place in reversed(places) if self._backwards else places:
            pause()
            yield place, tuple(self._said(b, sampling, purpose) for b in groups[place])

    def _said(self, begun: Begun, sampling: Sampling, purpose: Purpose) -> Trajectory:
        tokens = tuple(self._says(begun, purpose))[: sampling.max_tokens]
        own = Segment(token_ids=tokens, trainable=True, logprobs=(-1.0,) * len(tokens))
        said: Any = {"role": "assistant", "content": self.decode([*begun.answered, *tokens])}
        return Trajectory(
            prompt_id=begun.prompt.id,
            member=begun.member,
            messages=(*begun.asked, said),
            segments=(*begun.segments, own),
            stop_reason="length" if len(tokens) == sampling.max_tokens else "stop",
        )
