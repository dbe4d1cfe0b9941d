"""The audit, on numbers and on the hack itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_rl.config_file import load_settings
from refine_rl.evaluate.audit import audit
from refine_rl.types import Comparison, Contrast, Estimate


def contrast(base: float, tuned: float, half_width: float = 0.05) -> Contrast:
    def estimate(mean: float) -> Estimate:
        return Estimate(mean=mean, ci95=(mean - half_width, mean + half_width))

    return Contrast(base=estimate(base), tuned=estimate(tuned), difference=estimate(tuned - base))


def comparison(reward: Contrast, **details: Contrast) -> Comparison:
    return Comparison(
        prompts=64,
        base=reward.base,
        tuned=reward.tuned,
        difference=reward.difference,
        verdict="better",
        examples=(),
        details={name.replace("__", ":"): d for name, d in details.items()},
    )


def test_a_component_that_falls_while_the_reward_rises_is_named() -> None:
    found = audit(
        comparison(
            contrast(0.2, 0.9),
            component__style=contrast(0.2, 0.9),
            component__keeps=contrast(0.9, 0.4),
            success=contrast(0.1, 0.5),
        )
    )
    assert set(found) == {"component:keeps"}
    assert "'keeps' fell from 0.900 to 0.400" in found["component:keeps"]


def test_success_that_falls_is_named() -> None:
    assert set(audit(comparison(contrast(0.2, 0.9), success=contrast(0.5, 0.1)))) == {"success"}


def test_greedy_answers_that_get_worse_are_named() -> None:
    found = audit(comparison(contrast(0.2, 0.9), greedy=contrast(0.5, 0.1)))
    assert set(found) == {"greedy"}
    assert "greedy ones, which `refine chat` gives, fell from 0.500 to 0.100" in found["greedy"]
    assert audit(comparison(contrast(0.2, 0.9), greedy=contrast(0.5, 0.48))) == {}
    assert audit(comparison(contrast(0.5, 0.52), greedy=contrast(0.5, 0.1))) == {}


def test_nothing_without_a_sure_rise_or_a_sure_fall() -> None:
    assert audit(comparison(contrast(0.5, 0.52), component__keeps=contrast(0.9, 0.4))) == {}
    assert audit(comparison(contrast(0.2, 0.9), component__keeps=contrast(0.5, 0.47))) == {}
    assert audit(comparison(contrast(0.9, 0.2), component__keeps=contrast(0.9, 0.4))) == {}


@pytest.mark.slow
def test_the_hack_of_a_style_only_reward(tmp_path: Path) -> None:
    """With the style alone rewarded, reward rises and the message is lost; the audit says so."""
    from refine_rl.pipeline import run
    from refine_rl.runs import RunFolder

    alone = [
        "reward.combine=sum",
        "reward.sanity=[]",
        'reward.functions=["rules.py:style", {function = "rules.py:fidelity", weight = 0.0}]',
        "grpo.steps=80",
    ]
    folder = RunFolder.create(tmp_path / "run", load_settings(None, recipe="style", overrides=alone))
    found = run(folder)
    assert found.tuned.mean > 0.9
    assert "component:fidelity" in audit(found)
    assert any(e["name"] == "component:fidelity" for e in folder.events())
