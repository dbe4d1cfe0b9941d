"""Life: how a folder becomes a run, is held by one process alone, and goes where nothing came of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from refine_rl.errors import UserError, quoted
from refine_rl.run.config import CONFIG, versions_now, where_from
from refine_rl.run.files import names, saving
from refine_rl.run.lock import LOCK, Lock
from refine_rl.run.near import did_you_mean, require_one
from refine_rl.run.state import end_of
from refine_rl.run.tables import Tables
from refine_rl.settings import Settings

GIVEN_PROMPTS = "given_prompts.jsonl"
UNUSED = frozenset({LOCK, GIVEN_PROMPTS, f".{CONFIG}.new"})  # of a folder in which no run began


class Life(Tables):
    """The part of a run's folder that knows whose it is."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock: Lock | None = None
        self._at_work = False

    @classmethod
    def claim(cls, path: Path) -> Self:
        """A folder for a run to be created, held by this process alone until `create`'s run is closed with
        `let_go` or abandoned. Raises UserError where somebody else has it."""
        run = cls._claimed(path)
        if run is None:
            raise UserError(_taken(path))
        return run

    @classmethod
    def claim_free(cls, parent: Path, name: str) -> Self:
        """`parent/name`, or `parent/name-2` ... where that is taken, held as by `claim`: two processes that
        ask at the same moment get two folders."""
        claims = (cls._claimed(parent / free) for free in names(name))
        return next(run for run in claims if run is not None)

    @classmethod
    def _claimed(cls, path: Path) -> Self | None:
        """The run of a folder that is this process's from here on; None where it is somebody else's. The
        folder is made where it is not there; an empty one is taken as it is."""
        run = cls(path)
        with saving(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    path.mkdir()
                except FileExistsError:
                    if taken_by(path):
                        return None
                try:
                    run._lock = Lock.take(path, new=True)
                except FileNotFoundError:  # who had it has removed it in between
                    continue
                if run._lock is not None and taken_by(path):  # a run that was made, and let go, in between
                    run.let_go()
                return run if run._lock is not None else None

    @classmethod
    def create(
        cls, path: Path, settings: Settings, *, python_rewards: Sequence[str] = (), kind: str = "grpo"
    ) -> Self:
        """A new run in a folder that has no run yet; nobody holds it."""
        run = cls.claim(path)
        run.begin(settings, python_rewards=python_rewards, kind=kind)
        run.let_go()
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """An existing run. Raises UserError, with the nearest one, where there is none."""
        if not (path / CONFIG).is_file():
            require_one(path)
            hint = did_you_mean(path) or " `refine runs` lists those there are."
            raise UserError(f"{path} is not a run: it has no {CONFIG}.{hint}")
        return cls(path)

    @property
    def begun(self) -> bool:
        """Whether the folder is a run."""
        return (self._root / CONFIG).is_file()

    def begin(self, settings: Settings, *, python_rewards: Sequence[str] = (), kind: str = "grpo") -> None:
        """Makes a run of a folder that was claimed; its `kind` is "grpo" or "sft"."""
        self.config.write(settings, where_from(settings, python_rewards, kind), versions_now(settings))

    def give_prompts(self, lines: str) -> Path:
        """Puts prompts that came from Python into the folder of a run to be begun; returns their file."""
        return self._replace(GIVEN_PROMPTS, lines)

    def let_go(self) -> None:
        """Ends the hold of `claim`; others may write."""
        if self._lock is not None and not self._at_work:
            self._lock.release()
            self._lock = None

    def has_made(self) -> bool:
        """Whether anything is in the folder that a run has made, for which it stays."""
        if not self._root.is_dir():
            return False
        nothing = {*UNUSED, CONFIG, self.times.path.name}
        if not self.under_way.calls():
            nothing.add(self.under_way.table.path.name)
        return not {p.name for p in self._root.iterdir()} <= nothing

    def abandon(self) -> None:
        """Removes the folder of a run that was refused before it began (a mistake in the settings, a
        model that is not there), so that the next try finds its name free. With anything in it that a
        run has made, or in another process's hands, it stays."""
        if not self._root.is_dir():
            return
        if self._lock is None and (lock := Lock.take(self._root)) is not None:
            self._lock = lock
        if self._lock is None:
            return
        if not self.has_made():
            # The lock goes last: as long as it is there, nobody takes the folder for a free one.
            for file in sorted(self._root.iterdir(), key=lambda p: p.name == LOCK):
                file.unlink()
            with contextlib.suppress(OSError):  # somebody has taken it up at this moment
                self._root.rmdir()
        self.let_go()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the run for one writer; a second one is refused. Who has claimed the folder goes on
        holding it."""
        claimed_before = self._lock is not None
        if self._lock is None:
            with saving(self.path):
                self._lock = Lock.take(self._root)
        if self._lock is None or self._at_work:
            raise UserError(f"{self.path} is being written by another process; wait for it or stop it.")
        self._at_work = True
        try:
            yield
        finally:
            self._at_work = False
            with contextlib.suppress(UserError, OSError):  # what ends the run is the news, not this
                if not self.under_way.calls():
                    self.under_way.table.remove()
            if not claimed_before:
                self.let_go()


def taken_by(path: Path) -> bool:
    """Whether there is something already; what a process leaves that was killed before its run
    began is nothing."""
    if not path.is_dir():
        return path.exists() or path.is_symlink()
    return any(entry.name not in UNUSED for entry in path.iterdir())


def _taken(path: Path) -> str:
    if (path / CONFIG).is_file():
        run = Tables(path)
        over = end_of(run.events()) == "finished"
        on = f"It is finished: refine chat {quoted(path)}" if over else f"Go on with it: {run.resume}"
        return f"{path} already exists. {on}; or choose another folder with --run."
    return f"{path} already exists and is no run; choose another folder with --run."
