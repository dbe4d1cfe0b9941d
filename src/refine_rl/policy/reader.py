"""A model's folder as those read it for whom it was written: loaded anew by transformers, or by peft upon the
base model that the folder names, with nothing of the policy that wrote it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from refine_rl.policy.adapter import peft_quiet
from refine_rl.policy.fetch import auto_class, fetch, fetch_weights, is_encoder_decoder
from refine_rl.policy.origin import ADAPTER_CONFIG, find_origin
from refine_rl.policy.quantised import own_products, quantisation

PLAINLY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "typical_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
"""What `generate` is told so that it takes the most likely token each time, whatever a model's own
generation_config.json asks for."""
CHANGING = (
    "repetition_penalty",
    "no_repeat_ngram_size",
    "suppress_tokens",
    "bad_words_ids",
    "min_new_tokens",
)
"""Of these, what changes the most likely answer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """The model and the tokenizer in a folder. `start` are the tokens with which an encoder-decoder's decoder
    begins."""

    model: Any
    tokenizer: Any
    folder: Path
    start: tuple[int, ...]

    @property
    def listens(self) -> bool:
        """Whether an encoder reads the prompt."""
        return is_encoder_decoder(self.model.config)

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a prompt, as the template wrote it; an encoder gets what its tokenizer adds."""
        return tuple(self.tokenizer(text, add_special_tokens=self.listens)["input_ids"])

    @torch.no_grad()
    def greedy(self, prompt: Sequence[int], max_tokens: int) -> tuple[int, ...]:
        """What `generate` says at most, ending where generation_config.json says; the token that ends it is
        the last, where one does."""
        import transformers

        how = transformers.GenerationConfig.from_pretrained(
            str(self.folder),
            **PLAINLY,
            max_new_tokens=max_tokens,
            max_length=None,
            # transformers' cache has as many layers as the encoder, whatever the decoder has.
            use_cache=not self.listens,
        )
        ids = torch.tensor([list(prompt)], device=self.model.device)
        found = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=how,
        )[0].tolist()
        return tuple(found[len(self.start) if self.listens else len(prompt) :])

    @torch.no_grad()
    def logprobs(self, prompt: Sequence[int], answer: Sequence[int]) -> tuple[list[float], list[int]]:
        """The log-probs of an answer's tokens, and the most likely token in the place of each."""
        device = self.model.device
        ids = torch.tensor([list(prompt)], device=device)
        if self.listens:
            written = torch.tensor([[*self.start, *answer[:-1]]], device=device)
            said = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=written)
            logits = said.logits[0, len(self.start) - 1 :]
        else:
            ids = torch.tensor([[*prompt, *answer[:-1]]], device=device)
            said = self.model(input_ids=ids, attention_mask=torch.ones_like(ids))
            logits = said.logits[0, len(prompt) - 1 :]
        every = torch.log_softmax(logits.float(), dim=-1)
        chosen = torch.tensor(list(answer), device=device)
        found = every.gather(1, chosen[:, None])[:, 0]
        return found.tolist(), every.argmax(-1).tolist()

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end an answer, as the folder says."""
        ends = self._generation.get("eos_token_id")
        return frozenset([ends] if isinstance(ends, int) else ends or [])

    @property
    def odd(self) -> dict[str, Any]:
        """What generation_config.json asks for that changes the most likely answer."""
        said = self._generation
        return {k: said[k] for k in CHANGING if said.get(k) not in (None, PLAINLY[k], [])}

    @property
    def _generation(self) -> dict[str, Any]:
        file = self.folder / "generation_config.json"
        return dict(json.loads(file.read_text(encoding="utf-8")))

    @property
    def tied(self) -> bool | None:
        """Whether config.json says that embedding and head are one; None: the folder has none."""
        file = self.folder / "config.json"
        if not file.is_file():
            return None
        said = json.loads(file.read_text(encoding="utf-8"))
        text = said.get("text_config") or said
        return bool(said.get("tie_word_embeddings", text.get("tie_word_embeddings", True)))


def read_folder(
    folder: Path, *, dtype: torch.dtype, device: torch.device, bits: int = 0, start: Sequence[int] = ()
) -> Reader:
    """The model in a folder, computing in `dtype`; an adapter upon its base, of `bits` bits where it was
    trained upon such a one. Raises UserError where it cannot be loaded."""
    import peft
    import transformers

    source = str(folder)
    tokenizer: Any = transformers.AutoTokenizer
    if (folder / ADAPTER_CONFIG).is_file():
        origin = find_origin(source)
        base_config = fetch(transformers.AutoConfig, origin.base)
        tokenizer = fetch(tokenizer, source, config=base_config)
        if bits:
            how = {"quantization_config": quantisation(bits, dtype), "device_map": {"": device}}
            base = own_products(fetch_weights(origin.base, dtype, **how))
            with peft_quiet():
                model: Any = peft.PeftModel.from_pretrained(base, source)
        else:
            both, one = peft.AutoPeftModelForSeq2SeqLM, peft.AutoPeftModelForCausalLM
            kind = both if is_encoder_decoder(base_config) else one
            with peft_quiet():
                model = fetch(kind, source, dtype=dtype).to(device)
    else:
        tokenizer = fetch(tokenizer, source)
        model = fetch(auto_class(fetch(transformers.AutoConfig, source), source), source, dtype=dtype)
        model = model.to(device)
    return Reader(model=model.eval(), tokenizer=tokenizer, folder=folder, start=tuple(start))
