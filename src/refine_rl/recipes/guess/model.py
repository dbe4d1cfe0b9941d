"""The untrained model of the recipe `guess`: decoder-only, of 0.9 million weights; a number and a word of the
game are one token each."""

from __future__ import annotations

import runpy
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 128
PAD, ASK, END = "<|pad|>", "<|guess|>", "<|end|>"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|guess|>{{ m.content }}<|end|>{% else %}"
    "{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|guess|>{% endif %}"
)


def make(folder: Path, seed: int) -> None:
    """Writes the model with random weights of `seed`, and its tokenizer, into `folder`."""
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=384,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def texts() -> Iterable[str]:
    """Every word and every number of the game."""
    prompts = runpy.run_path(str(Path(__file__).with_name("prompts.py")))
    for number in range(prompts["LEAST"], prompts["MOST"] + 1):
        yield from (form.format(low=number, high=number) for form in prompts["FORMS"])
    yield from ("right", "higher", "lower", "say a number", "it was")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose words have all grown together; any other text is spelled in bytes. A number is the
    same token wherever it stands."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d+| ?[a-zA-Z]+|[^\sa-zA-Z0-9]+|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,  # more than there are words
        special_tokens=[PAD, ASK, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator((text for text in texts() for _ in range(2)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[ASK],
        chat_template=TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
