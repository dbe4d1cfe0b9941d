"""Whether the model hub answers: asked once, so that nobody waits while its library tries each file again.
Which commit a revision is there, and how much of a model has come from it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from refine_rl.errors import SettingsError
from refine_rl.progress import Counted
from refine_rl.settings.revision import is_commit, on_hub

PATIENCE = 5.0
"""Seconds for the one question."""
BETWEEN = 0.5
"""Seconds between two looks at what has come."""
_MB = 1_000_000
_SHOWN = 10  # names of branches and tags


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


def commit_of(name: str, revision: str | None, *, key: str, kind: str = "model") -> str | None:
    """The commit that a revision of a model (or a `kind` "dataset") is now; None where that cannot be told:
    no hub and nothing in its cache, no such name, no access. Raises SettingsError, with the `key` that names
    it, where the hub has the name and no such revision."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import RevisionNotFoundError

    if revision is not None and is_commit(revision):
        return revision
    api = huggingface_hub.HfApi()
    try:
        # It notes the answer in the hub's cache as well, where `main` is looked up without the network.
        found = api.resolve_revision(
            name,
            repo_type=kind,
            revision=revision,
            cache_dir=constants.HF_HUB_CACHE,
            local_files_only=constants.HF_HUB_OFFLINE or not hub_answers(),
        )
        return str(found.resolved)
    except RevisionNotFoundError as error:
        page = f"{hub_address()}/{'datasets/' if kind == 'dataset' else ''}{name}"
        raise SettingsError(
            f"`{key}`: the hub has no branch, tag or commit {revision!r} of {name} ({page})."
            f"{_there_are(api, name, kind)}"
        ) from error
    except Exception:  # whoever loads it says what is wrong (and the hub's library may be of before 2.0)
        return None


def _there_are(api: Any, name: str, kind: str) -> str:
    """The branches and tags that there are, where the hub says so."""
    with contextlib.suppress(Exception):
        refs = api.list_repo_refs(name, repo_type=kind)
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
        more = " ..." if len(names) > _SHOWN else ""
        return f" There are {', '.join(names[:_SHOWN])}{more}."
    return ""


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


def _count(source: str, counted: Counted, over: threading.Event) -> None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    with contextlib.suppress(Exception):  # whoever loads the model says what is wrong
        name, at = on_hub(source)
        blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "blobs"
        whole = _weights(name, **at)
        while (here := _bytes_in(blobs)) < whole and not over.wait(BETWEEN):
            counted(here // _MB, whole // _MB)


def _weights(name: str, revision: str | None = None) -> int:
    """Bytes of a model's weights, as the hub says."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=PATIENCE)
    files = info.siblings or []
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
