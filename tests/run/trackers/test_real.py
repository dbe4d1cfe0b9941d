"""Each real tracker, read with its own reader: every number as it stands in the run's files, also where the
run was stopped, went on, and was shown again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.run import RunFolder
from refine_rl.run.trackers.base import Tracker
from refine_rl.run.trackers.known import Knowledge
from refine_rl.run.trackers.names import comparison_values, step_values, validation_values
from refine_rl.run.trackers.source import Source
from tracker import finished, look, run_folder, trained

Found = dict[int, dict[str, list[float]]]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return run_folder(tmp_path / "run", name="mine")


def shown(run: RunFolder, make: Callable[[], Tracker], name: str) -> str:
    """Shows the run as two processes would; the run's id there."""
    look(run, 0, 0.5)
    trained(run, 1, 2)
    source, first = Source(run, run.settings()), make()
    opened = first.open(source.about(), "")
    for row in source.rows(-1, 2):
        first.row(row)
    first.leave()
    trained(run, 3)
    look(run, 3, 0.75)
    run.event("warning", "slow", "It is slow.", 3)
    finished(run)
    second = make()
    again = second.open(source.about(), opened.id)
    assert again.id == opened.id
    assert again.has is not None
    for row in source.rows(again.has, 3):
        second.row(row)
    second.close(source.end())
    return opened.id


def found_is_what_is_on_record(run: RunFolder, found: Found) -> None:
    wanted: Found = {}
    for line in (*map(step_values, run.metrics()), *map(validation_values, run.validation())):
        step = int(line.pop("step"))
        wanted.setdefault(step, {}).update({name: [value] for name, value in line.items()})
    assert sorted(found) == [0, 1, 2, 3]
    assert found == wanted


def compared(run: RunFolder) -> dict[str, float]:
    return comparison_values(json.loads((run.path / "comparison.json").read_text()))


