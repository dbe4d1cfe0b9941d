"""[judge]: how the judges judge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from refine_rl.settings.base import Positive, Section, Share


class JudgeSettings(Section):
    """[judge]: how the judges of reward.judges judge."""

    kind: Literal["ruler", "absolute", "pairwise"] = "ruler"
    """"ruler": a group in one request, each answer scored beside the others; "absolute": each answer
    alone, 1 to 10; "pairwise": two answers at a time, in both orders, scored by the share of wins."""
    weight: float = 1.0
    """Weight of the judges' component in the combination."""
    repeats: Positive = 1
    """Looks that each judge takes at a group; their scores are averaged. No two are the same request: a ruler
    sees the answers in another order each time, the others the points of the rubric, and every second time
    the answer before what it was given to."""
    adaptive: bool = False
    """Two looks first; the others only where those two disagree."""
    larger: str = ""
    """"ENDPOINT/MODEL" that is asked only where the looks disagree; then its word counts alone."""
    agree: Annotated[float, Field(ge=-1, le=1)] = 0.5
    """Looks disagree below this agreement (mean Kendall tau-b of their orders: 1 the same, -1 opposite)."""
    shrink: bool = False
    """A group's advantages are multiplied by its agreement, or by 0 where that is negative."""
    gate: list[str] = []
    """Names of rules that an answer must fully pass before a judge sees it; others get the judges' floor of
    0 without a call."""
    anchors: bool = True
    """At the start and with each validation, bad answers on purpose (empty, off the topic, the prompt
    copied, an order to the judge ...) are judged beside real ones; a judge that likes them stops the run."""
    anchor_prompts: Positive = 2
    """Prompts with which the bad answers are judged each time."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Of the judges' sampling."""
    max_tokens: Positive = 8192
    """Of one reply, its reasoning included."""
    corrections: Annotated[int, Field(ge=0)] = 2
    """Times that a reply which cannot be used is sent back with what is wrong with it."""
    success: Share = 0.75
    """Scores from here on count as a full success (see reward.success)."""
