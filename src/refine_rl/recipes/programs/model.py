"""The untrained model of the recipe `programs`: Llama's architecture with 0.7M parameters, and a tokenizer of
its own, a token a word of the requests or a piece of code."""

from __future__ import annotations

import runpy
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = 4000
"""Examples from which the tokenizer is learnt."""
CONTEXT = 128
PAD, ASK, CODE, END = "<|pad|>", "<|ask|>", "<|code|>", "<|end|>"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|code|>{{ m.content }}<|end|>{% else %}"
    "<|ask|>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|code|>{% endif %}"
)


def make(folder: Path, seed: int) -> None:
    """Writes the model and its tokenizer into `folder`; the same ones for the same seed."""
    draw_pairs = runpy.run_path(str(Path(__file__).with_name("pairs.py")))["pairs"]
    tokenizer = make_tokenizer([text for pair in draw_pairs(TEXTS, 0) for text in pair.values()])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=352,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE within words, numbers' digits and signs, a space belonging to what stands behind it;
    every text comes back as it was."""
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n +| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=[PAD, ASK, CODE, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[ASK, CODE],
        chat_template=TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
