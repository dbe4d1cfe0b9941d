"""Names of the hub: OWNER/NAME, or at a revision of it (a branch, tag or commit) OWNER/NAME@REVISION."""

from __future__ import annotations

import re
from pathlib import Path

from refine_rl.errors import UserError

_WRITTEN = re.compile(r"([A-Za-z0-9][\w.-]*(?:/[\w.-]+)?)@(\w[\w./-]*)")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def name_and_revision(written: str) -> tuple[str, str | None]:
    """The hub id and the revision behind its @; None without one. A folder keeps its name, an @ in it too.

    >>> name_and_revision("some/model@v1.0"), name_and_revision("some/model"), name_and_revision("./a@b")
    (('some/model', 'v1.0'), ('some/model', None), ('./a@b', None))
    """
    found = _WRITTEN.fullmatch(written)
    if found is None or Path(written).is_dir():
        return written, None
    return found[1], found[2]


def on_hub(source: str) -> tuple[str, dict[str, str]]:
    """What from_pretrained is given for a source: its folder or hub id, and the revision, where one is named.
    Raises UserError where a folder has that hub id: from_pretrained would take it, whatever the revision.

    >>> on_hub("some/model@v1.0"), on_hub("some/model")
    (('some/model', {'revision': 'v1.0'}), ('some/model', {}))
    """
    name, revision = name_and_revision(source)
    if revision is None:
        return name, {}
    if Path(name).is_dir():
        raise UserError(
            f"{source}: there is a folder {name} here, and it would be taken for the model of the hub. Start "
            f"from another folder; the folder itself is ./{name}."
        )
    return name, {"revision": revision}


def may_be_on_hub(written: str) -> bool:
    """Whether a model of that name is looked for on the hub: it is neither a folder, nor made or bundled
    here."""
    is_folder = Path(written).expanduser().is_dir()
    return written != "tiny" and not is_folder and bool(_NAME.fullmatch(name_and_revision(written)[0]))


def is_commit(revision: str) -> bool:
    """Whether it is the whole name of a commit, which stays what it is."""
    return _COMMIT.fullmatch(revision) is not None


def shown(written: str) -> str:
    """The name for a person: of a commit, its first signs.

    >>> shown("some/model@" + "0a" * 20), shown("some/model@v1.0")
    ('some/model@0a0a0a0a', 'some/model@v1.0')
    """
    name, revision = name_and_revision(written)
    return f"{name}@{revision[:8]}" if revision and is_commit(revision) else written
