"""The folders of a run that hold weights: there whole or not at all, and nothing else is taken for one."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from refine_rl.run.files import saving

_LEFTOVER = re.compile(r"\.step-\d+\.\d+|\.old-\d+")  # of a kill while one was written or deleted


class Checkpoints:
    """Those of a run, by step. What else lies in their folder is left alone."""

    def __init__(self, path: Path) -> None:
        self.path = path  # as it was given, for words
        # Where the files are, whatever becomes of the current folder: a reward function may change it.
        self._root = path.absolute()

    @property
    def _checkpoints(self) -> Path:
        return self._root / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        return self._checkpoints / f"step-{step:06d}"

    def checkpoints(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        if not self._checkpoints.is_dir():
            return []
        steps = [int(p.name[5:]) for p in self._checkpoints.glob("step-*") if p.name[5:].isdecimal()]
        return sorted(step for step in set(steps) if self.checkpoint(step).is_dir())

    def write_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """`write` fills a folder beside; it gets its name only when everything is on the disk. Where the
        step has a checkpoint already, its files are replaced one by one (only the position differs)."""
        if (place := self.checkpoint(step)).exists() and not place.is_dir():
            self.set_aside(step, "not-a-checkpoint")
        write_folder(place, write)

    def set_aside(self, step: int, why: str = "damaged") -> Path:
        """Renames what stands where the step's checkpoint should, so that a person finds it and no run takes
        it; returns its new place."""
        place = self.checkpoint(step)
        aside = place.with_name(f"{place.name}.{why}")
        remove(aside)
        return place.rename(aside)

    def prune_checkpoints(self, *, keep_newest: int, keep: Iterable[int]) -> list[Path]:
        """Deletes all but the newest ones and `keep` (the best); the folders of those that are left."""
        steps = self.checkpoints()
        kept = {*steps[-max(1, keep_newest) :], *keep}
        for step in steps:
            if step not in kept:
                # Renamed first, so that a kill in the middle leaves no checkpoint with files missing.
                doomed = self._checkpoints / f".old-{step}"
                self.checkpoint(step).rename(doomed)
                remove(doomed)
        return [self.checkpoint(step) for step in steps if step in kept]

    def remove_leftovers(self) -> None:
        if self._checkpoints.is_dir():
            for entry in self._checkpoints.iterdir():
                if _LEFTOVER.fullmatch(entry.name):
                    remove(entry)


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """`write` fills a folder beside, which then takes the target's name. Raises DiskError where the disk does
    not take it; nothing is left of it then."""
    aside = target.parent / f".{target.name}.{os.getpid()}"
    with saving(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(aside)
        aside.mkdir()
        try:
            write(aside)
            for file in aside.rglob("*"):
                if file.is_file():
                    with file.open("rb") as f:
                        os.fsync(f.fileno())
        except Exception:
            shutil.rmtree(aside, ignore_errors=True)  # it would keep a full disk full
            raise
        if target.exists():
            for file in aside.iterdir():
                file.replace(target / file.name)
            aside.rmdir()
        else:
            aside.rename(target)


def remove(path: Path) -> None:
    """Whatever it is: a folder, a file, a link to either, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
