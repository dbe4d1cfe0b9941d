"""Whether a GGUF file holds the merged model: its weights one by one, its tokens, its ends, its template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from refine_rl.export.check import Check
from refine_rl.export.gguf.file import GgufFile, read_gguf
from refine_rl.export.witness import Witness

KNOWN = (
    "llama",
    "qwen2",
    "qwen3",
    "gpt2",
    "t5",
    "gemma",
    "gemma2",
    "gemma3",
    "smollm3",
    "olmo2",
    "starcoder2",
)
"""Architectures of which it is known here how llama.cpp lays their weights down."""
ENDS = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response|>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
    ]
)
"""Tokens at which llama.cpp ends an answer by their text alone (src/llama-vocab.cpp)."""
_ROUNDING = {"F32": (0.0, 0.0), "F16": (2.0**-11, 2.0**-25), "BF16": (2.0**-8, 2.0**-133)}
"""What rounding to a format may change: a share of the value, and a number."""
_BLOCK = 32  # values of Q8_0 with one scale
SHOWN = 3


def check_gguf(path: Path, folder: Path, witness: Witness) -> list[Check]:
    """What was found in a file that was made of the merged model in `folder`, which is float32."""
    import transformers

    file = read_gguf(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    found = [_weights(file, folder), _vocabulary(file, tokenizer), _ends(file, tokenizer, witness)]
    if not witness.start:
        found.append(_template(file, tokenizer))
    return found


def _weights(file: GgufFile, folder: Path) -> Check:
    arch, known = file.architecture, file.architecture in KNOWN
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = _names(file, folder)
    seen, wrong, forms = set(), [], set()
    for name, values in _tensors(folder):
        stored = names.get(name)
        if stored is None or stored not in file.names:
            wrong.append(f"{name} is not there")
            continue
        seen.add(stored)
        forms.add(file.form(stored))
        if fault := _fault(file, stored, laid_down(arch, stored, values, config)):
            wrong.append(f"{stored} {fault}")
    more = [n for n in file.names if n not in seen and not n.startswith("rope_f")]
    wrong += [f"{n} is one too many" for n in more]
    count = len(file.names)
    if not wrong:
        return Check(text=f"weights: {count} tensors of {arch}, equal in {', '.join(sorted(forms))}")
    listed = ", ".join(wrong[:SHOWN]) + (" ..." if len(wrong) > SHOWN else "")
    if known:
        return Check(held=False, text=f"{len(wrong)} of {count} tensors are not the merged model's: {listed}")
    return Check(
        held=False,
        fatal=False,
        text=f"{len(wrong)} of {count} tensors were not compared, as it is not known here how llama.cpp lays "
        f"down those of {arch}: {listed}",
    )


def _names(file: GgufFile, folder: Path) -> dict[str, str]:
    """The names in the file of the folder's tensors."""
    import gguf

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    kind = kinds.get(file.architecture)
    if kind is None:
        return {}
    blocks = int(file.get(f"{file.architecture}.block_count", 0))
    known = gguf.get_tensor_name_map(kind, blocks)
    found = {name: known.get_name(name, try_suffixes=(".weight", ".bias")) for name, _ in _tensors(folder)}
    return {name: stored for name, stored in found.items() if stored is not None}


def _tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors import safe_open

    for part in sorted(folder.glob("*.safetensors")):
        with safe_open(part, "np") as content:
            for name in content.keys():  # noqa: SIM118 - it is no dict
                yield name, content.get_tensor(name)


def laid_down(arch: str, name: str, values: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """A weight of transformers as llama.cpp lays it down under `name`: the rows of llama's queries and keys
    are in another order, as its rotations pair neighbours; GPT-2's linear layers are turned; Gemma's norms
    are one more."""
    if arch == "llama" and (".attn_q." in name or ".attn_k." in name):
        heads = int(config["num_attention_heads"])
        if ".attn_k." in name:
            heads = int(config.get("num_key_value_heads") or heads)
        pairs = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        return pairs.swapaxes(1, 2).reshape(values.shape)
    if arch == "gpt2" and values.ndim == 2 and name.startswith("blk."):
        return values.T
    if arch.startswith("gemma") and name.endswith("norm.weight"):
        return values + 1
    return values


def _fault(file: GgufFile, name: str, wanted: np.ndarray) -> str:
    """What is wrong with a tensor; "" where it is `wanted`, rounded to its format."""
    found, form = file.values(name), file.form(name)
    if found.size != wanted.size or found.squeeze().shape != wanted.squeeze().shape:
        return f"is {'x'.join(map(str, found.shape))} and not {'x'.join(map(str, wanted.shape))}"
    found, size = found.reshape(wanted.shape), np.abs(wanted)
    if form == "Q8_0":
        top = size.reshape(-1, _BLOCK).max(axis=1).repeat(_BLOCK).reshape(wanted.shape)
        allowed = top * (0.51 / 127 + 2.0**-11) + 2.0**-20
    elif form in _ROUNDING:
        share, least = _ROUNDING[form]
        allowed = size * share + least
    else:
        return f"is {form}, which was not asked for"
    away = np.abs(found - wanted)
    if (away <= allowed).all():
        return ""
    return f"is up to {away.max():.2g} away"


def _vocabulary(file: GgufFile, tokenizer: Any) -> Check:
    tokens, size = file.tokens, len(tokenizer)
    odd = [
        i
        for i, own in enumerate(tokenizer.convert_ids_to_tokens(range(min(size, len(tokens)))))
        # What stands as it is in a text is there as it reads, not in the tokenizer's own letters.
        if tokens[i] != own and tokens[i] != tokenizer.decode([i])
    ]
    if len(tokens) < size:
        return Check(held=False, text=f"the vocabulary has {len(tokens)} tokens, and the tokenizer {size}")
    if odd:
        shown = ", ".join(f"{i} ({tokens[i]!r})" for i in odd[:SHOWN])
        return Check(held=False, text=f"{len(odd)} tokens are others than the tokenizer's: {shown}")
    return Check(text=f"vocabulary: {size} tokens, the tokenizer's")


def _ends(file: GgufFile, tokenizer: Any, witness: Witness) -> Check:
    tokens = file.tokens
    known = file.ends | {i for i, token in enumerate(tokens) if token in ENDS}
    names = [f"{tokenizer.convert_ids_to_tokens(i)} ({i})" for i in sorted(witness.stop_ids)]
    lost = [n for n, i in zip(names, sorted(witness.stop_ids), strict=True) if i not in known]
    if not lost:
        return Check(text=f"ends: llama.cpp ends an answer where training did: {', '.join(names)}")
    every = len(lost) == len(names)
    return Check(
        held=False,
        fatal=every,
        text=f"llama.cpp does not know that {', '.join(lost)} ends an answer, as it did in training"
        + ("" if every else f': have it stop there (in a request: "stop": [{", ".join(map(repr, lost))}])'),
    )


def _template(file: GgufFile, tokenizer: Any) -> Check:
    if file.get("tokenizer.chat_template") == tokenizer.chat_template:
        return Check(text="template: the chat template is the tokenizer's")
    return Check(held=False, text="the chat template in the file is not the tokenizer's")
