"""Decoder-only models: prompt and answer are one text, written in the model's chat template."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from refine_rl.policy.control import encode_chat, opening_of
from refine_rl.policy.decode import SharedPrompts
from refine_rl.policy.decode_more import GoingOn
from refine_rl.policy.decode_plain import WholeRows
from refine_rl.policy.demonstrate import demonstrate
from refine_rl.policy.draw import Sampling
from refine_rl.policy.fast import Fast, find_fast
from refine_rl.policy.logprobs import logprobs
from refine_rl.policy.memory import Memory
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Begun, Way
from refine_rl.policy.template import render
from refine_rl.policy.tokens import TokenBatch
from refine_rl.policy.tools import Schemas, ToolForm, tool_form
from refine_rl.policy.turns import next_turn, probes
from refine_rl.types import Message, Segment

_FAST: WeakKeyDictionary[nn.Module, Fast | str] = WeakKeyDictionary()


@dataclass(kw_only=True, eq=False)
class DecoderOnly(Policy):
    """A policy whose model continues one text. `use_fast` switches the fast path off, where there is one;
    `tools` are what every conversation tells the model that it may call."""

    use_fast: bool = True
    tools: Schemas = ()

    def render(self, messages: Sequence[Message], *, answer: bool = True) -> str:
        """The conversation in the model's own template, ready for an answer or not."""
        if not self.tools:
            return self._written(messages, answer=answer)
        form = self._tool_form
        told = form.messages(messages, self.tools)
        return self._written(told, answer=answer, tools=form.given(self.tools))

    def _written(
        self, messages: Sequence[Message], *, answer: bool = True, tools: Schemas | None = None
    ) -> str:
        return render(
            self.tokenizer, messages, moment=self.moment, source=self.source, answer=answer, tools=tools
        )

    @cached_property
    def _tool_form(self) -> ToolForm:
        return tool_form(lambda messages, tools: self._written(messages, tools=tools), self.tools)

    def tell_tools(self, tools: Schemas) -> None:
        """Every conversation from now on tells the model of these tools."""
        self.tools = tools
        self.__dict__.pop("_tool_form", None)

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt's token ids in the model's own template, ready for an answer. What reads like a control
        token in a message stays text; raises ControlTextError where the tokenizer cannot do that."""
        return tuple(encode_chat(self.tokenizer, self.control, messages, self.render))

    def next_turn(
        self, messages: Sequence[Message], more: Sequence[Message], *, as_sampled: bool = False
    ) -> tuple[int, ...]:
        """What the template writes behind an answer, until the next (turns.py)."""
        return next_turn(
            self.tokenizer,
            self.control,
            self.stop_ids,
            messages,
            more,
            self.render,
            source=self.source,
            as_sampled=as_sampled,
        )

    def check_turns(self, messages: Sequence[Message], role: str, *, as_sampled: bool = False) -> None:
        """Tries two turns more behind each answer that may show what the template does to it (turns.py)."""
        template = str(self.tokenizer.chat_template or "")
        for words in probes(template, self.opening(messages)):
            said: list[Message] = list(messages)
            for _ in range(2):
                said.append({"role": "assistant", "content": words})
                more: list[Message] = [{"role": role, "content": "refine asks"}]
                self.next_turn(said, more, as_sampled=as_sampled)
                said += more

    def demonstrate(
        self, messages: Sequence[Message], *, every: bool, given: Collection[int] = ()
    ) -> tuple[Segment, ...]:
        """A chat whose answers (`every` one, or the last) are to be imitated (demonstrate.py)."""
        return demonstrate(
            self.tokenizer,
            self.control,
            self.stop_ids,
            messages,
            self.render,
            partial(self.render, answer=False),
            every=every,
            given=given,
        )

    def opening(self, messages: Sequence[Message]) -> str:
        """What the template itself writes of the answer to these messages: a thought's opening tag, or ""."""
        return opening_of(messages, self.render)

    def way(
        self,
        begun: Sequence[Begun],
        counts: Sequence[int],
        sampling: Sampling,
        draws_R_T: torch.Tensor,
        memory: Memory | None = None,
    ) -> Way:
        """With shared prompts (decode.py), going on from memory (decode_more.py), or plain
        (decode_plain.py)."""
        ids = [b.token_ids for b in begun]
        if self.fast is None:
            return WholeRows(self, ids, counts, sampling, draws_R_T)
        if memory is not None and any(len(b.segments) > 1 for b in begun):
            return GoingOn(self, self.fast, begun, sampling, draws_R_T, memory)
        return SharedPrompts(self, self.fast, ids, counts, sampling, draws_R_T, memory)

    def memory(self) -> Memory | None:
        """With the fast path; the plain one computes every turn anew."""
        return Memory() if self.fast is not None else None

    def logprobs(self, batch: TokenBatch, *, temperature: float = 1.0) -> torch.Tensor:
        """The log-probs of sampled tokens, [B, T], with gradient (logprobs.py)."""
        return logprobs(self, batch, temperature=temperature)

    @property
    def shares_prompts(self) -> bool:
        """Whether a prompt goes through the model once for the rows that begin with it."""
        return self.fast is not None

    def forward(self, **inputs: Any) -> Any:
        """The model's output in the policy's precision. `position_ids` and `logits_to_keep` are left
        out for the few architectures whose forward does not know them: those derive positions from
        the attention mask, and return the logits of every column."""
        for name in self._unknown_inputs:
            inputs.pop(name, None)
        with self.precision():
            return self.model(**inputs)

    @cached_property
    def _unknown_inputs(self) -> tuple[str, ...]:
        """Looked up once: `forward` runs for every token that is sampled."""
        known = inspect.signature(self._bare.forward).parameters
        return tuple(name for name in ("position_ids", "logits_to_keep") if name not in known)

    @property
    def fast(self) -> Fast | None:
        """The fast path of this model, found and checked against the plain one when it is first asked for;
        None where there is none (`why_plain` says why), or where it is switched off."""
        found = self._found_fast()
        return found if isinstance(found, Fast) and self.use_fast else None

    @property
    def why_plain(self) -> str:
        """Why the plain path is taken; "" where the fast one is."""
        found = self._found_fast()
        return found if isinstance(found, str) else ""

    def _found_fast(self) -> Fast | str:
        if self.model not in _FAST:
            bare = self._bare
            with torch.no_grad(), self.precision():
                _FAST[self.model] = find_fast(
                    bare,
                    plain=lambda ids: self.model(input_ids=ids, use_cache=False).logits,
                    compute_dtype=self.compute_dtype,
                    vocabulary=self.vocabulary,
                )
        return _FAST[self.model]
