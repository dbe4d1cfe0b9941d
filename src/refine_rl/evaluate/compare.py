"""Base against tuned on the held-out prompts: the evidence, from outcomes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from refine_rl.errors import UserError
from refine_rl.evaluate.content import content
from refine_rl.evaluate.curves import best_of, pass_at
from refine_rl.evaluate.looks import chance, hold
from refine_rl.evaluate.power import detectable, deviation, prompts_needed
from refine_rl.evaluate.stats import paired
from refine_rl.evaluate.variety import variety
from refine_rl.evaluate.verdict import verdict
from refine_rl.types import (
    MIN_PROMPTS,
    Comparison,
    Content,
    Contrast,
    Dialogue,
    Example,
    Other,
    Outcome,
    Part,
    Prompt,
    Score,
    Trajectory,
    Variety,
)

Pair = tuple[Outcome, Outcome]  # the same prompt, answered by base and by tuned
Combination = frozenset[tuple[str, str]]  # the (facet, value) pairs of a prompt
Measure = Callable[[Outcome], float | None]  # one number a prompt; None where it has none


def compare(
    base: Sequence[Outcome],
    tuned: Sequence[Outcome],
    *,
    success: Callable[[Score], bool],
    resamples: int,
    seed: int,
    max_examples: int = 24,
    updated: bool = True,
    seen: Collection[Combination] | None = None,
    matters: float | None = None,
    others: Mapping[str, Sequence[Outcome]] | None = None,
) -> Comparison:
    """Compare the two models prompt by prompt.

    The measure of a prompt is the mean reward of those of its sampled answers that have a score; `success`
    says whether a score counts as a full success. A prompt without any sampled score on one side is left
    out on both and counted in `prompts_missing`; what is missing is counted in `scores_missing`. A component
    is compared on the prompts where every scored sampled answer of both models has it; a measure that fewer
    than 5 of the compared prompts have is left out, where there are as many. Where no prompt is
    left there are no estimates, and the verdict is "not possible".

    `others` are what further models did with the same prompts, each set beside the tuned one in the same way,
    on the prompts where both have a score; one without any is left out.

    `updated` says whether training moved a weight; `seen` are the combinations of facets that training's
    prompts had (None: not known, so none are told apart); `matters` is a difference of which to say how many
    prompts would show it. Parts by facet hold where they do of all parts by facet (see `looks.py`).

    `examples` are at most `max_examples` prompts with the greedy answer of each model (no luck in it). They
    are chosen by order and facets alone (see `spread`), never by what was answered or scored.

    Raises UserError when there are no prompts, or base and tuned did not answer the same ones in the same
    order, with the same number of answers.
    """
    pairs = _pair(base, tuned)
    kept = [pair for pair in pairs if all(map(_rewards, pair))]
    bootstrap = _Bootstrap(resamples=resamples, seed=seed)
    reward = bootstrap.contrast(kept, _mean_reward)
    details = bootstrap.details(kept, _measures(kept, success))
    shown = kept or pairs
    # How answers end and begin needs no score.
    cut = bootstrap.contrast(shown, _cut)
    beside = {name: _pair(outcomes, tuned, name) for name, outcomes in (others or {}).items()}
    compared = {name: _other(some, success, bootstrap) for name, some in beside.items()}
    answered = {name: {o.prompt.id: o for o, _ in some} for name, some in beside.items()}
    chosen = spread([b.prompt.facets for b, _ in shown], max_examples)
    difference = None if reward is None else reward.difference
    return Comparison(
        prompts=len(kept),
        base=None if reward is None else reward.base,
        tuned=None if reward is None else reward.tuned,
        difference=difference,
        verdict=verdict(difference, len(kept), updated=updated),
        examples=tuple(_example(*shown[i], answered) for i in chosen),
        details=details if cut is None else {**details, "cut": cut},
        samples=len(pairs[0][0].sampled),
        prompts_missing=len(pairs) - len(kept),
        scores_missing={
            "base": sum(_missing(b) for b, _ in pairs),
            "tuned": sum(_missing(t) for _, t in pairs),
        },
        **_parts(kept, seen, bootstrap),
        **_power(kept, matters),
        curves=_curves(kept, success, bootstrap),
        variety=_variety(pairs),
        content=_content(pairs),
        others={name: other for name, other in compared.items() if other is not None},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bootstrap:
    resamples: int
    seed: int

    def contrast(self, pairs: Sequence[Pair], measure: Measure, *, least: int = 1) -> Contrast | None:
        """The measure on the prompts where both sides have it; None where there are fewer than `least`."""
        values = [(measure(b), measure(t)) for b, t in pairs]
        both = [(b, t) for b, t in values if b is not None and t is not None]
        if len(both) < max(1, least):
            return None
        return paired([b for b, _ in both], [t for _, t in both], resamples=self.resamples, seed=self.seed)

    def details(self, kept: Sequence[Pair], measures: Mapping[str, Measure]) -> dict[str, Contrast]:
        """Those of the measures that enough of the compared prompts have."""
        # Beside a reward that has an interval, one of a few prompts would pass for as good.
        least = MIN_PROMPTS if len(kept) >= MIN_PROMPTS else 1
        found = {name: self.contrast(kept, measure, least=least) for name, measure in measures.items()}
        return {name: contrast for name, contrast in found.items() if contrast is not None}

    def part(self, pairs: Sequence[Pair]) -> Part:
        """The rewards on some of the kept prompts, at least one."""
        found = self.contrast(pairs, _mean_reward)
        assert found is not None  # every kept prompt has a score on both sides
        return Part(
            prompts=len(pairs),
            base=found.base,
            tuned=found.tuned,
            difference=found.difference,
            chance=chance(_differences(pairs), self.seed) if len(pairs) >= MIN_PROMPTS else None,
        )


def _measures(pairs: Sequence[Pair], success: Callable[[Score], bool]) -> dict[str, Measure]:
    """What is compared beside the reward."""
    measures: dict[str, Measure] = {
        "greedy": lambda outcome: outcome.greedy[1].value,
        "success": lambda outcome: _mean([float(success(s)) for s in _scored(outcome)]),
        "success_greedy": lambda outcome: (
            None if outcome.greedy[1].status == "missing" else float(success(outcome.greedy[1]))
        ),
    }
    return measures | {f"component:{name}": _component(name) for name in _component_names(pairs)}


def _other(pairs: Sequence[Pair], success: Callable[[Score], bool], bootstrap: _Bootstrap) -> Other | None:
    """A further model beside the tuned one; None where no prompt has scores of both."""
    kept = [pair for pair in pairs if all(map(_rewards, pair))]
    reward = bootstrap.contrast(kept, _mean_reward)
    if reward is None:
        return None
    return Other(
        mean=reward.base.mean,
        ci95=reward.base.ci95,
        tuned_minus=reward.difference,
        details=bootstrap.details(kept, {**_measures(kept, success), "cut": _cut}),
    )


def _differences(pairs: Sequence[Pair]) -> list[float]:
    """The paired differences of kept prompts."""
    return [_mean_reward(t) - _mean_reward(b) for b, t in pairs]


def _power(kept: Sequence[Pair], matters: float | None) -> dict[str, Any]:
    """What so many prompts could have shown, and how many would show what."""
    differences = _differences(kept)
    wide = deviation(differences)
    # Rounding leaves a trace of a spread where all are alike.
    if len(kept) < 2 or wide < 1e-9:
        return {"matters": matters}
    needed = {"observed": prompts_needed(wide, _mean(differences))}
    if matters is not None:
        needed["matters"] = prompts_needed(wide, matters)
    return {"detectable": detectable(wide, len(kept)), "matters": matters, "prompts_needed": needed}


def _curves(
    kept: Sequence[Pair], success: Callable[[Score], bool], bootstrap: _Bootstrap
) -> dict[str, tuple[Contrast, ...]]:
    """What 1, 2 ... answers reach, on the prompts of which every answer of both sides has a score; nothing
    for one answer."""
    whole = [pair for pair in kept if all(len(_rewards(o)) == len(o.sampled) for o in pair)]
    samples = len(whole[0][0].sampled) if whole else 0
    if samples < 2 or (len(whole) < MIN_PROMPTS <= len(kept)):
        return {}
    tries = range(1, samples + 1)
    measures: dict[str, Callable[[int], Measure]] = {
        "best": lambda k: lambda o: best_of(k, _rewards(o)),
        "pass": lambda k: lambda o: pass_at(k, samples, sum(success(s) for s in _scored(o))),
    }
    found = {name: [bootstrap.contrast(whole, of(k)) for k in tries] for name, of in measures.items()}
    return {name: tuple(c for c in each if c is not None) for name, each in found.items()}


def _parts(
    kept: Sequence[Pair], seen: Collection[Combination] | None, bootstrap: _Bootstrap
) -> dict[str, Any]:
    """The rewards by facet and on combinations of facets, each with whether its difference holds."""
    facets = _facets(kept, bootstrap)
    places = [(f, v) for f, values in facets.items() for v in values if values[v].chance is not None]
    for (facet, value), holds in zip(
        places, hold([facets[f][v].chance or 0.0 for f, v in places]), strict=True
    ):
        facets[facet][value] = replace(facets[facet][value], holds=holds)
    return {"facets": facets, "combinations": {} if seen is None else _combinations(kept, seen, bootstrap)}


def _facets(kept: Sequence[Pair], bootstrap: _Bootstrap) -> dict[str, dict[str, Part]]:
    """The rewards by facet and value, the values with the most prompts first."""
    by_value: dict[str, dict[str, list[Pair]]] = {}
    for pair in kept:
        for facet, value in pair[0].prompt.facets.items():
            by_value.setdefault(facet, {}).setdefault(value, []).append(pair)
    return {
        facet: {
            value: bootstrap.part(some)
            for value, some in sorted(values.items(), key=lambda item: -len(item[1]))
        }
        for facet, values in by_value.items()
    }


def _combinations(
    kept: Sequence[Pair], seen: Collection[Combination], bootstrap: _Bootstrap
) -> dict[str, Part]:
    """The rewards on prompts whose combination of facets training met, and on the others."""
    sides: dict[str, list[Pair]] = {"seen": [], "unseen": []}
    for pair in kept:
        if pair[0].prompt.facets:
            sides["seen" if combination(pair[0].prompt) in seen else "unseen"].append(pair)
    if not sides["unseen"]:
        return {}
    return {name: bootstrap.part(some) for name, some in sides.items() if some}


def combination(prompt: Prompt) -> Combination:
    """Where a prompt lies among all facets at once."""
    return frozenset(prompt.facets.items())


def met_in_training(prompts: Iterable[Prompt]) -> set[Combination]:
    """The combinations of facets of the prompts that are not held out."""
    return {combination(p) for p in prompts if p.split != "held_out" and p.facets}


def spread(facets: Sequence[Mapping[str, str]], count: int) -> list[int]:
    """Indices of `count` items (or all) that cover the facets' values evenly, in their own order.

    One after the other, the first item is taken whose facet values were taken least often so far.

    >>> spread([{"style": "pirate"}, {"style": "pirate"}, {"style": "haiku"}], 2)
    [0, 2]
    """
    taken: Counter[tuple[str, str]] = Counter()
    chosen: list[int] = []
    left = list(range(len(facets)))
    while left and len(chosen) < count:
        index = min(left, key=lambda i: (sum(taken[item] for item in facets[i].items()), i))
        left.remove(index)
        chosen.append(index)
        taken.update(facets[index].items())
    return sorted(chosen)


def _pair(base: Sequence[Outcome], tuned: Sequence[Outcome], name: str = "base") -> list[Pair]:
    if not base and not tuned:
        raise UserError("nothing can be compared: there are no held-out prompts.")
    if len(base) != len(tuned):
        raise UserError(
            f"{name} answered {len(base)} prompts and tuned {len(tuned)}; evaluate both on the same prompts."
        )
    pairs = list(zip(base, tuned, strict=True))
    for number, (b, t) in enumerate(pairs, 1):
        if b.prompt.id != t.prompt.id:
            raise UserError(
                f"prompt {number} is {b.prompt.id!r} for {name} and {t.prompt.id!r} for tuned; "
                "evaluate both on the same prompts in the same order."
            )
        if not len(b.sampled) == len(t.sampled) == len(base[0].sampled) > 0:
            raise UserError(
                f"prompt {b.prompt.id!r} has {len(b.sampled)} sampled answers of {name} and {len(t.sampled)} "
                "of tuned; evaluate every prompt with the same number, at least 1 (`evaluate.samples`)."
            )
    return pairs


def _scored(outcome: Outcome) -> list[Score]:
    """The scores of the sampled answers that have one."""
    return [score for _, score in outcome.sampled if score.status != "missing"]


def _rewards(outcome: Outcome) -> list[float]:
    return [score.value for score in _scored(outcome) if score.value is not None]


def _missing(outcome: Outcome) -> int:
    """How many of all answers' scores are missing, that of the greedy one among them."""
    return sum(score.status == "missing" for _, score in (*outcome.sampled, outcome.greedy))


