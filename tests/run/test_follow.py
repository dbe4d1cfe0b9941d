"""A run that somebody else writes, read on: the same as read whole, at any moment, and nothing twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import make
from refine_rl.errors import UserError
from refine_rl.run import RunFolder
from refine_rl.run.follow import Following, Watched
from refine_rl.run.shapes import EVENTS
from refine_rl.run.table import Table
from refine_rl.settings import Settings

SETTINGS = Settings.model_validate({"task": "Be brief.", "reward": {"rules": [{"rule": "words", "max": 5}]}})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", SETTINGS)


def metrics(run: RunFolder, *steps: int) -> None:
    run.metrics.append(*(make.metrics(step) for step in steps))


def groups(run: RunFolder, step: int, *texts: str) -> None:
    """A step of groups of two, whose first members say the texts."""
    found = []
    for number, text in enumerate(texts):
        prompt = make.prompt(number)
        attempts = [make.trajectory(prompt, said, member=m, tokens=3) for m, said in enumerate((text, "no"))]
        found.append(make.group(prompt, 1.0, 0.0, step=step, trajectories=attempts))
    run.append_groups(found)


class Counted(Following[Any]):
    """Knows how many lines it has read from the disk."""

    read_lines = 0

    def _parsed(self, number: int, line: bytes) -> tuple[int, dict[str, Any] | None, str]:
        self.read_lines += 1
        return super()._parsed(number, line)


def test_each_line_is_read_once(run: RunFolder) -> None:
    followed = Counted(run.metrics)
    assert followed() == []
    metrics(run, 1, 2)
    assert followed() == run.metrics()
    metrics(run, 3)
    assert [m["step"] for m in followed()] == [1, 2, 3]
    assert followed() == run.metrics()
    assert followed.read_lines == 3


def test_a_line_that_is_still_being_written_is_none_yet(run: RunFolder) -> None:
    followed = Counted(run.metrics)
    metrics(run, 1, 2)
    text = run.metrics.path.read_bytes()
    first = text.index(b"\n") + 1
    for end in (0, first - 1, first, first + 1, len(text) - 1, len(text)):
        run.metrics.path.write_bytes(text[:end])
        whole = text[:end].count(b"\n")
        assert [m["step"] for m in followed()] == list(range(1, whole + 1))
    assert followed.read_lines == 2


def test_a_run_that_went_back_is_read_anew(run: RunFolder) -> None:
    followed = Following(run.metrics)
    metrics(run, 1, 2, 3)
    assert len(followed()) == 3
    run.metrics.rewind(1)
    assert [m["step"] for m in followed()] == [1]
    run.metrics.append(make.metrics(2, reward_mean=0.75), make.metrics(3), make.metrics(4))
    assert followed() == run.metrics()
    run.metrics.rewind(1)
    metrics(run, 2, 3, 4)  # as long as before, or longer, before anybody looked
    assert followed() == run.metrics()
    run.metrics.remove()
    assert followed() == []
    metrics(run, 1)
    assert len(followed()) == 1


def test_what_is_damaged_is_named_as_ever(run: RunFolder) -> None:
    followed = Following(run.metrics)
    metrics(run, 1)
    with run.metrics.path.open("a") as file:
        file.write("{}\n")
    for _ in range(2):
        with pytest.raises(UserError, match=r"metrics.jsonl:2: this line is damaged: `step` is missing"):
            followed()
    metrics_of_step_3 = Following(run.groups)
    groups(run, 1, "a")
    groups(run, 3, "a")
    with pytest.raises(UserError, match="step 3 follows step 1"):
        metrics_of_step_3()


@hypothesis_settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["append", "torn", "back", "look"]), st.integers(0, 4)), max_size=25)
)
def test_at_any_moment_it_is_what_the_file_holds(
    tmp_path_factory: pytest.TempPathFactory, done: list[tuple[str, int]]
) -> None:
    table: Table[Any] = Table(tmp_path_factory.mktemp("table") / "lines.jsonl", EVENTS)
    followed = Following(table)
    for number, (what, size) in enumerate(done):
        lines = [make.event("note", f"{number}.{n}", "x" * n * size) for n in range(size)]
        if what == "append":
            table.repair()
            table.append(*lines)
        elif what == "torn":
            with table.path.open("ab") as file:
                file.write(b'{"half": ' * size)
        elif what == "back":
            kept = iter(range(size))
            table.keep(lambda record, kept=kept: next(kept, None) is not None)  # type: ignore[misc]
        else:
            assert followed() == table()
    assert followed() == table()


def test_threads_may_read_at_once(run: RunFolder) -> None:
    followed = Counted(run.events)
    for number in range(200):
        run.event("note", str(number), "")
    start, found = threading.Barrier(4), []

    def read() -> None:
        start.wait(60)
        found.append([e["name"] for e in followed()])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[str(number) for number in range(200)]] * 4
    assert followed.read_lines == 200


def test_the_newest_groups_are_read_from_the_end(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(run.path)
    assert watched.newest_groups() == []
    for step in (1, 2, 3):
        groups(run, step, f"first of {step}", "x" * 3000, "third")
    monkeypatch.setattr("refine_rl.run.follow._BLOCK", 64)  # less than a line
    newest = watched.newest_groups()
    assert newest == run.groups()[-3:]
    assert newest[0]["trajectories"][0]["messages"][-1]["content"] == "first of 3"
    with run.groups.path.open("a") as file:
        file.write('{"step": 4, "half')
    assert watched.newest_groups() == newest
    run.groups.repair()
    lines = run.groups.path.read_bytes().splitlines(keepends=True)
    for damaged in (b'{"step": 3, "half\n', b"\xff\n", b"[3]\n", b'{"step": 3}\n'):
        run.groups.path.write_bytes(b"".join([*lines[:-2], damaged, *lines[-1:], damaged]))
        assert watched.newest_groups() == [newest[0], newest[2]]  # all but the damaged ones
    run.groups.path.write_bytes(b"".join(lines))
    run.groups.rewind(1)
    assert watched.newest_groups() == run.groups()


def test_of_groups_all_is_kept_but_tokens(run: RunFolder) -> None:
    groups(run, 1, "a", "b")
    whole = run.groups()
    for group, thin in zip(whole, Watched(run.path).groups(), strict=True):
        assert len(thin["prompt_tokens"]) == len(group["prompt_tokens"]) == 3
        for attempt, short in zip(group["trajectories"], thin["trajectories"], strict=True):
            assert len(short["tokens"]) == len(attempt["tokens"]) == 3
            left = {"tokens", "logprobs", "spans"}
            assert {k: v for k, v in short.items() if k not in left} == {
                k: v for k, v in attempt.items() if k not in left
            }


def test_settings_are_read_anew_where_they_are_others(run: RunFolder) -> None:
    watched = Watched(run.path)
    first = watched.settings()
    assert first == run.settings()
    assert watched.settings() is first
    run.change(first, SETTINGS.model_copy(update={"task": "Be long."}), 0)
    assert watched.settings().task == "Be long."
    assert watched.config.kind() == "grpo"


def test_whether_anything_was_written(run: RunFolder) -> None:
    watched = Watched(run.path)
    seen = [watched.state_of_files()]

    def wrote(change: Callable[[], object]) -> bool:
        change()
        seen.append(watched.state_of_files())
        return seen[-1] != seen[-2]

    assert wrote(lambda: metrics(run, 1))
    assert wrote(lambda: run.event("note", "a", "b"))
    assert wrote(lambda: run.answers("base").replace([]))
    assert wrote(lambda: run.write_checkpoint(1, lambda folder: None))
    assert wrote(lambda: RunFolder.create(run.sft.path, SETTINGS, kind="sft"))
    assert wrote(lambda: run.sft.event("note", "a", "b"))
    assert not wrote(lambda: None)
    assert not wrote(lambda: run.save_report("the page itself"))
    assert not wrote(lambda: run.under_way.table.append({"ticket": 1, "done": True}))
    assert watched.heard() == pytest.approx(
        max(p.stat().st_mtime for p in (run.sft.events.path, run.sft.path)), abs=1e-5
    )


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "later")
    assert (watched.begun, watched.state_of_files(), watched.heard(), watched.hold()) == (
        False,
        {},
        None,
        None,
    )
    run = RunFolder.create(tmp_path / "later", SETTINGS)
    metrics(run, 1)
    assert watched.begun
    assert watched.metrics() == run.metrics()
    assert json.loads(json.dumps(watched.metrics())) == run.metrics()
