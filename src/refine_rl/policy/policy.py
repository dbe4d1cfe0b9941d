"""A policy: the model that is trained, its tokenizer and its way of talking."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from refine_rl.policy.adapter import Start, save_adapter
from refine_rl.policy.control import Control, encode_chat, encode_words, opening_of
from refine_rl.policy.draw import Sampling
from refine_rl.policy.fast import Fast, find_fast
from refine_rl.policy.files import as_other_files
from refine_rl.policy.logprobs import logprobs
from refine_rl.policy.merging import merge
from refine_rl.policy.protocol import Begun, Purpose, Spoken
from refine_rl.policy.quantised import share_of
from refine_rl.policy.rope import hold_still, moving_kinds
from refine_rl.policy.sample import speak
from refine_rl.policy.share import Share
from refine_rl.policy.template import render
from refine_rl.policy.tokens import TokenBatch
from refine_rl.progress import Pause, never
from refine_rl.types import Message

MARGIN = {torch.float32: 50.0, torch.bfloat16: 2.5}
"""How many times the rounding that `tolerance` expects is allowed. Measured is 0.01 to 1 of it; one update's
difference of weights is far more in float32, and about as much in bfloat16."""

_FAST: WeakKeyDictionary[nn.Module, Fast | str] = WeakKeyDictionary()


@dataclass(kw_only=True, eq=False)
class Policy:
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
    use_fast: bool = True

    def render(self, messages: Sequence[Message], *, answer: bool = True) -> str:
        """The conversation in the model's own template, ready for an answer or not."""
        return render(self.tokenizer, messages, moment=self.moment, source=self.source, answer=answer)

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt's token ids in the model's own template, ready for an answer. What reads like a control
        token in a message stays text; raises ControlTextError where the tokenizer cannot do that."""
        return tuple(encode_chat(self.tokenizer, self.control, messages, self.render))

    def encode_words(self, text: str) -> tuple[int, ...]:
        """The token ids of a text that is put into an answer: without template, and without control tokens
        but those that belong to an answer's text."""
        return tuple(encode_words(self.tokenizer, self.control, text))

    def opening(self, messages: Sequence[Message]) -> str:
        """What the template itself writes of the answer to these messages: a thought's opening tag, or ""."""
        return opening_of(messages, self.render)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of sampled tokens. Special tokens are left out but for those that are content: the tags of
        thoughts, channels and tools."""
        ids, special = list(token_ids), False
        if not self.control.content.isdisjoint(ids):
            ids, special = [i for i in ids if i not in self.control.hidden], True
        return str(
            self.tokenizer.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        )

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

    def speak(
        self,
        groups: Sequence[Sequence[Begun]],
        *,
        sampling: Sampling,
        purpose: Purpose,
        pause: Pause = never,
    ) -> Iterator[Spoken]:
        """Each member of the groups with one more turn (sample.py)."""
        return speak(self, groups, sampling=sampling, purpose=purpose, pause=pause)

    def logprobs(self, batch: TokenBatch, *, temperature: float = 1.0) -> torch.Tensor:
        """The log-probs of sampled tokens, [B, T], with gradient (logprobs.py)."""
        return logprobs(self, batch, temperature=temperature)

    @property
    def tolerance(self) -> float:
        """The mean difference in nats a token that rounding may leave between sampler and trainer.

        They add the same numbers in another order. Each of the 2 L additions to the residual stream of L
        layers is rounded by u of its size, and the errors walk at random: u sqrt(2 L) in all. In float32 the
        sums inside the products are float32 as well, over some `hidden_size` terms: times sqrt(hidden_size).
        (In bfloat16 products are summed in float32.) Logits are of the size of 1.
        """
        config, dtype = self._bare.config.get_text_config(), self.compute_dtype
        layers = getattr(config, "num_hidden_layers", None) or 1
        width = getattr(config, "hidden_size", None) or 1
        unit = torch.finfo(dtype).eps / 2
        return float(MARGIN[dtype] * unit * math.sqrt(2 * layers * (width if dtype == torch.float32 else 1)))

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def share(self) -> Share:
        """How many parameters training changes, and how many there are."""
        return share_of(self.model)

    @property
    def shares_prompts(self) -> bool:
        """Whether a prompt goes through the model once for the rows that begin with it."""
        return self.fast is not None

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

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """Forward passes of sampler and trainer run in here, so that both compute the same."""
        weights = next(self.model.parameters()).dtype
        if weights == self.compute_dtype:
            yield
        else:
            with torch.autocast(self.device.type, dtype=self.compute_dtype):
                yield

    @contextlib.contextmanager
    def dropout(self, rate: float, seed: int) -> Iterator[None]:
        """LoRA dropout on, with its own randomness; everything else stays as in sampling."""
        if rate == 0:
            yield
            return
        layers = [
            m for n, m in self.model.named_modules() if isinstance(m, nn.Dropout) and "lora_dropout" in n
        ]
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            try:
                for layer in layers:
                    layer.train()
                yield
            finally:
                for layer in layers:
                    layer.eval()

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
        save_adapter(self.model, folder, self.start)
        self._save_around(folder)

    def save_merged(self, folder: Path, dtype: torch.dtype | None = None) -> float:
        """One ordinary model, the adapter's product added into its weights, in `dtype` (without one, the
        policy's). Returns the share of what training changed that rounding to it took (see merging.py)."""
        form, lost = dtype or self.compute_dtype, 0.0
        copied = copy.deepcopy(self.model)
        if self.adapter:
            copied, lost = merge(copied, form)
        else:
            copied = copied.to(form)
        copied.save_pretrained(folder, safe_serialization=True)
        self._save_around(folder)
        return lost

    def _save_around(self, folder: Path) -> None:
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
