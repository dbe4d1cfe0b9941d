"""After a guard: the commands that are shown are those that go on."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.cli.going_on import flags
from refine_rl.errors import GuardStop
from refine_rl.llm.client import EndpointDown
from refine_rl.pipeline.ways_on import ways
from refine_rl.run import RunFolder

Refine = Callable[..., Any]


def shown(err: str) -> list[list[str]]:
    """The words of every command that the terminal showed, without the program's name."""
    return [shlex.split(line)[1:] for line in re.findall(r"(?m): (refine train --resume .*)$", err)]


def test_a_reward_that_was_mended_goes_on_from_the_start(refine: Refine, task: Path, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("def mine(completion):\n    raise ValueError('not yet')\n")
    done = refine("train", task, "--run", "run", "--set", f'reward.functions=["{code}:mine"]')
    assert done.code == 3
    assert "start the training over (from step 0)" in done.err
    go_on, over = shown(done.err)
    assert over == [*go_on, "--from-step", "0"]
    code.write_text("def mine(completion):\n    return len(completion) / 99\n")
    done = refine(*over)
    assert done.code == 0, done.err


def test_a_function_that_needs_more_time_gets_it(refine: Refine, task: Path, tmp_path: Path) -> None:
    """The time of a call changes no score that was had, so that a run may go on with more of it."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\n\ndef f(completion):\n    time.sleep(0.02)\n    return len(completion) / 9\n"
    )
    given = ["--set", f'reward.functions=["{slow}:f"]', "--set", "grpo.steps=1", "--run", "run"]
    stopped = refine("train", task, *given, "--set", "reward.timeout=0.001")
    assert stopped.code == 3
    (way,) = re.findall(r"With twice the time for a call: refine (.*)", stopped.err)
    assert way == "train --resume run --set reward.timeout=0.002"
    assert refine(*shlex.split(way.replace("0.002", "60"))).code == 0


def test_an_endpoint_at_another_address(
    refine: Refine, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise EndpointDown("gone", unreached="mine")

    table = ("--set", 'endpoints.mine.base_url="http://127.0.0.1:9/v1"')
    with monkeypatch.context() as patch:
        patch.setattr("refine_rl.pipeline.train.run", gone)
        done = refine("train", task, "--run", "run", *table)
    assert done.code == 4
    go_on, moved = shown(done.err)
    assert go_on == ["train", "--resume", "run"]
    assert moved == [*go_on, "--set", "endpoints.mine.base_url=ADDRESS"]
    assert "no step 2; it has none yet." in refine("replay", "run", "--step", "2").err
    moved[-1] = moved[-1].replace("ADDRESS", "http://127.0.0.1:10/v1")
    assert refine(*moved).code == 0
    assert RunFolder.open(Path("run")).settings().endpoints["mine"].base_url == "http://127.0.0.1:10/v1"


def test_an_endpoint_that_wants_a_key(
    refine: Refine,
    task: Path,
    llm_server: Callable[..., Any],
    llm_brain: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is advised goes on with the run, which does not read the task file again; `refine score` has no
    settings, but a flag."""
    locked = llm_server(moods=lambda n, body: "401" if n < 2 else "ok", brain=llm_brain, models=["judge"])
    table = ("--set", f'endpoints.mine.base_url="{locked.base_url}"', "--set", 'reward.judges=["mine/judge"]')
    done = refine("train", task, "--run", "run", "--set", "grpo.steps=1", *table)
    assert (done.code, 'key_env = "NAME" in [endpoints.mine]' in " ".join(done.err.split())) == (4, True)
    go_on, keyed = shown(done.err)
    assert keyed == [*go_on, "--set", "endpoints.mine.key_env=NAME"]
    Path("a.jsonl").write_text(
        json.dumps({"id": 1, "messages": [{"role": "user", "content": "Hi."}], "completions": ["A", "B"]})
    )
    judged = ("score", "a.jsonl", "--out", "b.jsonl", "--judge", "mine/judge", "--base-url", locked.base_url)
    done = refine(*judged)
    assert (done.code, "name the variable that holds it: --key-env NAME." in " ".join(done.err.split())) == (
        4,
        True,
    )
    monkeypatch.setenv("MINE", "sk-mine")
    assert refine(*judged, "--key-env", "MINE").code == 0
    keyed[-1] = keyed[-1].replace("NAME", "MINE")
    assert refine(*keyed).code == 0
    assert {headers["authorization"] for headers in locked.headers[2:]} == {"Bearer sk-mine"}


def test_what_failed_and_the_advice_are_set_apart() -> None:
    assert str(GuardStop("missing", "Because:\nboom\n", "Mend it.")) == "Because:\nboom\nMend it."
    assert str(GuardStop("missing", "Gone.", "Mend it.")) == "Gone. Mend it."


def test_cut_answers_go_on(refine: Refine, task: Path) -> None:
    few = ("--set", "rollout.max_tokens=2", "--set", "grpo.all_cut_patience=1")
    (way,) = shown(refine("train", task, "--run", "run", *few).err)
    assert way[-2:] == ["--set", "grpo.all_cut_patience=10"]
    assert refine(*way).code == 0


def test_a_reward_that_is_always_the_same_is_ended(refine: Refine, task: Path, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("def mine(completion):\n    return 0.5\n")
    flat = (f'reward.functions=["{code}:mine"]', "reward.rules=[]", "grpo.zero_variance_patience=2")
    done = refine("train", task, "--run", "run", *(word for change in flat for word in ("--set", change)))
    assert done.code == 3
    end, on = shown(done.err)
    assert on[-2:] == ["--set", "grpo.zero_variance_patience=6"]
    assert end[-2:] == ["--set", "grpo.steps=2"]
    assert refine(*end).code == 0
    assert len(RunFolder.open(Path("run")).metrics()) == 2


def test_a_negative_reward_goes_on_by_another_advantage(refine: Refine, task: Path, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("def mine(completion):\n    return -len(completion) / 9\n")
    given = (f'reward.functions=["{code}:mine"]', "reward.rules=[]", "grpo.advantage=maxrl", "grpo.steps=1")
    done = refine("train", task, "--run", "run", *(word for change in given for word in ("--set", change)))
    assert done.code == 3
    on, over = shown(done.err)
    assert (on[-2:], over[-2:]) == (["--set", "grpo.advantage=rloo"], ["--from-step", "0"])
    assert refine(*on).code == 0


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (GuardStop("exploding_gradient", "", ""), ["--from-step 4 --set grpo.learning_rate=0.01"]),
        (GuardStop("not_finite", "", ""), ["--from-step 4 --set grpo.learning_rate=0.01"]),
        (GuardStop("mismatch", "", "", limit=0.0625), ["--set grpo.mismatch_tolerance=0.062"]),
        (GuardStop("no_thoughts", "", ""), ["--set rollout.early_exit.ends=TEXT"]),
        (GuardStop("budget", "budget.hours", ""), ["--set budget.hours=2"]),
        (GuardStop("budget", "budget.hours", "", limit=3.14159), ["--set budget.hours=3.14"]),
        (GuardStop("judge", "", ""), [""]),
        (GuardStop("missing", "why", ""), ["", "--from-step 0"]),
        (
            GuardStop("missing", "did not come back within 300 s (reward.timeout)", ""),
            ["--set reward.timeout=600", "", "--from-step 0"],
        ),
    ],
)
def test_the_flags_of_other_guards(trained: tuple[Path, Any], stop: GuardStop, expected: list[str]) -> None:
    folder = RunFolder.open(trained[0])
    assert folder.checkpoints()[-2:] == [4, 6]
    assert [flags(way) for way in ways(stop, folder)] == expected


@pytest.mark.parametrize(
    ("cut_at_first", "expected"),
    [
        (0.5, ["--set grpo.all_cut_patience=990"]),
        (0.1, ["--from-step 4 --set grpo.learning_rate=0.01", "--set grpo.all_cut_patience=990"]),
    ],
)
def test_answers_that_training_made_endless_go_back(
    trained: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, cut_at_first: float, expected: list[str]
) -> None:
    folder = RunFolder.open(trained[0])
    first, *rest = folder.metrics()
    monkeypatch.setattr(folder, "metrics", lambda: [{**first, "clipped_share": cut_at_first}, *rest])
    assert [flags(way) for way in ways(GuardStop("all_cut", "", ""), folder)] == expected
