"""Whole runs in which another eye looks on: it is on record, and a drift warns, stops or leads back."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from make import Pause, write_pairs
from refine_rl.errors import GuardStop, Interrupted, SettingsError
from refine_rl.pipeline.replay import replay
from refine_rl.pipeline.resume import reopen
from refine_rl.pipeline.train import run
from refine_rl.rewards.build import build_scorers
from refine_rl.run import RunFolder
from refine_rl.run.forgotten import marked
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict

MakeModel = Callable[..., Path]
WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish", "bird", "road"]


@pytest.fixture(scope="module")
def task(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    """task(on_drift) -> a run that is paid for shortness and watches length."""
    folder = tmp_path_factory.mktemp("task")
    write_pairs(folder, WORDS)
    watched = {"rule": "chars", "min": 14, "weight": 0.0, "name": "long"}

    def make(on_drift: str, rules: tuple[dict[str, Any], ...] = (watched,)) -> Settings:
        table: dict[str, Any] = {
            "task": "Be short.",
            "model": {"name": str(make_model("llama")), "device": "cpu", "dtype": "float32", "rank": 4},
            "prompts": {"source": "file:prompts.jsonl", "validation": 10, "held_out": 5},
            "reward": {"rules": [{"rule": "chars", "max": 6, "name": "short"}, *rules]},
            "rollout": {"group_size": 4, "max_tokens": 8},
            "grpo": {
                "steps": 8,
                "prompts_per_step": 4,
                "learning_rate": 0.03,
                "checkpoint_every": 3,
                "validate_every": 2,
                "keep_checkpoints": 1,
                "all_cut_patience": 99,
            },
            "evaluate": {"samples": 2, "bootstrap": 200, "on_drift": on_drift},
        }
        return settings_from_dict(table, folder)

    return make


@pytest.fixture(scope="module")
def led_back(task: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "led-back", task("rollback"))
    run(folder)
    return folder


def test_a_drift_leads_back_and_goes_on_with_half_the_rate(led_back: RunFolder) -> None:
    looks = led_back.validation()
    for look in looks:
        prompts = look["eye"]["prompts"]
        assert len(prompts) == 10
        assert look["reward"]["mean"] == pytest.approx(sum(pair[0] for pair in prompts.values()) / 10)
        assert look["eye"]["mean"] == pytest.approx(look["components"]["long"])
        assert look["eye"]["correlation"] is None or look["eye"]["correlation"] < 0
    events = led_back.events()
    drifts = [e for e in events if e["name"] == "drift"]
    assert {e["kind"] for e in drifts} == {"warning"}
    assert [e["forgotten"] for e in marked(events) if e["name"] == "drift"] == [True, False]
    (gone,) = [e for e in events if e["name"] == "gone_back"]
    back = gone["step"]
    assert (gone["kind"], gone["old"], gone["new"]) == ("note", "0.03", "0.015")
    assert [e["step"] for e in events if e["kind"] == "rewound"] == [back]
    change = [str(change) for change in led_back.changed_settings()]
    assert change == [f"grpo.learning_rate: 0.03 up to step {back}, 0.015 from step {back + 1} on"]
    rates = [m["learning_rate"] for m in led_back.metrics()]
    assert rates == [0.03 if n < back else 0.015 for n in range(len(rates))]
    assert 0 < back < len(rates) == looks[-1]["step"]
    assert [line["step"] for line in led_back.metrics()] == [*range(1, len(rates) + 1)]
    trained = {look["step"]: look["eye"]["mean"] for look in looks if look["step"]}
    best = max(trained, key=lambda step: trained[step])
    assert [e["step"] for e in events if e["kind"] == "best"][-1] == best
    assert best in led_back.checkpoints()
    report = html.unescape(led_back.report.read_text())
    assert "The other eye on validation answers" in report
    assert gone["text"] in report
    assert change[0] in report
    named = looks[-1]["eye"]["gains"]
    assert named
    assert all(one["reward"] > one["reward_before"] and one["eye"] < one["eye_before"] for one in named)
    assert "Answers to look at: their reward rose" in report


def test_the_second_time_it_ends(led_back: RunFolder) -> None:
    """With half the rate it drifts no more in these steps, or training is over before the last one."""
    done = [e for e in led_back.events() if e["name"] == "done_early"]
    last = led_back.metrics()[-1]["step"]
    assert [e["step"] for e in done] == ([] if last == 8 else [last])
    assert all("once more: training ended" in e["text"] for e in done)


@pytest.mark.parametrize("where", ["sampling", "between"])
def test_stopped_anywhere_it_leads_back_to_the_same(
    led_back: RunFolder, task: Callable[..., Settings], tmp_path: Path, where: str
) -> None:
    folder = RunFolder.create(tmp_path / "stopped", task("rollback"))
    if where == "sampling":
        with pytest.raises(Interrupted):
            run(folder, pause=Pause(60))
    else:  # said, and not yet done
        with patch.object(RunFolder, "change", side_effect=Interrupted("stop")), pytest.raises(Interrupted):
            run(folder)
        assert folder.settings().learning_rate == 0.03
    run(folder)
    for file in ("groups.jsonl", "validation.jsonl", "comparison.json"):
        assert (folder.path / file).read_text() == (led_back.path / file).read_text(), file
    names = [e["name"] for e in folder.events()]
    assert names.count("gone_back") == 1


def test_both_parts_can_be_made_again(led_back: RunFolder) -> None:
    back = next(e["step"] for e in led_back.events() if e["name"] == "gone_back")
    for step in (back, back + 2):
        again = replay(led_back, step=step)
        assert again
        assert all(member.same for member in again)


def test_a_drift_stops_until_it_may_go_on(
    led_back: RunFolder, task: Callable[..., Settings], tmp_path: Path
) -> None:
    drifted = next(e["step"] for e in led_back.events() if e["name"] == "drift")
    folder = RunFolder.create(tmp_path / "stopped", task("stop"))
    for _ in range(2):  # the same again when it is taken up
        with pytest.raises(GuardStop, match="the other eye's value fell from") as stop:
            run(folder)
        assert (stop.value.guard, stop.value.exit_code) == ("drift", 3)
        assert folder.metrics()[-1]["step"] == drifted
    run(reopen(folder.path, ["evaluate.on_drift=warn"]))
    assert folder.metrics()[-1]["step"] == 8
    assert [e["kind"] for e in folder.events() if e["name"] == "drift"] == ["guard", "guard", "warning"]


def test_somebody_has_to_look(task: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsError, match=r"evaluate\.on_drift.*needs another eye"):
        build_scorers(task("warn", rules=()))
    assert build_scorers(task("off", rules=())).eye is None


def test_whoever_sets_the_old_rate_again_has_it(task: Callable[..., Settings], tmp_path: Path) -> None:
    """What led back once is done: a resume under the first rate goes on, and neither goes back nor halves."""
    folder = RunFolder.create(tmp_path / "again", task("rollback"))
    with patch.object(RunFolder, "change", side_effect=Interrupted("stop")), pytest.raises(Interrupted):
        run(folder)
    rewound = len([e for e in folder.events() if e["kind"] == "rewound"])
    back = next(e["step"] for e in folder.events() if e["name"] == "gone_back")
    before = folder.settings()
    assert before.learning_rate == 0.03
    halved = before.model_copy(update={"grpo": before.grpo.model_copy(update={"learning_rate": 0.015})})
    folder.change(before, halved, back)
    reopen(folder.path, ["grpo.learning_rate=0.03"])
    run(folder)
    (gone,) = [e for e in folder.events() if e["name"] == "gone_back"]
    assert gone["step"] == back
    after = [e for e in folder.events() if e["kind"] == "rewound"]
    assert len(after) == rewound + 1  # of the resume with other settings
    assert {m["learning_rate"] for m in folder.metrics()} == {0.03}
