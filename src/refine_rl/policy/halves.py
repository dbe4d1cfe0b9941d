"""An encoder-decoder taken apart: the prompt goes through the encoder once, and each layer of the decoder
makes keys and values of it once, for all that is written to it.

The decoder begins with tokens that nobody samples (T5's is the padding token, BART's the one that ends a
text; for some models a language follows). They are implicit: no trajectory records them.

Traps of transformers 5: `forward` never infers the encoder's mask, and it must accompany the encoder's
states; a cache made from the configuration has the encoder's number of layers; one that was used for another
prompt keeps that prompt's keys and values; a decoder's mask made from token values hides the start token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from refine_rl.errors import UserError
from refine_rl.policy.head import Head, taken


@dataclass(frozen=True, kw_only=True)
class Heard:
    """P prompts as the decoder hears them: its keys and values of them and of the start tokens, the mask
    [P, S] of the prompts' tokens, and the last start token's hidden state, [P, hidden]."""

    cache: Any  # an EncoderDecoderCache
    mask: torch.Tensor
    hidden: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Halves(Head):
    """The parts of an encoder-decoder. `start` are the tokens with which its decoder begins."""

    encoder: Any
    decoder: Any
    offset: torch.Tensor | None  # [V], which the model adds to its logits
    start: tuple[int, ...]

    @property
    def bias(self) -> torch.Tensor | None:
        own = super().bias
        if self.offset is None:
            return own
        return self.offset if own is None else own + self.offset

    def encode(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The encoder's states [P, S, hidden] of prompts padded on the right, and the mask [P, S]."""
        device = self.head.weight.device
        ids = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.long)
            mask[row, : len(prompt)] = 1
        ids, mask = ids.to(device), mask.to(device)
        return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask

    def hear(self, prompts: Sequence[Sequence[int]]) -> Heard:
        """The prompts, heard once."""
        from transformers import DynamicCache, EncoderDecoderCache

        states, mask = self.encode(prompts)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        first = torch.tensor(self.start, device=mask.device).expand(len(prompts), -1)
        out = self.decoder(
            input_ids=first,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        )
        return Heard(cache=cache, mask=mask, hidden=out.last_hidden_state[:, -1])

    def go_on(self, ids: torch.Tensor, heard: Heard) -> torch.Tensor:
        """The hidden states [R, T, hidden] of further tokens [R, T], whose keys and values join the cache."""
        # With keys and values of the prompts at hand, their states are looked at for the shape alone.
        R, S = heard.mask.shape
        nothing = heard.hidden.new_zeros(()).expand(R, S, heard.hidden.shape[-1])
        out = self.decoder(
            input_ids=ids,
            encoder_hidden_states=nothing,
            encoder_attention_mask=heard.mask,
            past_key_values=heard.cache,
            use_cache=True,
        )
        found: torch.Tensor = out.last_hidden_state
        return found

    def whole(self, ids: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The hidden states [R, T, hidden] of an answer's tokens [R, T], the start tokens among them, without
        a cache."""
        out = self.decoder(
            input_ids=ids, encoder_hidden_states=states, encoder_attention_mask=mask, use_cache=False
        )
        found: torch.Tensor = out.last_hidden_state
        return found


def for_rows(heard: Heard, places: torch.Tensor) -> Heard:
    """What was heard, for rows of which row r has the prompt `places[r]`; with gradient."""
    from transformers import DynamicCache, EncoderDecoderCache

    parts = []
    for cache in (heard.cache.self_attention_cache, heard.cache.cross_attention_cache):
        copied = DynamicCache()
        for number, layer in enumerate(cache.layers):
            copied.update(taken(layer.keys, places), taken(layer.values, places), number)
        parts.append(copied)
    return Heard(
        cache=EncoderDecoderCache(*parts), mask=heard.mask[places], hidden=taken(heard.hidden, places)
    )


def halves_of(model: Any, source: str) -> Halves:
    """The parts of a model (without its adapter's wrapper). Raises UserError where one is missing."""
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        raise UserError(
            f"{source} ({model.config.model_type}) has no plain linear layer as its head, and cannot be "
            "trained here."
        )
    decoder, config = model.get_decoder(), model.config
    # T5's own way to scale; later members of the family do without.
    scaled = bool(getattr(config, "scale_decoder_outputs", False))
    offset = getattr(model, "final_logits_bias", None)
    return Halves(
        head=head,
        scale=config.d_model**-0.5 if scaled else 1.0,
        cap=float(getattr(decoder.config, "final_logit_softcapping", None) or 0.0),
        encoder=model.get_encoder(),
        decoder=decoder,
        offset=None if offset is None else offset[0],
        start=_start(model, source),
    )


def _start(model: Any, source: str) -> tuple[int, ...]:
    """The tokens before an answer's first: the decoder's start, and one that is forced behind it."""
    holders = [h for h in (getattr(model, "generation_config", None), model.config) if h is not None]

    def first(name: str) -> int | None:
        found = (getattr(holder, name, None) for holder in holders)
        return next((i for i in found if isinstance(i, int)), None)

    start = first("decoder_start_token_id")
    if start is None:
        raise UserError(
            f"{source} does not say with which token its decoder begins: write decoder_start_token_id into "
            "its generation_config.json (T5's is the padding token, BART's the one that ends a text)."
        )
    forced = first("forced_bos_token_id")
    return (start,) if forced is None else (start, forced)
