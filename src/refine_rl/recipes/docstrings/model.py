"""The untrained model of the recipe `docstrings`: decoder-only, of 4.8 million weights, with a tokenizer of
its own that reads code as words.

What is a name in code and a word in its docstring has to be one token, or a model this small never learns to
say it: `getUserID`, `get_user_id` and "get user id" are read as the same three words. So what the model
writes is in lower case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from refine_rl.errors import UserError

PAIRS = Path(__file__).with_name("pairs.jsonl")
VOCABULARY = 6144
ROWS = 8000  # from which the tokenizer is learnt
CONTEXT = 512
PAD, ASK, END = "<|pad|>", "<|doc|>", "<|end|>"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|doc|> {{ m.content }}<|end|>{% else %} "
    "{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|doc|>{% endif %}"
)


def make(folder: Path, seed: int) -> None:
    """Writes the model with random weights of `seed` into `folder`, its tokenizer learnt from `pairs.jsonl`.
    Raises UserError where that file is not there."""
    tokenizer = make_tokenizer(texts())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=704,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def texts() -> Iterator[str]:
    """What the tokenizer is learnt from: code and docstrings for training."""
    if not PAIRS.is_file():
        raise UserError(
            f"{PAIRS} is not there: README.md beside it has the command that makes it (`refine data`)"
        )
    with PAIRS.open(encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines)
        train = (row for row in rows if row["split"] == "train")
        for _, row in zip(range(ROWS), train, strict=False):
            yield f"{row['code']}\n {row['answer']}"


def make_tokenizer(corpus: Iterator[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over words: names are taken apart at underscores and capitals, all is in lower case, and
    a space belongs to the word behind it."""
    words = Tokenizer(models.BPE())
    words.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex("(?<=[a-z0-9])(?=[A-Z])"), " "),
            normalizers.Replace("_", " "),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"(?<=[^a-z0-9\s])(?=[a-z])"), " "),  # "(user" -> "( user"
        ]
    )
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[a-z]+| ?[0-9]| ?[^a-z0-9\s]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, ASK, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[ASK],
        chat_template=TEMPLATE,
        model_max_length=CONTEXT,
    )
