"""A run's folder to be shown, and a tracker that keeps what it is given."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import make
from refine_rl.run import RunFolder
from refine_rl.run.trackers.base import About, End, Opened, Row
from refine_rl.settings.file import settings_from_dict

PROMPT = make.prompt(1, "Say | hi.", system="Be <brief>.")


def run_folder(path: Path, **track: Any) -> RunFolder:
    """A run that has begun."""
    task = {"task": "Be brief.", "reward": {"rules": [{"rule": "words", "max": 5}]}, "track": track}
    run = RunFolder.create(path, settings_from_dict(task, path))
    run.save_prompts([PROMPT])
    run.event("started", "run", "cpu")
    return run


def trained(run: RunFolder, *steps: int, **changes: Any) -> None:
    """Steps on record, each with a group of two."""
    for step in steps:
        answers = [
            make.trajectory(PROMPT, text, member=m, tokens=2) for m, text in enumerate(("yes", "no\n|"))
        ]
        run.append_groups([make.group(PROMPT, 1.0, 0.5, step=step, trajectories=answers)])
        run.metrics.append(make.metrics(step, reward_mean=step / 8, **changes))


def look(run: RunFolder, step: int, mean: float) -> None:
    run.validation.append({"step": step, "reward": {"mean": mean, "ci95": [0.0, 1.0]}, "success": 0.25})


def finished(run: RunFolder) -> None:
    run.save_comparison(make.comparison("better", make.contrast(0.25, 0.75)))
    run.save_report("<html>page</html>")
    run.end("better: it is", run.recorded_to())


class Kept:
    """A tracker. `before` is called before each row and at the end, and may raise or hang."""

    def __init__(self, before: Callable[[int], None] = lambda step: None, *, knows: bool = False) -> None:
        self.runs: dict[str, list[Row]] = {}
        self.abouts: list[About] = []
        self.ends: list[End] = []
        self._before, self._knows = before, knows
        self._id, self.left = "", 0
        self.threads: set[threading.Thread] = set()

    def open(self, about: About, known: str) -> Opened:
        self.abouts.append(about)
        self._id = known or f"run-{len(self.runs) + 1}"
        rows = self.runs.setdefault(self._id, [])
        has = max((row.step for row in rows), default=-1) if self._knows else None
        return Opened(id=self._id, has=has, say=f"shown as {self._id}")

    def row(self, row: Row) -> None:
        self.threads.add(threading.current_thread())
        self._before(row.step)
        self.runs[self._id].append(row)

    def close(self, end: End) -> None:
        self._before(1000)
        self.ends.append(end)

    def leave(self) -> None:
        self.left += 1

    @property
    def steps(self) -> dict[str, list[int]]:
        """Of each run there, the steps in the order in which they came."""
        return {name: [row.step for row in rows] for name, rows in self.runs.items()}
