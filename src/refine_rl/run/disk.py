"""Writing to a disk that may be full, read-only or broken: nothing is half there; the error says where."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from refine_rl.errors import disk_error


def write_whole(path: Path, text: str) -> None:
    """A file that is there with all of the text, or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with saving(path):
            aside.write_text(text, encoding="utf-8")
            aside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Names the file (or folder) where the disk does not take what is written inside."""
    try:
        yield
    except Exception as error:
        if (disk := disk_error(error, path)) is not None and disk is not error:
            raise disk from error
        raise
