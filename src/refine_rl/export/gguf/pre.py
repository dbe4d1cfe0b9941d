"""What a byte-level tokenizer does to a text before its merges, as llama.cpp calls it.

llama.cpp's converter knows tokenizers by the ids that they give to one text: a tokenizer with a vocabulary of
its own is none of them, though it may cut texts as a known one does. Where tokenizer.json says exactly how it
cuts them, and llama.cpp has that very way, it has a name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NAMES = {_LLAMA_3: "llama-bpe", _LLAMA_3.replace("{1,3}", ""): "qwen2"}
"""Patterns of tokenizer.json, and the names of the same ones in llama.cpp (src/llama-vocab.cpp)."""


def pre_tokenizer_of(folder: Path) -> str:
    """llama.cpp's name of how the tokenizer in `folder` cuts texts; "" where it has none, or is no byte-level
    BPE."""
    file = folder / "tokenizer.json"
    try:
        said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    if (said.get("model") or {}).get("type") != "BPE" or said.get("normalizer") not in (
        None,
        {"type": "NFC"},
    ):
        return ""
    steps = said.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", []) if steps.get("type") == "Sequence" else [steps]
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return ""
    *first, last = steps
    if bool(said["model"].get("ignore_merges")) != (len(first) > 0 and _pattern(first[0]) == _LLAMA_3):
        return ""  # llama.cpp's llama-bpe takes whole words first, and the others do not
    if not first:  # ByteLevel's own pattern is GPT-2's
        return "gpt-2" if last.get("use_regex", True) and said.get("normalizer") is None else ""
    if len(first) > 1 or first[0].get("type") != "Split" or last.get("use_regex", True):
        return ""
    whole = first[0].get("behavior") == "Isolated" and not first[0].get("invert")
    name = _NAMES.get(_pattern(first[0]), "") if whole else ""
    # llama.cpp composes no characters (NFC). Qwen's own tokenizer.json asks for it, and is qwen2 there.
    return name if said.get("normalizer") is None or name == "qwen2" else ""


def _pattern(step: dict[str, Any]) -> str:
    return str((step.get("pattern") or {}).get("Regex", ""))
