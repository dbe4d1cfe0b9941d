"""The tuned model beside its rivals: which of them to ship, and what can be said of each.

A rival is another way to the same end: a better system prompt, the best of several answers of the base model,
supervised fine-tuning on them. All stand on the same held-out prompts; differences are paired by prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from refine_rl.types import MIN_PROMPTS, Comparison, Estimate, Other, Outcome, Ship, Took, decimals, mean_of
from refine_rl.types.amounts import SECONDS, amount, price

CHEAPEST_FIRST = ("base", "prompt", "sft", "tuned", "best_of_n")
"""By what an answer costs where it is used: a prompt adds tokens to read, an adapter has to be kept and
loaded, and the best of n is n answers."""
LABELS = {"base": "base", "prompt": "better prompt", "sft": "SFT on its best answers", "tuned": "tuned"}
NAMES = {
    "prompt": "the base model with a better system prompt",
    "best_of_n": "the best of n answers of the base model",
    "sft": "the base model fine-tuned on its own best answers",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What is known of a rival beside its answers; see `Other`."""

    how: str
    answers: int = 0
    calls: int = 0
    cost_usd: float | None = 0.0
    seconds: float = 0.0
    at_use: str = ""
    tokens: float | None = None
    draws: int = 1
    found: str = ""
    folder: str = ""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What came of the rivals: what is known of those that answered, why others are missing, and what the
    training beside them took."""

    took: Took
    made: dict[str, Made] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


Sides = Mapping[str, Sequence[Outcome]]


def with_rivals(
    comparison: Comparison,
    sides: Sides,
    contest: Contest,
    *,
    resamples: int,
    seed: int,
) -> Comparison:
    """The comparison with what is known of the rivals among its others, why some are missing, and which of
    all to ship. One without a prompt that has scores of it and of tuned is missing, too."""

    def difference(a: Sequence[float], b: Sequence[float]) -> Estimate:
        from refine_rl.evaluate.stats import paired  # numpy, which a page or a listing does without

        return paired(a, b, resamples=resamples, seed=seed).difference

    others, lost = dict(comparison.others), dict(contest.missing)
    for name, one in contest.made.items():
        if name not in others:
            lost[name] = "None of the held-out prompts has scores of its answers and of the tuned model's."
            continue
        others[name] = _known(others[name], one, _over_base(sides, name, difference))
    base_and_all = {name: sides[name] for name in ("base", *contest.made, "tuned") if name not in lost}
    return replace(
        comparison,
        others=others,
        others_missing={name: lost[name] for name in sorted(lost, key=list(NAMES).index)},
        took=contest.took,
        ship=to_ship({name: rewards(side) for name, side in base_and_all.items()}, difference),
    )


def _known(other: Other, made: Made, over_base: Estimate | None) -> Other:
    return replace(other, over_base=over_base, **asdict(made))


def rewards(outcomes: Sequence[Outcome]) -> list[float | None]:
    """The mean reward of each prompt's sampled answers; None where none has a score."""
    values = [[s.value for _, s in o.sampled if s.value is not None] for o in outcomes]
    return [mean_of(some) if some else None for some in values]


def _over_base(
    sides: Sides, name: str, difference: Callable[[Sequence[float], Sequence[float]], Estimate]
) -> Estimate | None:
    pairs = zip(rewards(sides["base"]), rewards(sides[name]), strict=True)
    both = [(b, r) for b, r in pairs if b is not None and r is not None]
    return difference([b for b, _ in both], [r for _, r in both]) if both else None


def to_ship(
    by_prompt: Mapping[str, Sequence[float | None]],
    difference: Callable[[Sequence[float], Sequence[float]], Estimate],
) -> Ship | None:
    """Which of the models to ship, from the reward of each on each prompt; `difference(a, b)` is what b has
    more than a. None with fewer than 5 prompts that have a reward of each.

    The best is the one with the highest mean among those that are surely better than base; base itself where
    none is. Those of them from which it is not surely different do as well, and the one of these that costs
    least at use is shipped. The intervals are not corrected for their number.

    >>> from refine_rl.types import Estimate
    >>> exact = lambda a, b: Estimate(mean=b[0] - a[0], ci95=(b[0] - a[0] - 0.1, b[0] - a[0] + 0.1))
    >>> to_ship({"base": [0.2] * 5, "tuned": [0.7] * 5, "best_of_n": [0.75] * 5}, exact)
    Ship(name='tuned', as_well=('best_of_n',), unsure=())
    """
    rows = [dict(zip(by_prompt, values, strict=True)) for values in zip(*by_prompt.values(), strict=True)]
    whole = [row for row in rows if None not in row.values()]
    if len(whole) < MIN_PROMPTS:
        return None
    kept = {name: [value for row in whole if (value := row[name]) is not None] for name in by_prompt}
    better = {
        name: values
        for name, values in kept.items()
        if name != "base" and difference(kept["base"], values).ci95[0] > 0
    }
    if not better:
        return Ship(name="base", unsure=tuple(name for name in kept if name != "base"))
    best = max(better, key=lambda name: mean_of(better[name]))
    as_well = [name for name in better if name == best or difference(better[name], better[best]).ci95[0] <= 0]
    unsure = [
        name
        for name, values in kept.items()
        if name not in ("base", *better) and difference(values, better[best]).ci95[0] <= 0
    ]
    first, *rest = sorted(as_well, key=CHEAPEST_FIRST.index)
    return Ship(name=first, as_well=tuple(rest), unsure=tuple(unsure))


