"""The untrained model of the recipe `codet5`: CodeT5's architecture with 2.9M parameters, and its tokenizer.

As in CodeT5: T5's encoder-decoder with tied embeddings and a byte-level BPE that keeps every character of
code, new lines and braces too. The tokenizer is made on functions and docstrings of `grammar.py`.
"""

from __future__ import annotations

import runpy
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

VOCABULARY = 2048
CONTEXT = 512
TEXTS = 12_000
"""Functions on which the tokenizer is made."""
PAD, END, START = "<pad>", "</s>", "<s>"
PIECES = r"[A-Z]?[a-z]+ ?|[A-Z]+(?![a-z]) ?|\d ?|_+|\n *|[^\sA-Za-z0-9_]+ ?|\s+"
"""What is never put together into one token: snake_case and camelCase are split, a space belongs to the word
before it."""


def make(folder: Path, seed: int) -> None:
    """Writes the model and its tokenizer into `folder`; the same ones for the same seed."""
    draw_pairs = runpy.run_path(str(Path(__file__).with_name("pairs.py")))["pairs"]
    tokenizer = train_tokenizer(text for pair in draw_pairs(TEXTS, 0) for text in pair.values())
    new_model(tokenizer, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer for these texts; every text comes back as it was."""
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(PIECES), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        bos_token=START,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> T5ForConditionalGeneration:
    """A T5 with random weights. The decoder is not deeper than the encoder: transformers' own `generate`
    cannot cache for such a one."""
    torch.manual_seed(seed)
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    start = {"decoder_start_token_id": tokenizer.pad_token_id}
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=192,
        d_kv=64,
        d_ff=768,
        num_layers=3,
        num_decoder_layers=2,
        num_heads=3,
        relative_attention_max_distance=64,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        **special,
        **start,
    )
    model = T5ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**special, **start)
    return model
