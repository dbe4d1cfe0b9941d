"""Trackio: a database on this machine, or a Space or server that its environment variables name."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from refine_rl.run.trackers.base import About, Cells, End, Opened, Row


class Trackio:
    """It finds a run by its name alone; so the name has a few letters that no other run has."""

    def __init__(self) -> None:
        self._run: Any = None
        self._heard: list[str] = []  # what it warns of

    def open(self, about: About, known: str) -> Opened:
        import trackio
        from trackio import run, utils

        for module in (trackio, run, utils):
            vars(module)["print"] = _silent  # it would print over the run's own lines
            vars(module)["_emit_nonfatal_warning"] = self._hear
        name = known or f"{about.name}-{secrets.token_hex(3)}"
        self._run = trackio.init(
            project=about.project,
            name=name,
            group=about.group or None,
            config=dict(about.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        has = getattr(self._run, "_next_step", None)  # what its storage says of the run
        say = f"trackio: trackio show --project {about.project!r} (run {name})"
        return Opened(id=name, has=None if has is None else int(has) - 1, say=say)

    def row(self, row: Row) -> None:
        values: dict[str, Any] = {name: value for name, value in row.values.items() if name != "step"}
        if row.rollouts:
            values["rollouts"] = _table(row.rollouts)
        if row.warnings:
            values["warnings"] = _table([{"warning": text} for text in row.warnings])
        self._run.log(values, step=row.step)
        self._require_quiet()

    def close(self, end: End) -> None:
        values: dict[str, Any] = {**end.values, "state": end.state, "end": end.text}
        if end.verdict:
            values["comparison/verdict"] = end.verdict
        values |= {name: _table(cells) for name, cells in end.tables.items() if cells}
        self._run.log(values, step=end.step)
        self._run.finish()
        self._require_quiet()

    def leave(self) -> None:
        self._run.finish()

    def _hear(self, text: str, *rest: object, **options: object) -> None:
        self._heard.append(text)

    def _require_quiet(self) -> None:
        """Raises what it has warned of since."""
        heard, self._heard = self._heard, []
        if heard:
            raise RuntimeError(" ".join(heard))


def _silent(*text: object, **options: object) -> None:
    """In the place of `print`."""


def _table(cells: Sequence[Cells]) -> Any:
    import trackio

    columns = list(cells[0])
    return trackio.Table(columns=columns, data=[[each.get(c) for c in columns] for each in cells])
