"""The audit, on numbers and on the hack itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import make
from make import contrast
from refine_rl.evaluate import audit as auditing
from refine_rl.recipes import recipe_folder
from refine_rl.settings.file import load_settings
from refine_rl.types import Comparison, Contrast, Variety


def audit(comparison: Comparison, **weights: float) -> dict[str, str]:
    return auditing.audit(comparison, weights)


def comparison(reward: Contrast, **details: Contrast) -> Comparison:
    renamed = {name.replace("__", ":"): d for name, d in details.items()}
    return make.comparison("better", reward, details=renamed)


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


def test_a_count_that_falls_is_no_loss_as_long_as_nobody_said_that_more_is_better() -> None:
    """Guesses that a game took: 7 is never, 3 is good."""
    found = comparison(contrast(0.2, 0.9), component__guesses=contrast(7.0, 4.9))
    assert audit(found) == {}
    assert set(audit(found, guesses=0.5)) == {"component:guesses"}
    assert audit(found, guesses=-0.5) == {}
    below = comparison(contrast(0.2, 0.9), component__overlong=contrast(-0.2, -0.6))
    assert audit(below) == {}
    assert set(audit(below, overlong=1.0)) == {"component:overlong"}


def test_what_costs_and_rises_is_named() -> None:
    found = audit(comparison(contrast(0.2, 0.9), component__typos=contrast(0.1, 0.6)), typos=-1.0)
    assert "'typos' rose, of which less is better, from 0.100 to 0.600" in found["component:typos"]
    assert audit(comparison(contrast(0.2, 0.9), component__typos=contrast(0.6, 0.1)), typos=-1.0) == {}


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


def test_over_too_few_prompts_nothing_fell_surely() -> None:
    few = comparison(contrast(0.2, 0.9), component__keeps=contrast(0.9, 0.4))
    assert audit(dataclasses.replace(few, prompts=4, verdict="too few to tell")) == {}
    nothing = dataclasses.replace(few, prompts=0, base=None, tuned=None, difference=None)
    assert audit(nothing) == {}


def test_answers_that_came_to_be_the_same_for_different_prompts_are_named() -> None:
    """Whatever the reward did: a collapse across prompts need not be paid."""

    def collapsed(
        before: float | None, after: float | None, most: float = 0.75, kind: str = ""
    ) -> dict[str, str]:
        variety = {
            f"base{kind}": Variety(distinct_share=before),
            f"tuned{kind}": Variety(distinct_share=after, openings={"Ahoy, matey! The": most, "": 0.125}),
        }
        return audit(dataclasses.replace(comparison(contrast(0.5, 0.5)), variety=variety))

    (text,) = collapsed(1.0, 0.25).values()
    assert "100 % belonged to one prompt alone, now 25 % do." in text
    assert "They begin with “Ahoy, matey! The” (75 %), nothing at all (12 %)." in text
    assert set(collapsed(1.0, 0.25)) == {"same_answers"}
    greedy = collapsed(1.0, 0.25, kind="_greedy")
    assert greedy["same_greedy"].startswith("Greedy answers came to be the same for different prompts")
    for before, after in ((1.0, 0.75), (0.25, 0.0), (None, 0.0), (1.0, None)):
        assert collapsed(before, after) == {}
    assert collapsed(1.0, 0.25, most=0.25) == {}  # many small answers are shared, none by most prompts


@pytest.mark.slow
def test_the_hack_of_a_style_only_reward(tmp_path: Path) -> None:
    """With the style alone rewarded, reward rises and the message is lost; the audit says so."""
    from refine_rl.pipeline.train import run
    from refine_rl.run import RunFolder

    alone = [
        "reward.combine=sum",
        "reward.sanity=[]",
        'reward.functions=["rules.py:style", {function = "rules.py:fidelity", weight = 0.0}]',
        "grpo.steps=80",
    ]
    folder = RunFolder.create(tmp_path / "run", load_settings(recipe_folder("style"), overrides=alone))
    found = run(folder)
    assert found.tuned.mean > 0.9
    assert "component:fidelity" in audit(found)
    assert any(e["name"] == "component:fidelity" for e in folder.events())
