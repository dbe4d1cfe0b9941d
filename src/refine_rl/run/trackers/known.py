"""What the trackers have of a run, in a file of its folder: how an earlier process's run is found again."""

from __future__ import annotations

import dataclasses
import json
import threading
from dataclasses import dataclass
from pathlib import Path

from refine_rl.run.files import replace

FILE = "trackers.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """Of one tracker: the run's `id` there, the last step that was `sent` (-1: none), how often the run had
    gone `back` to an earlier step, and how it `ended` there ("" while it goes on)."""

    id: str
    sent: int = -1
    back: int = 0
    ended: str = ""


class Knowledge:
    """The file. Several threads may use it; one that a person damaged counts as absent."""

    def __init__(self, folder: Path) -> None:
        self._file = folder.absolute() / FILE
        self._lock = threading.Lock()

    def get(self, tracker: str) -> Known | None:
        with self._lock:
            return self._read().get(tracker)

    def put(self, tracker: str, known: Known) -> None:
        with self._lock:
            all_ = {**self._read(), tracker: known}
            text = json.dumps({name: dataclasses.asdict(one) for name, one in all_.items()}, indent=1)
            replace(self._file, text + "\n")

    def _read(self) -> dict[str, Known]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            return {name: Known(**one) for name, one in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}
