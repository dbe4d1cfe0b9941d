"""The settings' own checks, their derived values and the page that is made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from refine_rl.settings import ModelSettings, OverlongSettings, RuleSettings, Settings
from refine_rl.settings.docs import settings_markdown
from refine_rl.settings.problems import setting_names

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def settings(**sections: Any) -> Settings:
    return Settings.model_validate({"task": "Say hi.", **sections})


def test_the_page_of_settings_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_markdown(), (
        "stale: python -m refine_rl.settings.docs > docs/settings.md"
    )


def test_the_page_has_every_setting_with_its_meaning() -> None:
    page = settings_markdown()
    for keys in setting_names().values():
        for key in keys:
            assert f"| `{key}` |" in page or f"\n## [{key}]" in page
    assert "| `epsilon` | number, more than 0 | `0.0001` | Added" in page
    assert '| `targets` | `"all-linear"` or list of text | `"all-linear"` |' in page
    assert "folder" not in setting_names()[()]


def test_learning_rate_knows_lora() -> None:
    assert settings().learning_rate == 1e-4
    assert settings(model={"adapter": "none"}).learning_rate == 1e-5
    assert settings(model={"adapter": "none"}, grpo={"learning_rate": 3e-6}).learning_rate == 3e-6


def test_clip_high_follows_the_loss() -> None:
    assert settings(grpo={"clip_low": 0.1}).clip_high == 0.1
    assert settings(grpo={"clip_low": 0.1, "loss": "dapo"}).clip_high == 0.28
    assert settings(grpo={"clip_high": 0.3, "loss": "dapo"}).clip_high == 0.3


@pytest.mark.parametrize(
    ("loss", "low", "high"),
    [
        ("grpo", 0.2, 0.2),
        ("bnpo", 0.2, 0.2),
        ("dr_grpo", 0.2, 0.2),
        ("dapo", 0.2, 0.28),
        ("gspo", 3e-4, 4e-4),
        ("cispo", 1.0, 4.0),
        ("luspo", 3e-4, 4e-4),
        ("dppo_tv", 0.15, 0.15),
        ("dppo_kl", 0.05, 0.05),
    ],
)
def test_each_loss_has_its_own_clip(loss: str, low: float, high: float) -> None:
    s = settings(grpo={"loss": loss})
    assert (s.clip_low, s.clip_high) == (low, high)
    s = settings(grpo={"loss": loss, "clip_low": 0.1, "clip_high": 0.7})
    assert (s.clip_low, s.clip_high) == (0.1, 0.7)


def test_a_server_needs_importance_weights_unless_the_loss_bounds_the_distance_to_it() -> None:
    served = {"kind": "vllm", "base_url": "http://127.0.0.1:8000/v1"}
    assert settings(grpo={"loss": "dapo"}).importance_cap is None
    assert settings(engine=served, grpo={"loss": "dapo"}).importance_cap == 2.0
    assert settings(engine=served, grpo={"loss": "dppo_tv"}).importance_cap is None
    assert settings(engine=served, grpo={"loss": "dppo_kl"}).importance_cap is None


def test_groups_without_spread_leave_the_loss_where_others_take_their_place() -> None:
    assert settings().flat == "keep"
    assert settings(grpo={"resample": 2}).flat == "drop"
    assert settings(grpo={"resample": 2, "flat": "keep"}).flat == "keep"


def test_resampling_waits_for_scores() -> None:
    judged = {
        "reward": {"judges": ["here/judge"]},
        "endpoints": {"here": {"base_url": "http://127.0.0.1:1/v1"}},
    }
    assert settings(**judged).ahead
    assert not settings(**judged, grpo={"resample": 2}).ahead


def test_rule_parameters_are_kept_apart() -> None:
    rule = RuleSettings.model_validate({"rule": "words", "max": 20, "weight": 0.5, "name": "short"})
    assert (rule.rule, rule.weight, rule.name, rule.parameters) == ("words", 0.5, "short", {"max": 20})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"task": " \n"}, "is empty; say in plain words"),
        ({"name": "a/b"}, "a folder inside runs/"),
        ({"name": ".."}, "a folder inside runs/"),
        ({"grpo": {"max_grad_norm": float("inf")}}, "finite"),
        ({"prompts": {"near_duplicate": 0.0}}, "greater than 0"),
        ({"reward": {"steps": {"judges": ["a/b"], "split": "("}}}, "no regular expression"),
        ({"reward": {"steps": {"judges": ["a/b"], "split": "x*"}}}, "matches nothing"),
        ({"reward": {"steps": {}}}, "reward.steps\n.* to grade the steps"),
        ({"reward": {"overlong": {"unit": "words"}}}, "reward.overlong\n.* needs `limit`"),
    ],
)
def test_values_that_cannot_be_are_refused(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(**sections)


def test_early_exits_may_be_judged_one_by_one() -> None:
    made = settings(
        rollout={"max_tokens": 65, "early_exit": {"ends": "</t>", "forced": "Time is up.</t>"}},
        reward={"judges": ["a/b"]},
        judge={"kind": "absolute"},
    )
    assert made.rollout.early_exit is not None
    assert made.rollout.early_exit.answer_tokens == 64


def test_all_impossible_combinations_are_told_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        OverlongSettings(kind="linear", unit="words", buffer=3)
    assert "needs `limit`" in str(caught.value)
    assert "takes `buffer`" in str(caught.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        ModelSettings().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "says",
    [
        {"reward": {"rules": [{"rule": "words", "max": 3}]}},
        {"reward": {"functions": ["rewards.py:short"]}},
        {"reward": {"judges": ["e/m"]}},
        {"reward": {"code": {}}},
        {"prompts": {"source": "reasoning-gym:chain_sum"}},
        {"rollout": {"environment": "world.py:Guess"}},
    ],
)
def test_what_says_what_is_good(says: dict[str, Any]) -> None:
    shown = {"data": "file:pairs.jsonl"}
    assert settings(sft=shown, **says).scored
    assert not settings(sft=shown).scored


@pytest.mark.parametrize(
    ("track", "wrong"),
    [
        ({"to": ["wandb", "wandb"]}, 'names "wandb" twice'),
        ({"to": ["tensorbord"]}, "tensorboard"),
        ({"project": "a/b"}, "is a name of letters"),
        ({"project": " "}, "is a name of letters"),
        ({"rollouts": -1}, "greater than or equal to 0"),
    ],
)
def test_trackers_are_named_once_and_as_they_are_called(track: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        settings(track=track)
    assert settings().track.to == []
