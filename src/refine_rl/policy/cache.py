"""Where this machine keeps what was made or measured once for all runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """$REFINE_CACHE/KIND, else refine-rl/KIND in $XDG_CACHE_HOME or ~/.cache."""
    if given := os.environ.get("REFINE_CACHE"):
        return Path(given).expanduser() / kind
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "refine-rl" / kind
