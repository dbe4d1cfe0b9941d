"""Replies kept on disk, so that what was paid for once is not asked again.

One file a reply, named after everything that matters for it: address, model, messages, temperature, tokens,
schema, form and variation. Several processes may share the folder. A cache that does not work is no error:
the calls are made, and one note says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from refine_rl.llm.client import Reply, Request

_VERSION = 1  # of the files; others are not read


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """$REFINE_CACHE, else refine-rl/llm in $XDG_CACHE_HOME or ~/.cache.

    >>> default_folder({"XDG_CACHE_HOME": "/var/cache"}).as_posix()
    '/var/cache/refine-rl/llm'
    """
    if given := environ.get("REFINE_CACHE"):
        return Path(given).expanduser().absolute()  # a reward function may change the current folder
    above = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(above).expanduser().absolute() / "refine-rl" / "llm"


def cache_key(base_url: str, model: str, request: Request) -> str:
    """Equal exactly for requests that may share a reply; purpose and prompt are not in it."""
    matters = {
        "version": _VERSION,
        "base_url": base_url,
        "model": model,
        "messages": list(request.messages),
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "schema": None if request.schema is None else [request.schema.name, dict(request.schema.schema)],
        "form": request.form,
        "variation": request.variation,
    }
    # The schema's own order is part of what the model sees, so keys are not sorted.
    return hashlib.sha256(json.dumps(matters).encode()).hexdigest()


class Cache:
    """The folder of replies; `note` hears once where it cannot be used."""

    def __init__(self, folder: Path, note: Callable[[str], None] = lambda text: None) -> None:
        self._folder = folder
        self._note = note
        self._noted = False

    def get(self, key: str) -> Reply | None:
        """The reply of that key; None where there is none, or a file that is torn or not ours."""
        try:
            record = json.loads(self._path(key).read_text(encoding="utf-8"))
            if record["version"] != _VERSION or record["key"] != key or not isinstance(record["text"], str):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Reply(text=record["text"], tokens_in=0, tokens_out=0, cost_usd=0.0, cached=True)

    def put(self, key: str, reply: Reply) -> None:
        """Keeps a whole reply; cut ones and refusals are not kept."""
        if reply.finish != "stop" or not reply.text:
            return
        record = {
            "version": _VERSION,
            "key": key,
            "text": reply.text,
            "tokens_in": reply.tokens_in,
            "tokens_out": reply.tokens_out,
        }
        path = self._path(key)
        aside = path.with_name(f"{key}.{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            aside.touch(mode=0o600)
            aside.write_text(json.dumps(record), encoding="utf-8")
            aside.replace(path)
        except OSError as problem:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            if not self._noted:
                self._noted = True
                self._note(f"Replies cannot be kept in {self._folder}: {problem.strerror}. Going on without.")

    def forget(self, key: str) -> bool:
        """Nothing is kept under that key any more; whether something was."""
        try:
            self._path(key).unlink()
        except OSError:
            return False
        return True

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"
