"""Encoder-decoders (T5, CodeT5, BART and their kin): the encoder reads the prompt, a plain text; the decoder
writes the answer.

In a trajectory the first segment is the prompt, the encoder's tokens; all that follows are the decoder's. The
tokens with which the decoder begins are implicit (halves.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from refine_rl.errors import UserError
from refine_rl.policy.control import encode_chat
from refine_rl.policy.demonstrate import answers_in
from refine_rl.policy.draw import Sampling
from refine_rl.policy.encode_once import EncodeOnce
from refine_rl.policy.halves import Halves, halves_of
from refine_rl.policy.memory import Memory
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Begun, Way
from refine_rl.policy.teacher_forcing import teacher_forced
from refine_rl.policy.tokens import TokenBatch
from refine_rl.policy.tools import Schemas
from refine_rl.types import Message, Segment


def joined(messages: Sequence[Message]) -> str:
    """A conversation as one text: a system message first, on lines of its own; then the user's words as they
    are, or, where there are several turns, each behind the name of who spoke.

    >>> joined([{"role": "user", "content": "Say hi."}])
    'Say hi.'
    >>> joined([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hi."}])
    'Be brief.\\nSay hi.'
    >>> said = [("user", "Hi."), ("assistant", "Hello!"), ("user", "Bye.")]
    >>> joined([{"role": role, "content": content} for role, content in said])
    'User: Hi.\\nAssistant: Hello!\\nUser: Bye.'
    """
    turns = [m for m in messages if m["role"] != "system"]
    alone = len(turns) == 1 and turns[0]["role"] == "user"
    return "\n".join(
        m["content"] if m["role"] == "system" or alone else f"{m['role'].capitalize()}: {m['content']}"
        for m in messages
    )


@dataclass(kw_only=True, eq=False)
class EncoderDecoder(Policy):
    """A policy whose encoder reads the prompt, `prefix` in front, and whose decoder writes the answer.
    `recomputes`: the model's layers are computed again in the backward pass (recompute.py)."""

    prefix: str = ""
    recomputes: bool = False

    def render(self, messages: Sequence[Message], *, answer: bool = True) -> str:
        """The conversation as one text (`joined`), behind the prefix."""
        return self.prefix + joined(messages)

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt's token ids, with what the tokenizer puts around a text. What reads like a control token
        in a message stays text; raises ControlTextError where the tokenizer cannot do that, and UserError for
        a prompt without a token."""
        before, after = self._frame
        ids = (*before, *encode_chat(self.tokenizer, self.control, messages, self.render), *after)
        if not ids:
            raise UserError(f"A prompt is empty for {self.source}: its encoder has nothing to read.")
        return ids

    def next_turn(
        self, messages: Sequence[Message], more: Sequence[Message], *, as_sampled: bool = False
    ) -> tuple[int, ...]:
        """Always raises UserError: the encoder reads the prompt once, and the decoder writes one answer."""
        raise UserError(
            f"{self.source} is an encoder-decoder: its encoder reads a prompt once, and what comes behind "
            "its answer has no place there. A world of several turns wants a decoder-only model (model.name)."
        )

    def tell_tools(self, tools: Schemas) -> None:
        """Always raises UserError: there is no second turn in which a result could be read."""
        self.next_turn([], [])

    def check_turns(self, messages: Sequence[Message], role: str, *, as_sampled: bool = False) -> None:
        """Always raises UserError, as `next_turn` does."""
        self.next_turn(messages, [], as_sampled=as_sampled)

    def demonstrate(
        self, messages: Sequence[Message], *, every: bool, given: Collection[int] = ()
    ) -> tuple[Segment, ...]:
        """A chat that ends in an answer to imitate: what `encode` gives as its prompt, and the answer as the
        model would sample it: with the token that begins a text, for the families that write one, and with
        the one that ends an answer.

        The turns before the answer are the prompt, earlier answers included. Raises UserError where there is
        none, and for `every` answer of several: each would need a prompt, and so a row, of its own. Answers
        at the places `given` are not imitated.
        """
        answers = answers_in(messages, given)
        if not answers:
            raise UserError(
                "A chat without an answer of the assistant to something shows nothing to imitate."
            )
        if every and len(answers) > 1:
            raise UserError(
                f"A chat has {len(answers)} answers, and an encoder-decoder writes one to each prompt: train "
                'on the last alone (sft.train_on = "last"), or make a row of each.'
            )
        end = self.tokenizer.eos_token_id
        words = self.encode_words(messages[answers[-1]]["content"])
        stop = end if end in self.stop_ids else min(self.stop_ids)
        return (
            Segment(token_ids=self.encode(messages[: answers[-1]]), trainable=False),
            Segment(token_ids=(*self.first_ids, *words, stop), trainable=True, target=True),
        )

    @property
    def first_ids(self) -> tuple[int, ...]:
        """The token that begins a text, for the families whose decoder writes it: CodeT5, and BART where none
        is forced."""
        bos = self.tokenizer.bos_token_id
        return (bos,) if bos is not None and bos in self._frame[0] and bos not in self.halves.start else ()

    def opening(self, messages: Sequence[Message]) -> str:
        return ""

    def read_numbers(self, tokenizer: Any) -> None:
        super().read_numbers(tokenizer)
        self.prefix, self._frame = "", ((), ())

    def prompt_room(self, max_tokens: int) -> int:
        """Prompt and answer have a limit of their own each."""
        return self.context_length if max_tokens <= self.answer_room(0) else 0

    def answer_room(self, prompt: int) -> int:
        """As many as the decoder reads, whose last token nobody reads."""
        return self.context_length + 1 - len(self.halves.start) if prompt <= self.context_length else 0

    def way(
        self,
        begun: Sequence[Begun],
        counts: Sequence[int],
        sampling: Sampling,
        draws_R_T: torch.Tensor,
        memory: Memory | None = None,
    ) -> Way:
        """See encode_once.py."""
        return EncodeOnce(self, self.halves, begun, counts, sampling, draws_R_T)

    def logprobs(self, batch: TokenBatch, *, temperature: float = 1.0) -> torch.Tensor:
        """The log-probs of sampled tokens, [B, T], with gradient (teacher_forcing.py)."""
        return teacher_forced(self, self.halves, batch, temperature=temperature, recomputes=self.recomputes)

    @property
    def shares_prompts(self) -> bool:
        return True

    @property
    def why_plain(self) -> str:
        return ""

    @cached_property
    def halves(self) -> Halves:
        """The model taken apart."""
        return halves_of(self._bare, self.source)

    @cached_property
    def _frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens that the tokenizer puts before and behind a text."""
        whole = list(self.tokenizer("x")["input_ids"])
        text = list(self.tokenizer("x", add_special_tokens=False)["input_ids"])
        at = next(n for n in range(len(whole) + 1) if whole[n : n + len(text)] == text)
        return tuple(whole[:at]), tuple(whole[at + len(text) :])

    @property
    def _additions(self) -> int:
        return 2 * _layers(self.halves.encoder) + 3 * _layers(self.halves.decoder)


def _layers(half: Any) -> int:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return max(1, sum(isinstance(m, GradientCheckpointingLayer) for m in half.modules()))
