"""Small random models of kinds that conftest's `make_model` does not make: encoder-decoders.

from models import listening_model
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEXTS = (
    "hello there, say something short about the cat and the dog",
    "the cat and the dog and the cat say hello to the short dog",
    "def add(a, b): return a + b",
    "Adds two numbers. Returns their sum.",
)

FAMILIES = ("t5", "t5-gated", "mt5", "bart")


def listening_model(
    folder: Path, family: str = "t5", *, texts: Sequence[str] = TEXTS, words: int = 300, **changes: Any
) -> Path:
    """A folder with a small random encoder-decoder and a tokenizer of its own, trained on `texts`.

    `family` is one of FAMILIES: T5 with ReLU (as CodeT5), T5 1.1 (gated, its logits not scaled), mT5
    (gated, a head of its own), BART. `changes` are keys of its configuration."""
    import torch
    import transformers

    tokenizer = listening_tokenizer(texts, words, bart=family == "bart")
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForSeq2SeqLM.from_config(_config(family, ids, changes))
        # Larger weights than a fresh model's: otherwise all next-token distributions are nearly flat.
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:  # T5 does not scale what queries and keys make
                torch.nn.init.normal_(parameter, std=0.06 if name.endswith(".q.weight") else 0.2)
        if family == "mt5":
            model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn_like(model.lm_head.weight))
            model.config.tie_word_embeddings = False
        if family == "bart":
            model.final_logits_bias.normal_(std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(family: str, ids: dict[str, Any], changes: dict[str, Any]) -> Any:
    import transformers

    if family == "bart":
        sizes: dict[str, Any] = {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 96,
            "decoder_start_token_id": ids["eos_token_id"],
            "forced_eos_token_id": None,
        }
        return transformers.BartConfig(**{**sizes, "bos_token_id": 0, **ids, **changes})
    sizes = {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "num_heads": 4,
        "decoder_start_token_id": ids["pad_token_id"],
        "feed_forward_proj": "relu" if family == "t5" else "gated-gelu",
        "tie_word_embeddings": family == "t5",
    }
    kind = transformers.MT5Config if family == "mt5" else transformers.T5Config
    return kind(**{**sizes, **ids, **changes})


def listening_tokenizer(texts: Sequence[str], words: int, *, bart: bool = False) -> Any:
    """Byte-level BPE, which loses nothing; `</s>` ends a text, and BART's begins with `<s>`."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<extra_id_0>"]
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(texts) * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if bart else "$A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<extra_id_0>"],
    )


def losing_tokenizer(texts: Sequence[str]) -> Any:
    """As T5's: pieces of words, no line ends, one space for several, and `<unk>` for what was never seen."""
    import transformers
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(list(texts) * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
