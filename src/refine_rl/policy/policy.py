"""A policy: the model that is trained, with its tokenizer. What every kind of model has stands here; how one
is talked to, how it speaks and how its log-probs are had, in `decoder_only.py` and `encoder_decoder.py`."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from refine_rl.policy.adapter import Start, save_adapter
from refine_rl.policy.check_sum import check_sum
from refine_rl.policy.control import NO_CONTROL, Control, encode_words
from refine_rl.policy.draw import Sampling
from refine_rl.policy.dropout import Dropping, dropping
from refine_rl.policy.files import as_other_files
from refine_rl.policy.memory import Memory
from refine_rl.policy.merging import Rounding, merge
from refine_rl.policy.protocol import Begun, Purpose, Spoken, Way
from refine_rl.policy.quantised import share_of
from refine_rl.policy.rope import hold_still, moving_kinds
from refine_rl.policy.sample import speak
from refine_rl.policy.share import Share
from refine_rl.policy.tokens import TokenBatch
from refine_rl.policy.tools import Schemas
from refine_rl.progress import Pause, never
from refine_rl.types import Message, Segment

MARGIN = {torch.float32: 50.0, torch.bfloat16: 2.5}
"""How many times the rounding that `tolerance` expects is allowed. Measured is 0.01 to 1 of it; one update's
difference of weights is far more in float32, and about as much in bfloat16."""


@dataclass(kw_only=True, eq=False)
class Policy(ABC):
    """The model with everything that is needed to talk to it.

    `compute_dtype` is the number format of the matrix products; `moment` what a template that asks for the
    time is told, now and later; `start` the adapter that the model came with, merged in; `frozen` a copy of
    the untrained model, kept only where no adapter can be switched off.
    """

    model: Any
    tokenizer: Any
    stop_ids: frozenset[int]
    device: torch.device
    compute_dtype: torch.dtype
    context_length: int
    source: str
    adapter: bool
    control: Control
    moment: datetime
    start: Start | None = None
    frozen: Any = None

    @abstractmethod
    def render(self, messages: Sequence[Message], *, answer: bool = True) -> str:
        """The conversation as the model reads it, ready for an answer or not."""

    @abstractmethod
    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt's token ids, ready for an answer. What reads like a control token in a message stays
        text; raises ControlTextError where the tokenizer cannot do that."""

    @abstractmethod
    def opening(self, messages: Sequence[Message]) -> str:
        """What stands of the answer to these messages before the model has said a word; "" mostly."""

    @abstractmethod
    def way(
        self,
        begun: Sequence[Begun],
        counts: Sequence[int],
        sampling: Sampling,
        draws_R_T: torch.Tensor,
        memory: Memory | None = None,
    ) -> Way:
        """How the next tokens are computed of rows that begin as `begun` says, `counts[n]` rows each."""

    @abstractmethod
    def logprobs(self, batch: TokenBatch, *, temperature: float = 1.0) -> torch.Tensor:
        """The log-probs of sampled tokens, [B, T], with gradient."""

    @property
    @abstractmethod
    def shares_prompts(self) -> bool:
        """Whether a prompt goes through the model once for the rows that begin with it."""

    @property
    @abstractmethod
    def why_plain(self) -> str:
        """Why a prompt is computed once for each row; "" where it is not."""

    def encode_words(self, text: str) -> tuple[int, ...]:
        """The token ids of a text that is put into an answer: without template, and without control tokens
        but those that belong to an answer's text."""
        return tuple(encode_words(self.tokenizer, self.control, text))

    @abstractmethod
    def next_turn(
        self, messages: Sequence[Message], more: Sequence[Message], *, as_sampled: bool = False
    ) -> tuple[int, ...]:
        """The token ids behind the sampled answer with which `messages` end, through the messages `more`,
        until the policy is to speak again."""

    @abstractmethod
    def tell_tools(self, tools: Schemas) -> None:
        """Every conversation from now on tells the model of these tools. Raises UserError where it cannot."""

    @abstractmethod
    def check_turns(self, messages: Sequence[Message], role: str, *, as_sampled: bool = False) -> None:
        """Raises UserError where there can be no second turn behind answers to these messages."""

    @abstractmethod
    def demonstrate(
        self, messages: Sequence[Message], *, every: bool, given: Collection[int] = ()
    ) -> tuple[Segment, ...]:
        """A chat whose answers (`every` one, or the last; those at the places `given` are none) are to be
        imitated: given and target segments."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of sampled tokens. Special tokens are left out but for those that are content: the tags of
        thoughts, channels and tools."""
        ids, special = list(token_ids), False
        if not self.control.content.isdisjoint(ids):
            ids, special = [i for i in ids if i not in self.control.hidden], True
        return str(
            self.tokenizer.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        )

    def read_numbers(self, tokenizer: Any) -> None:
        """From here on texts go through this tokenizer as they are, no token is a control token, and none
        ends an answer: to measure."""
        self.tokenizer, self.control, self.stop_ids = tokenizer, NO_CONTROL, frozenset()

    def prompt_room(self, max_tokens: int) -> int:
        """The most tokens of a prompt that leave room for an answer of `max_tokens`; 0 or less: none does."""
        return self.context_length - max_tokens

    def answer_room(self, prompt: int) -> int:
        """The most tokens of an answer to a prompt of `prompt` tokens; 0 or less: there is no room."""
        return self.context_length - prompt

    @property
    def moving(self) -> str:
        """How the positions of this model follow the longest text of a batch ("longrope", "dynamic"); ""
        where they do not, or no longer."""
        return ", ".join(sorted(moving_kinds(self.model)))

    def hold_still(self, longest: int) -> bool:
        """Computes all texts as those of `longest` tokens from here on, where the model would follow the
        longest text of each batch (rope.py); whether that is other than it computes a short text."""
        longest = min(longest, self.context_length)
        if self.frozen is not None:
            hold_still(self.frozen, longest)
        return hold_still(self.model, longest)

    def memory(self) -> Memory | None:
        """What keeps keys and values between the turns of one play; None: this model keeps none."""
        return None

    def speak(
        self,
        groups: Sequence[Sequence[Begun]],
        *,
        sampling: Sampling,
        purpose: Purpose,
        pause: Pause = never,
        memory: Memory | None = None,
    ) -> Iterator[Spoken]:
        """Each member of the groups with one more turn (sample.py)."""
        return speak(self, groups, sampling=sampling, purpose=purpose, pause=pause, memory=memory)

    @property
    def form(self) -> str:
        """The number format that was found for the products of a run, as [model] names it."""
        return str(self.compute_dtype).removeprefix("torch.")

    @property
    def where(self) -> str:
        """Where the model computes, and how, in words."""
        return f"on {self.device} in {self.form}"

    @property
    def tolerance(self) -> float:
        """The mean difference in nats a token that rounding may leave between sampler and trainer.

        They add the same numbers in another order. Each of the n additions to the residual stream (2 a layer,
        3 where a decoder also listens) is rounded by u of its size, and the errors walk at random: u sqrt(n)
        in all. In float32 the sums inside the products are float32 as well, over some `hidden_size` terms:
        times sqrt(hidden_size). (In bfloat16 products are summed in float32.) Logits are of the size of 1.
        """
        dtype = self.compute_dtype
        width = getattr(self._bare.config.get_text_config(), "hidden_size", None) or 1
        unit = torch.finfo(dtype).eps / 2
        terms = self._additions * (width if dtype == torch.float32 else 1)
        return float(MARGIN[dtype] * unit * math.sqrt(terms))

    @property
    def _additions(self) -> int:
        """How often a token's state is added to on its way through the layers."""
        return 2 * (getattr(self._bare.config.get_text_config(), "num_hidden_layers", None) or 1)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def share(self) -> Share:
        """How many parameters training changes, and how many there are."""
        return share_of(self.model)

    @property
    def has_reference(self) -> bool:
        """Whether the untrained model is at hand: an adapter can be switched off, or a copy was kept."""
        return self.adapter or self.frozen is not None

    @property
    def _bare(self) -> Any:
        """The model without its adapter's wrapper."""
        return self.model.get_base_model() if self.adapter else self.model

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def check_sum(self, *, whole: bool = False) -> int:
        """Of the weights that training changes, or of all (check_sum.py)."""
        return check_sum(dict(self.model.named_parameters()) if whole else self.trainable())

    def matrices(self) -> dict[str, float]:
        """The names of those that linear layers multiply by, the head apart; and how large a step each wants
        beside the others. T5's attention does not divide by the root of a head's width: its queries are
        smaller by that."""
        from transformers.pytorch_utils import Conv1D

        head = self.model.get_output_embeddings()
        found = {
            f"{name}.weight": 1.0
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and module is not head and module.weight.requires_grad
        }
        for name, module in self.model.named_modules():
            if (width := getattr(module, "key_value_proj_dim", None)) and f"{name}.q.weight" in found:
                found[f"{name}.q.weight"] = width**-0.5
        return found

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """Forward passes of sampler and trainer run in here, so that both compute the same."""
        weights = next(self.model.parameters()).dtype
        if weights == self.compute_dtype:
            yield
        else:
            with torch.autocast(self.device.type, dtype=self.compute_dtype):
                yield

    def dropout(self, rate: float, seed: int) -> AbstractContextManager[None]:
        """LoRA dropout on, in this thread, with its own randomness; everything else stays as in sampling."""
        return dropping(Dropping(rate=rate, seed=seed) if rate > 0 else None)

    @contextlib.contextmanager
    def reference(self) -> Iterator[Policy]:
        """The policy as it was before training: the adapter off, or the frozen copy."""
        if self.adapter:
            with self.model.disable_adapter():
                yield self
        elif self.frozen is not None:
            yield replace(self, model=self.frozen)
        else:
            raise RuntimeError("this policy was loaded without a frozen copy (keep_reference=True)")

    def save(self, folder: Path) -> None:
        """The adapter or the model, with tokenizer, chat template and the tokens that end an answer, as
        transformers reads it."""
        if not self.adapter:
            self.save_merged(folder)
            return
        self.save_adapter(folder)
        self.save_around(folder)

    def save_adapter(self, folder: Path) -> None:
        """The adapter alone, as peft reads it."""
        save_adapter(self.model, folder, self.start)
        as_other_files(folder)

    def save_merged(
        self, folder: Path, dtype: torch.dtype | None = None, rounding: Rounding | None = None
    ) -> float:
        """One ordinary model, the adapter's product added into its weights, in `dtype` (without one, the
        policy's). Returns the share of what training changed that rounding to it took, or that another
        `rounding` would take (see merging.py)."""
        form, lost = dtype or self.compute_dtype, 0.0
        copied = copy.deepcopy(self.model)
        if self.adapter:
            copied, lost = merge(copied, form, rounding)
        else:
            copied = copied.to(form)
        copied.save_pretrained(folder, safe_serialization=True)
        self.save_around(folder)
        return lost

    def save_around(self, folder: Path) -> None:
        """The tokenizer, and where an answer ends: the policy also stops at tokens that it learned from the
        template, and without them the model would talk on."""
        self.tokenizer.save_pretrained(folder)
        config = getattr(self._bare, "generation_config", None)
        known = {} if config is None else json.loads(config.to_json_string(use_diff=True))
        known.pop("_from_model_config", None)  # else generate() may take the model's stop tokens instead
        own = known.get("eos_token_id")
        first = [own] if isinstance(own, int) else list(own or [])  # generate pads with the first
        known["eos_token_id"] = list(dict.fromkeys([*first, *sorted(self.stop_ids)]))
        text = json.dumps(known, indent=2, sort_keys=True) + "\n"
        (folder / "generation_config.json").write_text(text, encoding="utf-8")
        as_other_files(folder)
