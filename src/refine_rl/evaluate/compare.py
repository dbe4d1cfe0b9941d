"""Base against tuned on the held-out prompts: the evidence, from outcomes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from refine_rl.errors import UserError
from refine_rl.evaluate.stats import paired
from refine_rl.types import Comparison, Contrast, Estimate, Example, Outcome, Score, Verdict

Pair = tuple[Outcome, Outcome]  # the same prompt, answered by base and by tuned
MIN_PROMPTS = 5
Measure = Callable[[Outcome], float | None]  # one number a prompt; None where it has none


def compare(
    base: Sequence[Outcome],
    tuned: Sequence[Outcome],
    *,
    success: Callable[[Score], bool],
    resamples: int,
    seed: int,
    max_examples: int = 24,
) -> Comparison:
    """Compare the two models prompt by prompt.

    The measure of a prompt is the mean reward of its sampled answers; `success` says whether a
    score counts as a full success. A prompt with any missing score on either side is left out on
    both and counted in `prompts_missing`. A component is compared on the prompts where every
    sampled answer of both models has it.

    `examples` are at most `max_examples` prompts with the greedy answer of each model (no luck in it). They
    are chosen by order and facets alone (see `spread`), never by what was answered or scored.

    Raises UserError when base and tuned did not answer the same prompts in the same order, with
    the same number of answers, or when no prompt is left.
    """
    pairs = _pair(base, tuned)
    kept = [pair for pair in pairs if not any(map(_has_missing, pair))]
    if not kept:
        raise UserError(
            f"nothing can be compared: {_no_prompt_left(pairs)} "
            "Look at the explanations of the scores, repair the reward, and evaluate again."
        )

    def contrast(measure: Measure) -> Contrast | None:
        values = [(measure(b), measure(t)) for b, t in kept]
        both = [(b, t) for b, t in values if b is not None and t is not None]
        if not both:
            return None
        return paired([b for b, _ in both], [t for _, t in both], resamples=resamples, seed=seed)

    reward = contrast(lambda outcome: _mean_reward([score for _, score in outcome.sampled]))
    assert reward is not None  # every kept prompt has all its scores
    measures: dict[str, Measure] = {
        "greedy": lambda outcome: outcome.greedy[1].value,
        "success": lambda outcome: _mean([float(success(score)) for _, score in outcome.sampled]),
        "success_greedy": lambda outcome: float(success(outcome.greedy[1])),
    }
    measures |= {f"component:{name}": _component(name) for name in _component_names(kept)}
    details = {name: contrast(measure) for name, measure in measures.items()}
    chosen = spread([b.prompt.facets for b, _ in kept], max_examples)
    return Comparison(
        prompts=len(kept),
        base=reward.base,
        tuned=reward.tuned,
        difference=reward.difference,
        verdict=verdict(reward.difference, len(kept)),
        examples=tuple(_example(*kept[i]) for i in chosen),
        details={name: detail for name, detail in details.items() if detail is not None},
        samples=len(kept[0][0].sampled),
        prompts_missing=len(pairs) - len(kept),
    )


def verdict(difference: Estimate, prompts: int) -> Verdict:
    """What the interval of the difference allows to say. Over fewer than 5 prompts a bootstrap interval
    means nothing (over one it has no width at all), so nothing is claimed.

    >>> verdict(Estimate(mean=0.2, ci95=(0.1, 0.3)), 64), verdict(Estimate(mean=0.2, ci95=(0.0, 0.4)), 64)
    ('better', 'not better')
    >>> verdict(Estimate(mean=0.2, ci95=(0.1, 0.3)), 4)
    'not better'
    """
    if prompts < MIN_PROMPTS:
        return "not better"
    low, high = difference.ci95
    if low > 0:
        return "better"
    return "worse" if high < 0 else "not better"


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


def _pair(base: Sequence[Outcome], tuned: Sequence[Outcome]) -> list[Pair]:
    if len(base) != len(tuned):
        raise UserError(
            f"base answered {len(base)} prompts and tuned {len(tuned)}; evaluate both on the same prompts."
        )
    pairs = list(zip(base, tuned, strict=True))
    for number, (b, t) in enumerate(pairs, 1):
        if b.prompt.id != t.prompt.id:
            raise UserError(
                f"prompt {number} is {b.prompt.id!r} for base and {t.prompt.id!r} for tuned; "
                "evaluate both on the same prompts in the same order."
            )
        if not len(b.sampled) == len(t.sampled) == len(base[0].sampled) > 0:
            raise UserError(
                f"prompt {b.prompt.id!r} has {len(b.sampled)} sampled answers of base and {len(t.sampled)} "
                "of tuned; evaluate every prompt with the same number, at least 1 (`evaluate.samples`)."
            )
    return pairs


def _no_prompt_left(pairs: Sequence[Pair]) -> str:
    if not pairs:
        return "there are no held-out prompts."
    return f"each of the {len(pairs)} held-out prompts has a missing score."


def _has_missing(outcome: Outcome) -> bool:
    scores = [score for _, score in (*outcome.sampled, outcome.greedy)]
    return any(score.status == "missing" for score in scores)


def _component_names(pairs: Sequence[Pair]) -> list[str]:
    """Names in the order of first appearance among the sampled answers."""
    scores = [score for pair in pairs for outcome in pair for _, score in outcome.sampled]
    return list(dict.fromkeys(name for score in scores for name in score.breakdown))


def _component(name: str) -> Measure:
    def measure(outcome: Outcome) -> float | None:
        values = [score.breakdown.get(name) for _, score in outcome.sampled]
        present = [value for value in values if value is not None]
        return _mean(present) if len(present) == len(values) else None

    return measure


def _mean_reward(scores: Sequence[Score]) -> float:
    return _mean([score.value for score in scores if score.value is not None])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _example(base: Outcome, tuned: Outcome) -> Example:
    (base_answer, base_score), (tuned_answer, tuned_score) = base.greedy, tuned.greedy
    return Example(
        prompt=base.prompt.text,
        base=base_answer.completion,
        tuned=tuned_answer.completion,
        base_reward=base_score.value,
        tuned_reward=tuned_score.value,
        facets=base.prompt.facets,
    )
