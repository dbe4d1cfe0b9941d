"""Files of a model on the disk."""

from __future__ import annotations

import contextlib
from pathlib import Path


def as_other_files(folder: Path) -> None:
    """Gives the files in `folder` the mode that this process gives its files (0644, mostly). safetensors
    makes its own readable for their owner alone, and a model is there to be shared."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode & 0o666
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file():
            with contextlib.suppress(PermissionError):  # some file systems know no modes
                file.chmod(mode)
