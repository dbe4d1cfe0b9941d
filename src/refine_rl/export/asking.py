"""A model server of this machine, asked for JSON; no proxy stands in between."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from refine_rl.errors import MachineError

PATIENCE = 300.0
"""Seconds for a model to be loaded, and for an answer."""

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def ask(url: str, asked: Any = None, *, refuses: str, silent: str) -> Any:
    """The JSON that a URL answers: a POST of `asked`, or without it a GET. Raises MachineError, which begins
    with `refuses` before the status and body of an error, and with `silent` where nothing or no JSON came."""
    data = None if asked is None else json.dumps(asked).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with _open(request, timeout=PATIENCE) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:300]
        raise MachineError(f"{refuses} {error.code}: {said}") from error
    except (OSError, ValueError) as error:
        raise MachineError(f"{silent}: {error}") from error
