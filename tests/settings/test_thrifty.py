"""grpo.thrifty fills in what nobody said, and nothing that would be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refine_rl.errors import SettingsError
from refine_rl.settings import GRPOSettings, Settings
from refine_rl.settings.file import dump_settings, load_settings, override, settings_from_dict
from refine_rl.settings.toml_write import dump_toml

JUDGED: dict[str, Any] = {"reward": {"judges": ["a/b"]}}
RULES: dict[str, Any] = {"reward": {"rules": [{"rule": "words"}]}}
EARLY: dict[str, Any] = {"early_exit": {"ends": "</t>"}}
ALL = {
    "minibatches": 4,
    "updates_per_step": 4,
    "kl_stop": 0.03,
    "schedule": "linear",
    "replay": 2,
}
ONCE = {"minibatches": 1, "updates_per_step": 1}


def settings(grpo: dict[str, Any], **sections: Any) -> Settings:
    return settings_from_dict({"task": "x", "grpo": grpo, **sections}, Path())


def filled(grpo: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """What differs from a task without grpo.thrifty, apart from what it says itself."""
    plain = GRPOSettings(**grpo).model_dump()
    preset = settings({**grpo, "thrifty": True}, **sections).grpo.model_dump()
    return {k: v for k, v in preset.items() if v != plain[k] and k != "thrifty"}


def test_all_of_it_whoever_scores() -> None:
    assert filled({}, **JUDGED) == ALL
    assert filled({}, **RULES) == ALL
    assert settings({}, **JUDGED).grpo == GRPOSettings()


@pytest.mark.parametrize(
    ("said", "sections", "less"),
    [
        ({"minibatches": 1}, JUDGED, {"minibatches"}),
        ({"replay": 0, "schedule": "constant"}, JUDGED, {"replay", "schedule"}),
        ({"oversample": 2.0}, JUDGED, set()),
        ({"kl_stop": 0.1, "flat": "keep"}, JUDGED, {"kl_stop"}),
        (ONCE, RULES, {*ONCE, "kl_stop"}),
        ({"resample": 2}, JUDGED, set()),
        ({}, {**RULES, "teacher": {"model": "tiny"}}, {"replay"}),
        ({}, {"reward": {"quiz": {"writer": "a/b"}}, "rollout": EARLY}, set()),
        ({}, {**JUDGED, "model": {"dropout": 0.1}}, {"kl_stop", "updates_per_step"}),
        ({"flat": "sign", "solved": 1.0}, RULES, set()),
    ],
)  # fmt: skip
def test_what_was_said_stays_and_what_cannot_be_is_left_out(
    said: dict[str, Any], sections: dict[str, Any], less: set[str]
) -> None:
    found = filled(said, **sections)
    assert found == {k: v for k, v in ALL.items() if k not in less}
    again = settings({**said, "thrifty": True}, **sections)
    Settings.model_validate(again.model_dump())  # no combination that would be refused
    assert {k: getattr(again.grpo, k) for k in said} == said


def test_a_stop_of_nothing_is_refused_all_the_same() -> None:
    with pytest.raises(SettingsError, match=r"`grpo.kl_stop` is looked at"):
        settings({**ONCE, "kl_stop": 0.1, "thrifty": True}, **RULES)


def test_a_few_prompts_a_step_have_as_few_minibatches() -> None:
    assert filled({"prompts_per_step": 3}, **JUDGED)["minibatches"] == 3


def test_a_file_says_it_and_a_run_shows_what_it_came_to(tmp_path: Path) -> None:
    task = tmp_path / "task.toml"
    task.write_text(dump_toml({"task": "x", "grpo": {"minibatches": 2}, **JUDGED}))
    found = load_settings(task, overrides=["grpo.thrifty=true", "grpo.replay=0"])
    assert (found.grpo.minibatches, found.grpo.replay, found.grpo.kl_stop) == (2, 0, 0.03)
    text = dump_settings(found)
    assert "kl_stop = 0.03" in text
    again = tmp_path / "again.toml"
    again.write_text(text)
    assert load_settings(again).grpo == found.grpo


def test_a_run_may_become_thrifty_later() -> None:
    """Its config has every key: those at their defaults were said by nobody."""
    before = settings({"schedule": "cosine"}, **JUDGED)
    after = override(before, ["grpo.thrifty=true", "grpo.flat=keep"]).grpo
    assert (after.schedule, after.flat, after.minibatches, after.replay) == ("cosine", "keep", 4, 2)
    assert override(before, ["grpo.steps=7"]).grpo == before.grpo.model_copy(update={"steps": 7})
    once = override(before, ["grpo.thrifty=true"])
    assert override(once, ["grpo.minibatches=1"]).grpo.minibatches == 1  # and not filled in again
