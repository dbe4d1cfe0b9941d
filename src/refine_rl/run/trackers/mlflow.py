"""MLflow: the server, or the database, that MLFLOW_TRACKING_URI names (without it, mlflow.db in the current
folder)."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Sequence
from typing import Any

from refine_rl.run.trackers.base import About, Cells, End, Opened, Row

_FOREIGN = re.compile(r"[^\w\-. :/]")  # in the names of metrics
_LONGEST = 6000  # characters of a parameter
_AT_ONCE = 100  # parameters in a call
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "stopped": "KILLED"}


class MLflow:
    """A step is one call, so that it is there whole or not at all; which are there is asked where the run
    goes on. Only the client is used: nothing of it is the process's own state."""

    def __init__(self) -> None:
        self._client: Any = None
        self._id = ""
        self._tables: list[str] = []

    def open(self, about: About, known: str) -> Opened:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self._client = MlflowClient()
        has = -1
        if known:
            self._id = known
            self._client.update_run(known, status="RUNNING")
            steps = self._client.get_metric_history(known, "step")
            has = max((metric.step for metric in steps), default=-1)
        else:
            tags = {"kind": about.kind, **({"group": about.group} if about.group else {})}
            experiment = self._experiment(about.project)
            self._id = self._client.create_run(experiment, run_name=about.name, tags=tags).info.run_id
            params = [Param(_name(key), value[:_LONGEST]) for key, value in about.flat.items()]
            for start in range(0, len(params), _AT_ONCE):
                self._client.log_batch(self._id, params=params[start : start + _AT_ONCE])
        settings = json.dumps(about.config, indent=1, ensure_ascii=False)
        self._client.log_text(self._id, settings, "settings.json")
        where = self._client.tracking_uri
        return Opened(id=self._id, has=has, say=f"mlflow: run {self._id} in {about.project!r} at {where}")

    def _experiment(self, project: str) -> str:
        found = self._client.get_experiment_by_name(project)
        return str(found.experiment_id if found else self._client.create_experiment(project))

    def row(self, row: Row) -> None:
        if row.rollouts:
            self._table(f"rollouts/step-{row.step:06d}.json", row.rollouts)
        for warning in row.warnings:
            name, _, text = warning.partition(": ")
            self._client.set_tag(self._id, f"warning.{_name(name)}", text[:_LONGEST])
        self._client.log_batch(self._id, metrics=self._metrics(row.values, row.step))

    def close(self, end: End) -> None:
        self._client.log_batch(self._id, metrics=self._metrics(end.values, end.step))
        for name, cells in end.tables.items():
            self._table(f"{name}.json", cells)
        told = {"state": end.state, "end": end.text[:_LONGEST], "verdict": end.verdict}
        for name, text in told.items():
            if text:
                self._client.set_tag(self._id, name, text)
        if end.page is not None:
            self._client.log_artifact(self._id, str(end.page))
        self._client.set_terminated(self._id, _STATUS.get(end.state, "FAILED"))

    def leave(self) -> None: ...

    def _metrics(self, values: Any, step: int) -> list[Any]:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        return [Metric(_name(name), value, now, step) for name, value in values.items()]

    def _table(self, file: str, cells: Sequence[Cells]) -> None:
        """In the form of `log_table`, which needs pandas."""
        columns = list(cells[0]) if cells else []
        rows = [[each.get(column) for column in columns] for each in cells]
        table = json.dumps({"columns": columns, "data": rows}, ensure_ascii=False)
        self._client.log_text(self._id, table, file)
        if file not in self._tables:
            self._tables.append(file)
            named = json.dumps([{"path": path, "type": "table"} for path in self._tables])
            self._client.set_tag(self._id, "mlflow.loggedArtifacts", named)


def _name(text: str) -> str:
    """As MLflow takes it.

    >>> _name("component/no, never")
    'component/no_ never'
    """
    return _FOREIGN.sub("_", text)
