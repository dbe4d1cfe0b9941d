"""A model of random weights in the shape of Qwen3, with a tokenizer whose words are the token ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from refine_rl.errors import UserError
from refine_rl.randomness import torch_seed

HEAD = 64  # width of an attention head


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Two heads share keys and values, the inner width is three times `hidden`, and the head is the
    embedding: the defaults are the bundled model's shape, 3.7 million weights."""

    vocabulary: int = 2048
    hidden: int = 256
    layers: int = 4

    def __str__(self) -> str:
        return f"vocabulary {self.vocabulary:,}, hidden {self.hidden}, layers {self.layers}"

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.hidden % (2 * HEAD):
            raise UserError(f"--hidden {self.hidden}: take a multiple of {2 * HEAD}.")
        if self.vocabulary < 2 or self.layers < 1:
            raise UserError("A model needs two words and a layer: raise --vocabulary or --layers.")


def write_random_model(folder: Path, shape: Shape, *, context: int) -> None:
    """A model of this shape, by `write_model`."""
    import transformers

    heads = shape.hidden // HEAD
    config = transformers.Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=3 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=HEAD,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=None,
    )
    write_model(folder, config)


def write_model(
    folder: Path, config: Any, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> None:
    """A model of random weights (made on `device`) and a tokenizer, as transformers reads them. Text is token
    ids in decimal ("17 4 1023"), so that a prompt of n numbers is n tokens; id 0 ends an answer."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    transformers.utils.logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(torch_seed(0, "random model"))
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder, safe_serialization=True)
    words = Tokenizer(models.WordLevel({str(i): i for i in range(config.vocab_size)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="0", pad_token="0")
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    tokenizer.save_pretrained(folder)
