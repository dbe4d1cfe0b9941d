"""Weights & Biases. Without a login, or without a way to its server, it keeps the run in the run's folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from typing import Any

from refine_rl.errors import quoted
from refine_rl.run.trackers.base import About, Cells, End, Opened, Row
from refine_rl.run.trackers.wandb_files import newest_step

_SECONDS = 20.0  # that its server is waited for


class Wandb:
    """A resumed run goes on under its id. What is there already says its server, or its files here."""

    def __init__(self) -> None:
        self._run: Any = None

    def open(self, about: About, known: str) -> Opened:
        import wandb

        wandb.setup(settings=wandb.Settings(silent=True, console="off"))
        place = about.folder / "wandb"
        here = newest_step(place, known) if known else -1
        id_ = known or secrets.token_hex(4)
        mode: Any = None if os.environ.get("WANDB_MODE") else _mode()
        try:
            self._run = self._begun(about, id_, mode)
        except Exception:
            if mode == "offline":
                raise
            self._run = self._begun(about, id_, "offline")  # no way to the server, or a wrong key
        if not self._run.offline:
            return Opened(id=id_, has=self._run.starting_step - 1, say=f"wandb: {self._run.url}")
        say = (
            f"wandb is offline: the run is kept in {place}. To send it: "
            f"wandb sync {quoted(place)}/offline-run-*-{id_}"
        )
        return Opened(id=id_, has=here, say=say)

    def _begun(self, about: About, id_: str, mode: Any) -> Any:
        import wandb

        return wandb.init(
            project=about.project,
            name=about.name,
            group=about.group or None,
            job_type=about.kind,
            id=id_,
            resume="allow",
            dir=str(about.folder),
            config=dict(about.config),
            mode=mode,
            reinit="create_new",  # another run of this process may be shown as well
            settings=wandb.Settings(
                console="off",
                silent=True,
                quiet=True,
                disable_git=True,
                disable_code=True,
                save_code=False,
                init_timeout=_SECONDS,
                finish_timeout=_SECONDS,
            ),
        )

    def row(self, row: Row) -> None:
        values: dict[str, Any] = dict(row.values)
        if row.rollouts:
            values["rollouts"] = _table(row.rollouts)
        self._run.log(values, step=row.step, commit=True)

    def close(self, end: End) -> None:
        run = self._run
        shown = {name: _table(cells) for name, cells in end.tables.items() if cells}
        # In the history they would take a step's place, behind which that step could not be shown any more.
        run.summary.update(shown)
        run.summary.update({**end.values, "state": end.state, "end": end.text})
        if end.verdict:
            run.summary.update({"comparison/verdict": end.verdict})
        if end.page is not None:
            run.save(str(end.page), base_path=str(end.page.parent), policy="now")
        run.finish(exit_code=0 if end.state == "finished" else 1)

    def leave(self) -> None:
        self._run.finish(exit_code=1)


def _mode() -> str:
    """Whether its server is asked: where a person has logged in, or the environment has a key, and it
    answers."""
    import wandb

    try:
        return "online" if wandb.login(prompt=False) else "offline"
    except Exception:
        return "offline"


def _table(cells: Sequence[Cells]) -> Any:
    import wandb

    columns = list(cells[0])
    return wandb.Table(columns=columns, data=[[each.get(c) for c in columns] for each in cells])
