"""The untrained model of the recipe `wordle`: a decoder of half a million parameters, for which every word of
the list is one token, and every letter in its place with its mark another.
"""

from __future__ import annotations

import runpy
import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_rules = runpy.run_path(str(Path(__file__).with_name("rules.py")))
_ask = runpy.run_path(str(Path(__file__).with_name("prompts.py")))["ASK"]
_not_a_word = runpy.run_path(str(Path(__file__).with_name("world.py")))["NOT_A_WORD"]

PAD, END, UNKNOWN = "<pad>", "<end>", "<unk>"
TEMPLATE = (
    "{% for message in messages %}{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n' }}{% endif %}{% endfor %}"
)
"""A game as it is read: play spare<end>1s+ 2p+ 3a- 4r? 5e+ spree<end>"""
CONTEXT = 64


def make(folder: Path, seed: int) -> None:
    """Writes the model and its tokenizer into `folder`; the same ones for the same seed."""
    tokenizer = new_tokenizer()
    new_model(tokenizer, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Words of the list, letters with marks, and what else is said in a game; all other texts are unknown."""
    marks = _rules["RIGHT"] + _rules["ELSEWHERE"] + _rules["ABSENT"]
    places = range(1, _rules["LENGTH"] + 1)
    marked = [f"{n}{letter}{mark}" for n in places for letter in string.ascii_lowercase for mark in marks]
    vocabulary = [PAD, END, UNKNOWN, "\n", _ask, _not_a_word, *marked, *_rules["words"]()]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A decoder with random weights."""
    torch.manual_seed(seed)
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        **special,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**special)
    return model
