"""What is wrong with a reward, read off the scores that it gave to example answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from refine_rl.pipeline.check_answers import Case, Try
from refine_rl.types import Score, count_of, decimals, reaches, same_value

NEAR_TOP = 0.8  # of the highest reward there is
_FEW = 3  # different answers, from which on a component that never differs is worth a word

Scored = Sequence[tuple[Case, Sequence[Score]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A thing that a person should look at: its short name ("sanity", "bad_near_top", "missing", "constant",
    "no_spread"), and a sentence; `prompt` is the id of the prompt that it is about, "" where it is about
    several."""

    name: str
    text: str
    prompt: str = ""


def failed_components(names: Sequence[str], scores: Sequence[Score]) -> dict[str, str]:
    """Why components could not score, the first reason of each; "reward" where it is none of them alone."""
    failed: dict[str, str] = {}
    for score in scores:
        if score.value is not None:
            continue
        found = [name for name in names if f"{name}: missing: " in score.explanation]
        for name in found:
            _, _, why = score.explanation.partition(f"{name}: missing: ")
            failed.setdefault(name, why.strip())
        if not found:
            failed.setdefault("reward", score.explanation.strip())
    return failed


def findings(
    scored: Scored, *, components: Sequence[str], weights: Mapping[str, float], top: float | None
) -> Iterator[Finding]:
    """Everything that stands out, the gravest first."""
    yield from _sanity(scored)
    yield from _liked(scored, top)
    every = [pair for case, scores in scored for pair in _pairs(case, scores)]
    missing = [score for _, score in every if score.value is None]
    if missing:
        why = missing[0].explanation.strip().partition("\n")[0]
        yield Finding(name="missing", text=f"{len(missing)} of {len(every)} scores are missing: {why}")
    for name in components:
        yield from _constant(name, every, weights.get(name, 0.0))
    yield from _flat(scored)


def _pairs(case: Case, scores: Sequence[Score]) -> list[tuple[Try, Score]]:
    return list(zip(case.tries, scores, strict=True))


def _sanity(scored: Scored) -> Iterator[Finding]:
    """Cases of [[reward.sanity]] that are ordered wrongly: training would not begin."""
    for case, scores in scored:
        if not case.is_sanity:
            continue
        good, bad = (score.value for score in scores)
        if good is not None and bad is not None and bad >= good:
            yield Finding(
                name="sanity",
                text=f"{case.prompt.origin}: its bad answer gets {decimals(bad)} and its good one "
                f"{decimals(good)}; training refuses to begin so.",
                prompt=case.prompt.id,
            )


def _liked(scored: Scored, top: float | None) -> Iterator[Finding]:
    """Kinds of bad answers that get as much as a good one of the same prompt, or, where there is none, nearly
    all that there is to be had."""
    kinds: dict[str, list[tuple[float, str]]] = {}
    asked: dict[str, int] = {}
    for case, scores in scored:
        if case.is_sanity:
            continue
        good = [s.value for a, s in _pairs(case, scores) if a.worth == "good" and s.value is not None]
        for answer, score in _pairs(case, scores):
            if answer.worth != "bad" or score.value is None:
                continue
            asked[answer.kind] = asked.get(answer.kind, 0) + 1
            if good and reaches(score.value, max(good)):
                beside = f"as much as the best good answer ({decimals(max(good))})"
            elif not good and top is not None and top > 0 and NEAR_TOP * top <= score.value <= top:
                beside = f"of at most {decimals(top)}"
            else:
                continue
            kinds.setdefault(answer.kind, []).append((score.value, beside))
    for kind, found in kinds.items():
        mean = fmean(value for value, _ in found)
        prompts = f"with {len(found)} of {count_of(asked[kind], 'prompt')}"
        yield Finding(
            name="bad_near_top",
            text=f"{kind!r} gets {decimals(mean)} {found[0][1]} {prompts}: a policy may end there. Add a "
            "rule that refuses it, or combine by product.",
        )


def _constant(name: str, every: Sequence[tuple[Try, Score]], weight: float) -> Iterator[Finding]:
    """A component that gives all answers the same. (Nothing for bad answers alone may be as it should be, but
    then nobody has seen it give anything.)"""
    had = [(answer, score.breakdown[name]) for answer, score in every if name in score.breakdown]
    if len({answer.text for answer, _ in had}) < _FEW or not same_value(value for _, value in had):
        return
    value = decimals(had[0][1])
    watched = " (weight 0: it is only watched)" if not weight else ""
    why = "here it tells none apart."
    if had[0][1] <= 0 and all(answer.worth == "bad" for answer, _ in had):
        why = (
            "all of them are bad, so whether it likes a good one is not shown. Give one with --answers FILE."
        )
    yield Finding(
        name="constant",
        text=f"`{name}` gives {value} to each of these {len(had)} answers{watched}: {why}",
    )


def _flat(scored: Scored) -> Iterator[Finding]:
    """Prompts whose answers all get the same: a group of such teaches nothing. (Where all of them are bad,
    that is as it should be.)"""
    groups = [
        [s.value for s in scores if s.value is not None]
        for case, scores in scored
        if any(answer.worth != "bad" for answer in case.tries)
    ]
    several = [values for values in groups if len(values) > 1]
    flat = sum(same_value(values) for values in several)
    if flat:
        yield Finding(
            name="no_spread",
            text=f"{flat} of {count_of(len(several), 'prompt')} have answers that all get the same reward: "
            "GRPO learns from differences alone, and nothing there.",
        )
