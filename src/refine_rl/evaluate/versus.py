"""Two models beside one another, neither of which is the other's base: what was compared, and what it allows
to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from refine_rl.evaluate.verdict import FEW_PROMPTS, MOSTLY, of_few
from refine_rl.types import MIN_PROMPTS, Comparison, count_of

Standing = Literal["B is better", "A is better", "no difference shown", "too few to tell", "not possible"]
_STANDINGS: Mapping[str, Standing] = {
    "better": "B is better",
    "worse": "A is better",
    "not better": "no difference shown",
    "too few to tell": "too few to tell",
    "not possible": "not possible",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """One of the two. `run` is its folder ("" where no run of ours tuned it), `step` the step of training
    that its weights are from (0: not known), `base` the model that the run tuned. `answers` and `scores` say
    whether they stood on record or were made anew."""

    name: str
    run: str = ""
    base: str = ""
    step: int = 0
    answers: Literal["on record", "anew"] = "anew"
    scores: Literal["on record", "anew"] = "anew"


@dataclass(frozen=True, kw_only=True, slots=True)
class Versus:
    """Model A and model B on the same prompts, with the same random draws, by the reward of A's run.

    In `comparison` A stands where base does, and B where tuned does: `difference` is what B has more.
    `source` names other prompts than A's held-out ones, `judge` another judge than A's. `left_out` are the
    ids of prompts that equal or resemble what one of them was trained on; `differs` are the settings in which
    the reward that B was trained by is another one.
    """

    a: Model
    b: Model
    comparison: Comparison
    seed: int
    source: str = ""
    judge: str = ""
    left_out: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cost_usd: float | None = None

    @property
    def standing(self) -> Standing:
        """What the interval of the difference allows to say."""
        return _STANDINGS[self.comparison.verdict]


def said_of(versus: Versus) -> list[str]:
    """What has to be said with the result, wherever it is told."""
    c, found = versus.comparison, list(versus.notes)
    if versus.differs:
        found.append(
            f"{versus.b.name} was trained by another reward ({', '.join(versus.differs)} differ); both are "
            f"measured by that of {versus.a.name}."
        )
    if versus.left_out:
        found.append(
            f"Left out: {count_of(len(versus.left_out), 'prompt')} that equal or resemble what one of the "
            "two was trained on."
        )
    if c.reward is None:
        found.append(f"No prompt (of {c.prompts_asked}) has scores of both models.")
    elif c.prompts < FEW_PROMPTS:
        least = "" if c.prompts >= MIN_PROMPTS else f", and a verdict needs at least {MIN_PROMPTS}"
        found.append(
            f"Only {count_of(c.prompts, 'prompt')}: {of_few(c.prompts)}"
            f"{least}. Compare on more with --prompts FILE."
        )
    if any(c.scores_missing.values()) or c.prompts_missing:
        a, b = (c.scores_missing.get(side, 0) for side in ("base", "tuned"))
        found.append(
            f"Scores are missing: {a} of {versus.a.name}’s answers, {b} of {versus.b.name}’s; "
            f"{c.prompts_missing} of {c.prompts_asked} prompts are left out for it."
        )
    cut = c.details.get("cut")
    if cut is not None and max(cut.base.mean, cut.tuned.mean) > MOSTLY:
        found.append(
            f"Many answers were cut at the token limit ({versus.a.name} {cut.base.mean:.0%}, "
            f"{versus.b.name} {cut.tuned.mean:.0%}): what is compared are beginnings."
        )
    return found
