"""TensorBoard: event files in the run's folder. `tensorboard --logdir runs` shows all runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from refine_rl.run.trackers.base import About, Cells, End, Opened, Row

FOLDER = "tensorboard"


class TensorBoard:
    """Of event files a last part may be lost or doubled. So where a run goes on they are made anew, with
    every step; the first thing in them tells a reader that is at work to forget what it has read."""

    def __init__(self) -> None:
        self._writer: Any = None

    def open(self, about: About, known: str) -> Opened:
        from torch.utils.tensorboard import SummaryWriter  # late: torch, and TensorBoard itself

        folder = about.folder / FOLDER
        before = [*folder.glob("events.out.tfevents.*")]
        for file in before:
            file.unlink()
        self._writer = SummaryWriter(str(folder), purge_step=0 if before else None, flush_secs=10)
        settings = json.dumps(about.config, indent=1, ensure_ascii=False)
        self._writer.add_text("settings", f"```json\n{settings}\n```", 0)
        self._writer.flush()
        return Opened(id=FOLDER, has=-1, say=f"tensorboard: tensorboard --logdir {about.folder.parent}")

    def row(self, row: Row) -> None:
        for name, value in row.values.items():
            if name != "step":
                self._writer.add_scalar(name, value, row.step)
        if row.rollouts:
            self._writer.add_text("rollouts", markdown(row.rollouts), row.step)
        for warning in row.warnings:
            self._writer.add_text("warnings", warning, row.step)
        self._writer.flush()

    def close(self, end: End) -> None:
        for name, value in end.values.items():
            self._writer.add_scalar(name, value, end.step)
        how = f"{end.state}: {end.text}" if end.text else end.state
        self._writer.add_text("end", how, end.step)
        for name, cells in end.tables.items():
            self._writer.add_text(name, markdown(cells), end.step)
        self._writer.close()

    def leave(self) -> None:
        self._writer.close()


def markdown(cells: Sequence[Cells]) -> str:
    """A table; line ends and bars in a cell are written so that they stay in it.

    >>> print(markdown([{"prompt": "a|b", "reward": 0.5}]))
    | prompt | reward |
    |---|---|
    | a&#124;b | 0.5 |
    """
    columns = list(cells[0]) if cells else []
    lines = [_line({c: c for c in columns}, columns), "|" + "---|" * len(columns)]
    return "\n".join([*lines, *(_line(each, columns) for each in cells)])


def _line(cells: Mapping[str, Any], columns: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cells.get(column)) for column in columns) + " |"


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return text.replace("\n", "<br>")