def _mean_reward(outcome: Outcome) -> float:
    return _mean(_rewards(outcome))


def _cut(outcome: Outcome) -> float:
    return _mean([float(answer.stop_reason == "length") for answer, _ in outcome.sampled])


def _sides(pairs: Sequence[Pair]) -> dict[str, list[Outcome]]:
    return {"base": [b for b, _ in pairs], "tuned": [t for _, t in pairs]}


def _variety(pairs: Sequence[Pair]) -> dict[str, Variety]:
    """Of the sampled answers and of the greedy ones: a policy's most likely words collapse first."""
    found: dict[str, Variety] = {}
    for side, outcomes in _sides(pairs).items():
        found[side] = variety([(o.prompt.id, [t.said for t, _ in o.sampled]) for o in outcomes])
        found[f"{side}_greedy"] = variety([(o.prompt.id, [o.greedy[0].said]) for o in outcomes])
    return found


def _content(pairs: Sequence[Pair]) -> dict[str, Content]:
    return {
        side: content([(o.prompt, o.sampled) for o in outcomes]) for side, outcomes in _sides(pairs).items()
    }


def _component_names(pairs: Sequence[Pair]) -> list[str]:
    """Names in the order of first appearance among the sampled answers."""
    scores = [score for pair in pairs for outcome in pair for score in _scored(outcome)]
    return list(dict.fromkeys(name for score in scores for name in score.breakdown))


