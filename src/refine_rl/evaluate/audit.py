"""Signs that the reward was won without the task being done, read off a comparison.

A reward that leaves something out is paid for leaving it out: with a reward for style alone, a policy
repeats the style's phrases and drops the message. What was left out cannot be seen in the reward, but
in a component that is only watched (weight 0), or that lost while the sum won; or in answers that no
longer depend on the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from refine_rl.evaluate.variety import collapse
from refine_rl.types import LOGGED, MIN_PROMPTS, Comparison, Contrast, decimals

NONE: Mapping[str, float] = MappingProxyType({})


def audit(comparison: Comparison, weights: Mapping[str, float] = NONE) -> dict[str, str]:
    """Name -> text for every component that got surely worse while the reward got surely better, for full
    successes and greedy answers that did, and for answers that came to be the same for different prompts.
    `weights` are the components' by name; one that is not among them is only watched."""
    reward = comparison.reward
    rose = reward is not None and reward.difference.ci95[0] > 0 and comparison.prompts >= MIN_PROMPTS
    lost = _lost(reward, comparison, weights) if reward is not None and rose else {}
    return {**lost, **_same_answers(comparison)}


def _lost(reward: Contrast, comparison: Comparison, weights: Mapping[str, float]) -> dict[str, str]:
    """What got worse while the reward rose."""
    found: dict[str, str] = {}
    rose = _from_to(reward)
    greedy = comparison.details.get("greedy")
    if greedy is not None and greedy.difference.ci95[1] < 0:
        found["greedy"] = (
            f"The reward of sampled answers rose {rose}, while that of greedy ones, which `refine chat` "
            f"gives, fell {_from_to(greedy)}. Train longer, or with more prompts and larger groups; or "
            "sample the answers where the model is used."
        )
    for name, measure in comparison.details.items():
        component = name.removeprefix("component:")
        if name == "success":
            good, what = 1.0, "full success"
        elif component != name and not component.startswith(LOGGED):
            good, what = _good(measure, weights.get(component, 0.0)), f"the component {component!r}"
        else:
            continue
        low, high = measure.difference.ci95
        if (good > 0 and high < 0) or (good < 0 and low > 0):
            way = "fell" if good > 0 else "rose, of which less is better,"
            found[name] = (
                f"The reward rose {rose} while {what} {way} {_from_to(measure)}: the reward is won without "
                "the task. Read the examples; give that component weight, or combine by product."
            )
    return found


def _good(measure: Contrast, weight: float) -> float:
    """Above 0 where more of a component is good, below 0 where less is, 0 where that is not known."""
    if weight:
        return weight
    ends = [x for side in (measure.base, measure.tuned) for x in (side.mean, *side.ci95)]
    return 1.0 if min(ends) >= 0 and max(ends) <= 1 else 0.0


def _same_answers(comparison: Comparison) -> dict[str, str]:
    """A collapse across prompts, of sampled answers or of greedy ones."""
    found: dict[str, str] = {}
    for name, kind, whose in (("same_answers", "", "Answers"), ("same_greedy", "_greedy", "Greedy answers")):
        base, tuned = (comparison.variety.get(f"{side}{kind}") for side in ("base", "tuned"))
        if base is None or tuned is None:
            continue
        if text := collapse(base.distinct_share, tuned.distinct_share, tuned.openings, whose):
            found[name] = text
    return found


def _from_to(both: Contrast) -> str:
    return f"from {decimals(both.base.mean)} to {decimals(both.tuned.mean)}"
