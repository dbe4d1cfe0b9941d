"""Small tokenizers of three kinds, with chat templates in the manner of today's models.

from talkers import speech
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from refine_rl.policy.control import Control, control_of
from refine_rl.policy.template import PLAIN_TEMPLATE, render, stop_ids

MOMENT = datetime(2026, 2, 3, 4, 5)
SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|pad|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<s>",
    "</s>",
    "<bos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "[THINK]",
    "[/THINK]",
    "<|start|>",
    "<|end|>",
    "<|channel|>",
    "<|message|>",
    "<|return|>",
    "<|tool_call|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
ADDED = ["<think>", "</think>", "<tool_call>", "<turn>"]  # not special
ENDS = {
    "llama3": "<|eot_id|>",
    "mistral": "</s>",
    "gemma": "<end_of_turn>",
    "channels": "<|return|>",
    "qwen3": "<|im_end|>",
    "deepseek": "</s>",
    "endless": "</s>",
}

TEMPLATES = {
    "chatml": "{% if messages[0].role != 'system' %}<|im_start|>system\nBe good.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "llama3": "<s>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if loop.first %}Today: {{ strftime_now('%d %b %Y') }}\n{% endif %}{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "mistral": "{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}"
    "<s>{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ s + m.content }} [/INST]"
    "{% else %} {{ m.content.strip() }}</s>{% endif %}{% endfor %}",
    "gemma": "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "roles": "{% for m in messages %}{{ '<|' + m.role + '|>' }}{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "channels": "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}"
    "<|channel|>final{% endif %}<|message|>{{ m.content }}"
    "{{ '<|return|>' if m.role == 'assistant' else '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
    "opens": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    "closes": "{% for m in messages %}<turn>{{ m.role }}\n{% if m.content.startswith('<tool_call>') %}!"
    "{% endif %}{{ m.content }}<turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n<think>\n\n</think>\n\n{% endif %}",
    "qwen3": "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
    "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response>"
    "<|im_end|>\n"
    "{% elif m.role == 'assistant' %}{% set c = m.content %}{% if '</think>' in c %}"
    "{% set t = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% else %}{% set t = '' %}{% endif %}"
    "<|im_start|>assistant\n{% if loop.index0 > ns.last and t %}"
    "<think>\n{{ t }}\n</think>\n\n{% endif %}{{ c }}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "deepseek": "<s>{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|assistant|>{{ m.content.split('</think>')[-1] }}</s>"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}",
    "endless": "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{% endif %}{% endfor %}",
    "plain": PLAIN_TEMPLATE.replace("{{ START }}", ""),
}
WORDS = "hello there, say something short about the cat and the dog; user assistant system model final"


def tokenizer_of(kind: str, template: str) -> Any:
    if kind == "bytes":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:  # in the manner of SentencePiece: a space before the first word, unknown characters as bytes
        kind_of_model = models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True)
        backend = Tokenizer(kind_of_model if kind == "pieces" else models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        alphabet = [chr(c) for c in range(33, 127)]
    if kind == "unigram":
        backend.normalizer = normalizers.NFKC()
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", initial_alphabet=alphabet
        )
    else:
        first = ["<unk>"] if kind == "pieces" else []
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=first, initial_alphabet=alphabet, show_progress=False
        )
    backend.train_from_iterator([WORDS] * 4, trainer)
    if kind == "pieces":
        state = json.loads(backend.to_str())
        vocabulary = state["model"]["vocab"]
        vocabulary.update({f"<0x{b:02X}>": len(vocabulary) + b for b in range(256)})
        backend = Tokenizer.from_str(json.dumps(state))
    backend.add_special_tokens(SPECIAL)
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in ADDED])
    unknown = {} if kind == "bytes" else {"unk_token": "<unk>"}
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=ENDS.get(template, "<|end|>"),
        pad_token="<|pad|>",
        **unknown,
    )
    made.chat_template = TEMPLATES[template]
    return made


def speech(kind: str, template: str) -> tuple[Any, Control, Callable[..., str]]:
    tokenizer = tokenizer_of(kind, template)
    write = partial(render, tokenizer, moment=MOMENT, source="it")
    return tokenizer, control_of(tokenizer, stop_ids(None, tokenizer), write), write