def _component(name: str) -> Measure:
    def measure(outcome: Outcome) -> float | None:
        values = [score.breakdown.get(name) for score in _scored(outcome)]
        present = [value for value in values if value is not None]
        return _mean(present) if len(present) == len(values) else None

    return measure


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _example(base: Outcome, tuned: Outcome, others: Mapping[str, Mapping[str, Outcome]]) -> Example:
    (base_answer, base_score), (tuned_answer, tuned_score) = base.greedy, tuned.greedy
    beside = {name: found[base.prompt.id].greedy[0] for name, found in others.items()}
    sides = {"base": base_answer, **beside, "tuned": tuned_answer}
    return Example(
        prompt=_asked(base_answer, base.prompt),
        base=base_answer.completion,
        tuned=tuned_answer.completion,
        base_reward=base_score.value,
        tuned_reward=tuned_score.value,
        facets=base.prompt.facets,
        others={name: answer.completion for name, answer in beside.items()},
        dialogues={
            side: dialogue
            for side, answer in sides.items()
            if (dialogue := dialogue_of(answer, base.prompt)) is not None
        },
    )


def _asked(answer: Trajectory, prompt: Prompt) -> str:
    """The prompt as a person would be asked it; what a world says at the beginning ends it."""
    return replace(prompt, messages=answer.messages[: len(prompt.messages)]).text


def dialogue_of(answer: Trajectory, prompt: Prompt) -> Dialogue | None:
    """What was said behind a prompt in a world of several turns; None where none was played."""
    if answer.played is None:
        return None
    return Dialogue(messages=answer.messages[len(prompt.messages) :], played=answer.played)