def test_tensorboard(run: RunFolder) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from refine_rl.run.trackers.tensorboard import FOLDER, TensorBoard

    shown(run, TensorBoard, "tensorboard")
    events = EventAccumulator(str(run.path / FOLDER), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    found: Found = {}
    ends: dict[str, float] = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            if tag.startswith("comparison/"):
                ends[tag] = event.value
            else:
                found.setdefault(event.step, {}).setdefault(tag, []).append(pytest.approx(event.value))
    found_is_what_is_on_record(run, found)
    assert ends == pytest.approx(compared(run))
    texts = {
        tag.removesuffix("/text_summary"): {
            e.step: e.tensor_proto.string_val[0].decode() for e in events.Tensors(tag)
        }
        for tag in events.Tags()["tensors"]
    }
    assert texts["rollouts"].keys() == {1}
    assert (
        "| system: Be &lt;brief>.<br><br>user: Say &#124; hi. | no<br>&#124; | 0.5 |" in texts["rollouts"][1]
    )
    assert texts["warnings"] == {3: "slow: It is slow."}
    assert texts["end"] == {3: "finished: better: it is"}
    assert json.loads(texts["settings"][0].strip("`").removeprefix("json"))["task"] == "Be brief."


@pytest.mark.filterwarnings("ignore")  # of its own doing
def test_mlflow(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    from mlflow.artifacts import download_artifacts
    from mlflow.tracking import MlflowClient

    from refine_rl.run.trackers.mlflow import MLflow

    name, client = shown(run, MLflow, "mlflow"), MlflowClient()
    there = client.get_run(name)
    found: Found = {}
    for key in there.data.metrics:
        for metric in client.get_metric_history(name, key) if key != "step" else ():
            if not key.startswith("comparison/"):
                found.setdefault(metric.step, {}).setdefault(key, []).append(metric.value)
    found_is_what_is_on_record(run, found)
    ends = {k: v for k, v in there.data.metrics.items() if k.startswith("comparison/")}
    assert ends == compared(run)
    assert there.info.run_name == "mine"
    assert there.info.status == "FINISHED"
    assert there.data.params["rollout.group_size"] == str(run.settings().rollout.group_size)
    assert there.data.tags["warning.slow"] == "It is slow."
    files = {a.path for a in client.list_artifacts(name)}
    assert files == {"rollouts", "events.json", "report.html", "settings.json"}
    [table] = client.list_artifacts(name, "rollouts")
    rows = json.loads(Path(download_artifacts(run_id=name, artifact_path=table.path)).read_text())
    assert rows["columns"] == ["step", "prompt_id", "prompt", "completion", "reward", "advantage"]
    assert [row[3:] for row in rows["data"]] == [["yes", 1.0, 0.25], ["no\n|", 0.5, -0.25]]


@pytest.mark.filterwarnings("ignore")  # of its own doing
def test_trackio(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    pytest.importorskip("trackio")
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    for module in (utils, __import__("trackio.sqlite_storage", fromlist=["x"])):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    from refine_rl.run.trackers.trackio import Trackio

    def make() -> Tracker:
        return Trackio()

    name = shown(run, make, "trackio")
    found: Found = {}
    ends = []
    for line in SQLiteStorage.get_logs("refine", name):
        step = line.pop("step")
        if "state" in line:
            ends.append((step, line))
            continue
        numbers = {k: [v] for k, v in line.items() if isinstance(v, float)}
        found.setdefault(step, {}).update(numbers)
    found_is_what_is_on_record(run, found)
    [(step, end)] = ends
    assert (step, end["state"], end["comparison/verdict"]) == (3, "finished", "better")
    assert {k: v for k, v in end.items() if k in compared(run)} == compared(run)
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore")  # of its own doing
def test_wandb(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    from wandb.proto import wandb_internal_pb2 as proto

    from refine_rl.run.trackers.wandb import Wandb
    from refine_rl.run.trackers.wandb_files import records

    shown(run, Wandb, "wandb")
    found: Found = {}
    last: dict[str, Any] = {}
    for file in sorted(run.path.glob("wandb/offline-run-*/*.wandb")):
        for read in records(file.read_bytes()):
            record = proto.Record()
            record.ParseFromString(read)
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            for key, value in row.items():
                if (
                    isinstance(value, int | float)
                    and not key.startswith(("_", "rollouts/"))
                    and key != "step"
                ):
                    found.setdefault(row["_step"], {}).setdefault(key, []).append(value)
            last |= {i.key or "/".join(i.nested_key): i.value_json for i in record.summary.update}
    found_is_what_is_on_record(run, found)
    assert {k: json.loads(last[k]) for k in compared(run)} == compared(run)
    assert json.loads(last["state"]) == "finished"
    assert json.loads(last["events"])["_type"] == "table-file"
    assert capfd.readouterr() == ("", "")


def test_wandb_files_are_read_across_blocks_and_up_to_where_they_were_cut() -> None:
    from refine_rl.run.trackers.wandb_files import records

    def part(kind: int, data: bytes) -> bytes:
        return b"crc!" + len(data).to_bytes(2, "little") + bytes([kind]) + data

    first = part(1, b"a" * 32000)
    file = b":W&B\x9e\x0b\0" + first
    file += part(2, b"b" * (32768 - len(file) - 7)) + part(3, b"c" * (32768 - 7)) + part(4, b"d")
    whole = [first[7:], file[7 + len(first) + 7 : 32768] + b"c" * (32768 - 7) + b"d"]
    assert list(records(file)) == whole
    near = b":W&B\x9e\x0b\0" + part(1, b"a" * (32768 - 7 - 7 - 4)) + b"\0" * 4 + part(1, b"e")
    assert list(records(near))[1:] == [b"e"]
    assert list(records(near[:-1]))[1:] == []


def test_what_is_known_of_each_tracker_is_a_file_of_the_run(run: RunFolder) -> None:
    from refine_rl.run.trackers.known import Known

    knowledge = Knowledge(run.path)
    assert knowledge.get("wandb") is None
    knowledge.put("wandb", Known(id="a", sent=3))
    knowledge.put("mlflow", Known(id="b", sent=4, back=1, ended="finished"))
    assert Knowledge(run.path).get("wandb") == Known(id="a", sent=3)
    assert Knowledge(run.path).get("mlflow") == Known(id="b", sent=4, back=1, ended="finished")
    (run.path / "trackers.json").write_text('{"wandb": {"id": 3, "more": 1}}')
    assert Knowledge(run.path).get("wandb") is None
