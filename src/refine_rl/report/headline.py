"""The report's first sentence: what the run showed, or how far it came and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from refine_rl.report.data import GLUE, number, share
from refine_rl.types import Comparison

Json = Mapping[str, Any]
Tone = Literal["better", "not better", "worse", "stopped", "open"]

FEW_PROMPTS = 20  # below this the page warns that the interval is too narrow
_STATES = ("started", "resumed", "interrupted", "guard", "finished")


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """The top of the page: one sentence in two parts, and what has to be said with it."""

    tone: Tone
    claim: str
    numbers: str
    notes: tuple[str, ...]


def headline(
    comparison: Comparison | None,
    events: Sequence[Json],
    validation: Sequence[Json],
    *,
    steps_done: int,
    steps: int,
) -> Headline:
    """The verdict on a compared run; on any other run, how far it came and what to do next."""
    state = next((e for e in reversed(events) if e["kind"] in _STATES), None)
    stop = _stop_note(state)
    if comparison is not None:
        return _compared(comparison, stop)
    notes = [*stop, *_validation_note(validation)]
    numbers = f"{steps_done} of {steps} steps trained; base and tuned were not compared on held-out prompts."
    kind = state["kind"] if state is not None else ""
    if state is not None and kind == "guard":
        return Headline(
            tone="stopped", claim=f"Stopped by the guard “{state['name']}”:", numbers=numbers, notes=(*notes,)
        )
    claims = {"interrupted": "Interrupted and saved:", "finished": "Trained, not compared:"}
    ways_out = {
        "interrupted": "Go on with refine train --resume and this run’s folder.",
        "finished": "Compare with refine eval and this run’s folder.",
    }
    otherwise = (
        "The run is still going, or it ended without a word; then refine train --resume takes it up again."
    )
    return Headline(
        tone="open",
        claim=claims.get(kind, "Not finished:"),
        numbers=numbers,
        notes=(*notes, ways_out.get(kind, otherwise)),
    )


def _compared(comparison: Comparison, stop: Sequence[str]) -> Headline:
    c = comparison
    claims = {
        "better": "The tuned model is better:",
        "not better": "The tuned model is not shown to be better:",
        "worse": "The tuned model is worse:",
    }
    low, high = c.difference.ci95
    around_zero = ", which does not exclude 0" if c.verdict == "not better" else ""
    prompts = "1 held-out prompt" if c.prompts == 1 else f"{c.prompts} held-out prompts"
    notes = list(stop)
    if "success" in c.details:
        sampled = c.details["success"]
        words = f"Full successes: {share(sampled.base.mean)} → {share(sampled.tuned.mean)} of sampled answers"
        if "success_greedy" in c.details:
            greedy = c.details["success_greedy"]
            words += f", {share(greedy.base.mean)} → {share(greedy.tuned.mean)} of greedy ones"
        notes.append(words + ".")
    if c.prompts < FEW_PROMPTS:
        notes.append(
            f"Only {prompts}: an interval from so few is narrower than it should be. "
            "Hold out more prompts before relying on it."
        )
    if c.prompts_missing:
        notes.append(
            f"Left out on both sides, because a score was missing: {c.prompts_missing} of "
            f"{c.prompts + c.prompts_missing} held-out prompts."
        )
    return Headline(
        tone=c.verdict,
        claim=claims[c.verdict],
        numbers=f"reward {number(c.base.mean)}{GLUE}→{GLUE}{number(c.tuned.mean)} "
        f"(difference {number(c.difference.mean, sign=True)}, 95{GLUE}% interval "
        f"{number(low)} to {number(high)}{around_zero}) on {prompts}.",
        notes=tuple(notes),
    )


def _stop_note(state: Json | None) -> list[str]:
    if state is None or state["kind"] not in ("guard", "interrupted"):
        return []
    step = "" if state["step"] is None else f" at step {state['step']}"
    what = f"The guard “{state['name']}” stopped training" if state["kind"] == "guard" else "Interrupted"
    text = f": {state['text']}" if state["text"] else "."
    return [f"{what}{step}{text}"]


def _validation_note(validation: Sequence[Json]) -> list[str]:
    if len(validation) < 2:
        return []
    first, last = validation[0], validation[-1]
    return [
        f"Reward on the validation prompts: {number(first['reward']['mean'])} at step {first['step']} → "
        f"{number(last['reward']['mean'])} at step {last['step']}. "
        "They choose the checkpoint, so this is a lead, no proof."
    ]
