"""Whether the model hub answers: asked once, so that nobody waits while its library tries each file again.
And how much of a model has come from it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from refine_rl.progress import Counted

PATIENCE = 5.0
"""Seconds for the one question."""
BETWEEN = 0.5
"""Seconds between two looks at what has come."""
_MB = 1_000_000


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


@contextlib.contextmanager
def downloading(source: str, counted: Counted) -> Iterator[None]:
    """Inside, `counted` hears from a thread how many megabytes of the weights of a model of the hub are here,
    and of how many, while some are still to come. Nothing depends on it."""
    from huggingface_hub import constants

    over = threading.Event()
    if not Path(source).is_dir() and not constants.HF_HUB_OFFLINE and hub_answers():
        threading.Thread(target=_count, args=(source, counted, over), name="download", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _count(name: str, counted: Counted, over: threading.Event) -> None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "blobs"
    with contextlib.suppress(Exception):  # whoever loads the model says what is wrong
        whole = _weights(name)
        while (here := _bytes_in(blobs)) < whole and not over.wait(BETWEEN):
            counted(here // _MB, whole // _MB)


def _weights(name: str) -> int:
    """Bytes of a model's weights, as the hub says."""
    from huggingface_hub import HfApi

    files = HfApi().model_info(name, files_metadata=True, timeout=PATIENCE).siblings or []
    weights = [f for f in files if f.rfilename.startswith("model") and f.rfilename.endswith(".safetensors")]
    return sum(f.size or 0 for f in weights)


def _bytes_in(folder: Path) -> int:
    sizes = 0
    for file in folder.glob("*"):
        with contextlib.suppress(OSError):  # it got its own name a moment ago
            sizes += file.stat().st_size
    return sizes


def _ask(address: str) -> Any:
    from huggingface_hub import get_session

    return get_session().head(address, timeout=PATIENCE)
