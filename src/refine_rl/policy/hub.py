"""Whether the model hub answers: asked once, so that nobody waits while its library tries each file again."""

from __future__ import annotations

from functools import cache
from typing import Any

PATIENCE = 5.0
"""Seconds for the one question."""


@cache
def hub_answers() -> bool:
    """Whether files of the hub can be asked for; else only those in its cache on this machine are to be had.
    True where the library was told to stay offline: it asks nobody then, and says so itself."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    try:
        _ask(constants.ENDPOINT)
    except Exception:  # no network, no name, a proxy that refuses: whatever the client raises
        return False
    return True


def hub_address() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _ask(address: str) -> Any:
    from huggingface_hub import get_session

    return get_session().head(address, timeout=PATIENCE)
