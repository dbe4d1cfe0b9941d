"""What a model is made of, as hashes: weights, configuration, tokenizer, chat template.

Files alone are read, so that a newer package gives the same. Whole files are hashed; the hash of a large
one is kept under its path, size and times, so that it is read once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from refine_rl.policy.cache import cache_folder
from refine_rl.policy.origin import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Origin
from refine_rl.settings.revision import on_hub

_LARGE = 64 << 20  # bytes from which a file's hash is kept
_INDEX = "model.safetensors.index.json"
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tekken.json",
    "added_tokens.json",
    "special_tokens_map.json",
)


def fingerprint(origin: Origin) -> dict[str, str]:
    """SHA-256 by part: `weights`, `configuration` (with the stop tokens), `tokenizer`, `chat_template` and,
    where there is one, `adapter`. Empty where the files are not on this machine yet."""
    base, words = _folder(origin.base), _folder(origin.tokenizer)
    if base is None or words is None:
        return {}
    settings = _json(words / "tokenizer_config.json")
    template = [settings.pop("chat_template", None)] + [
        (words / file).read_text(encoding="utf-8", errors="replace") if (words / file).is_file() else None
        for file in _TEMPLATES
    ]
    config = _json(base / "config.json")
    config.pop("transformers_version", None)
    stops = _json(base / "generation_config.json").get("eos_token_id")
    found = {
        "weights": _of_files(_weights(base)),
        "configuration": _of([config, stops]),
        "tokenizer": _of([settings, _of_files([words / file for file in _TOKENIZER])]),
        "chat_template": _of(template),
    }
    if origin.adapter is not None and (folder := _folder(origin.adapter, ADAPTER_CONFIG)) is not None:
        found["adapter"] = _of_files([folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS])
    return found


def _folder(source: str, file: str = "config.json") -> Path | None:
    """The folder of a model: itself, or where the hub's files are kept."""
    if Path(source).is_dir():
        return Path(source)
    from transformers.utils import cached_file

    hub_id, at = on_hub(source)
    for name in (file, "tokenizer_config.json"):
        with contextlib.suppress(OSError, ValueError):
            return Path(cached_file(hub_id, name, local_files_only=True, **at)).parent
    return None


def _weights(folder: Path) -> list[Path]:
    """The files that transformers reads."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    parts = _json(folder / _INDEX).get("weight_map", {})
    return [folder / name for name in sorted(set(parts.values()))]


def _json(file: Path) -> dict[str, Any]:
    """A file's JSON object; an empty one where it has none (loading the model says what is wrong)."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _of_files(files: list[Path]) -> str:
    return _of([[file.name, _of_file(file)] for file in files if file.is_file()])


def _of_file(file: Path) -> str:
    info = file.stat()
    if info.st_size < _LARGE:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    known = [str(file.resolve()), info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
    kept = cache_folder("hashes") / _of(known)
    with contextlib.suppress(OSError, ValueError):
        text = kept.read_text(encoding="ascii")
        if len(text) == 64:
            return text
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # read again next time, then
        kept.parent.mkdir(parents=True, exist_ok=True)
        aside = kept.with_name(f"{kept.name}.{os.getpid()}")
        aside.write_text(digest, encoding="ascii")
        aside.replace(kept)
    return digest
