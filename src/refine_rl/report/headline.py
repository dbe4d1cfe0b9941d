"""The report's first sentence: what the run showed, or how far it came and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from refine_rl.evaluate.rivals import shipping
from refine_rl.evaluate.verdict import called, lost_content, mostly_cut, said_with
from refine_rl.report.data import GLUE, number, share
from refine_rl.report.next_steps import Command
from refine_rl.report.now import Standing
from refine_rl.report.standing import Json
from refine_rl.run.forgotten import back_note
from refine_rl.run.state import turn_of
from refine_rl.types import MIN_PROMPTS, Comparison, Other, Verdict, count_of

Tone = Literal["better", "not better", "worse", "stopped", "open"]


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
    standing: Standing,
    after: Sequence[Command] = (),
    again: str = "",
    eye_chooses: bool = False,
) -> Headline:
    """The verdict on a compared run; on any other run, how it stands and what to do next. `after` are the
    commands that follow from the verdict; `again` is the one that compares. `eye_chooses`: the checkpoint is
    the one that another eye likes best."""
    turn = turn_of(events)
    stop, back = _stop_note(turn), _back_note(events)
    if comparison is not None:
        return _compared(comparison, [*stop, *back], after)
    notes = [*stop, *back, *_validation_note(validation, eye_chooses=eye_chooses)]
    numbers = f"{steps_done} of {steps} steps trained; base and tuned were not compared on held-out prompts."
    if standing.state == "stopped":
        return Headline(tone="stopped", claim=f"{standing.said}:", numbers=numbers, notes=tuple(notes))
    if standing.state == "finished":
        notes.append(f"Compare with: {again}")
        return Headline(tone="open", claim="Trained, not compared:", numbers=numbers, notes=tuple(notes))
    if standing.state == "failed":
        notes = notes[len(stop) :]  # what failed is told with how to go on
    more = [standing.more] if standing.more else []
    return Headline(tone="open", claim=claim_of(standing), numbers=numbers, notes=(*notes, *more))


def claim_of(standing: Standing) -> str:
    """How a run stands, in the words that head its page.

    >>> claim_of(Standing(state="failed", said="Stopped: an endpoint or the machine failed"))
    'Stopped, an endpoint or the machine failed:'
    """
    return f"{standing.said.replace(':', ',')}:"


_CLAIMS: dict[Verdict, tuple[Tone, str]] = {
    "better": ("better", "The tuned model is better"),
    "not better": ("not better", "The tuned model is not shown to be better"),
    "worse": ("worse", "The tuned model is worse"),
    "too few to tell": ("open", "Too few prompts to tell"),
    "no signal": ("open", "Nothing was learned"),
    "not possible": ("open", "Trained, but a comparison was not possible"),
}


def claim(comparison: Comparison) -> str:
    """What a comparison lets one say of the tuned model."""
    said = _CLAIMS[comparison.verdict][1]
    if mostly_cut(comparison) and comparison.verdict in ("better", "not better", "worse"):
        said += ", on answers that were mostly cut off"
    if lost_content(comparison):
        said += " by its reward, and lost the prompts’ content"
    return f"{said}:"


def _compared(comparison: Comparison, stop: Sequence[str], after: Sequence[Command]) -> Headline:
    c = comparison
    ship = shipping(c)
    notes = [*stop, *([ship] if ship else [])]
    if "success" in c.details:
        sampled = c.details["success"]
        words = f"Full successes: {share(sampled.base.mean)} → {share(sampled.tuned.mean)} of sampled answers"
        if "success_greedy" in c.details:
            greedy = c.details["success_greedy"]
            words += f", {share(greedy.base.mean)} → {share(greedy.tuned.mean)} of greedy ones"
        notes.append(words + ".")
    notes += [_beyond(name, other, c.prompts) for name, other in c.stages.items()]
    notes += [text for text in said_with(c) if text != ship]
    notes += [f"{command.what} {command.text}" for command in after]
    tone = _CLAIMS[c.verdict][0]
    return Headline(tone=tone, claim=claim(c), numbers=told(c), notes=tuple(notes))


def _beyond(name: str, other: Other, prompts: int) -> str:
    """What the tuned model has more than a further one."""
    low, high = other.tuned_minus.ci95
    interval = f" (95{GLUE}% interval {number(low)} to {number(high)})" if prompts >= MIN_PROMPTS else ""
    return (
        f"{called(name)[0].upper()}{called(name)[1:]} has {number(other.mean)}: the tuned one has "
        f"{number(other.tuned_minus.mean, sign=True)}{interval}."
    )


def told(c: Comparison) -> str:
    """The reward of both sides with its interval; without one where a sentence could not rest on it."""
    prompts = count_of(c.prompts, "held-out prompt")
    if c.prompts_missing:
        prompts = f"{c.prompts} of {c.prompts_asked} held-out prompts"
    if c.reward is None:
        return f"scores of both models on {prompts}."
    r = c.reward
    low, high = r.difference.ci95
    around_zero = ", which does not exclude 0" if c.verdict == "not better" else ""
    interval = f", 95{GLUE}% interval {number(low)} to {number(high)}{around_zero}"
    return (
        f"reward {number(r.base.mean)}{GLUE}→{GLUE}{number(r.tuned.mean)} (difference "
        f"{number(r.difference.mean, sign=True)}{interval if c.prompts >= MIN_PROMPTS else ''}) "
        f"{'compared ' if c.prompts_missing else ''}on {prompts}."
    )


def _stop_note(turn: Json | None) -> list[str]:
    if turn is None or turn["kind"] not in ("guard", "interrupted", "failure"):
        return []
    step = "" if turn["step"] is None else f" at step {turn['step']}"
    said = {"guard": f"The guard “{turn['name']}” stopped training", "failure": "Stopped"}
    what = said.get(turn["kind"], "Interrupted")
    text = f": {turn['text']}" if turn["text"] else "."
    return [f"{what}{step}{text}"]


def _back_note(events: Sequence[Json]) -> list[str]:
    """That training went back on the way, where that still stands."""
    back = back_note(events)
    if back is None:
        return []
    return [
        f"Training went back to step {back['step']} on the way, as the reward rose and the other eye saw the "
        "answers get worse. The steps since then are forgotten, and all that is shown is of those that count."
    ]


def _validation_note(validation: Sequence[Json], *, eye_chooses: bool) -> list[str]:
    if len(validation) < 2:
        return []
    first, last = validation[0], validation[-1]
    said = (
        f"Reward on the validation prompts: {number(first['reward']['mean'])} at step {first['step']} → "
        f"{number(last['reward']['mean'])} at step {last['step']}"
    )
    if "eye" in first and "eye" in last:
        means = [number(look["eye"]["mean"]) for look in (first, last)]
        said += f"; the other eye gives the same answers {means[0]} → {means[1]}"
    chooses = "That eye chooses" if eye_chooses else "They choose"
    return [f"{said}. {chooses} the checkpoint, so this is a lead, no proof."]