# -- in words ---------------------------------------------------------------------------------------


def label_of(name: str, other: Other | None = None) -> str:
    """A model's name in a table.

    >>> from refine_rl.types import Estimate
    >>> none = Estimate(mean=0.0, ci95=(0.0, 0.0))
    >>> label_of("tuned"), label_of("best_of_n", Other(mean=0.0, ci95=(0.0, 0.0), tuned_minus=none, draws=8))
    ('tuned', 'best of 8')
    """
    return LABELS.get(name) or (f"best of {other.draws}" if other is not None else name)


def shipping(c: Comparison) -> str:
    """Which of the models to ship, which do as well at what cost, which stand behind, and what the making
    took; "" where there are no rivals, or too few prompts."""
    if c.ship is None or c.base is None or c.tuned is None:
        return ""
    means = {"base": c.base.mean, **{n: o.mean for n, o in c.rivals.items()}, "tuned": c.tuned.mean}
    labels = {name: label_of(name, c.rivals.get(name)) for name in means}
    whole = {**NAMES, "base": "the base model", "tuned": "the tuned model"}
    ship = c.ship.name
    if ship == "base":
        tried = ", ".join(f"{labels[n]} {decimals(v)}" for n, v in means.items() if n != "base")
        said = [f"Ship the base model ({decimals(means['base'])}): nothing is shown to be better ({tried})."]
        return " ".join([*said, *_makings(c, labels)])
    name = labels[ship] if ship == "best_of_n" else whole[ship]
    said = [f"Ship {name} ({decimals(means[ship])})."]
    for other in c.ship.as_well:
        more = _price_of(c, other, ship)
        said.append(f"{_capital(labels[other])} does as well ({decimals(means[other])}){more}.")
    behind = [n for n in means if n not in (ship, *c.ship.as_well, *c.ship.unsure)]
    for what, names in (("Surely behind", behind), ("Not told apart from base", c.ship.unsure)):
        if names:
            said.append(f"{what}: " + ", ".join(f"{labels[n]} {decimals(means[n])}" for n in names) + ".")
    return " ".join([*said, *_makings(c, labels)])


def _makings(c: Comparison, labels: Mapping[str, str]) -> list[str]:
    took = [f"{label} {words}" for name, label in labels.items() if (words := to_make(name, c)) != "nothing"]
    return [f"To make: {'; '.join(took)}."] if took else []


def _price_of(c: Comparison, name: str, ship: str) -> str:
    """What a model costs at use beside the one to ship."""
    if name != "best_of_n":
        return ", and costs more to keep" if ship == "prompt" else ""
    tokens, other = c.rivals[name].tokens, sampled_tokens(c, ship)
    if not tokens or not other:
        return ""
    return f" at {tokens / other:.2g} times the tokens an answer, and needs the reward at each use"


def sampled_tokens(c: Comparison, name: str) -> float | None:
    """Tokens that are sampled for one answer of a model, on average; None where that is not known."""
    if name in c.rivals:
        return c.rivals[name].tokens
    return c.content[name].tokens if name in c.content else None


def to_make(name: str, c: Comparison) -> str:
    """What it took to make a model, in words."""
    if name == "base":
        return "nothing"
    made = c.took if name == "tuned" else c.rivals[name]
    if made is None or made.seconds is None:
        return "not known"
    if not made.seconds and not made.answers:
        return "nothing"
    seconds = amount(made.seconds, made.seconds, SECONDS)
    if made.cost_usd == 0:
        return seconds
    return f"{seconds}, {'cost unknown' if made.cost_usd is None else price(made.cost_usd)}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
