"""What a comparison allows to say, and what has to be said with it."""

from __future__ import annotations

from collections.abc import Sequence

from refine_rl.evaluate import forgotten, looks, power
from refine_rl.evaluate.content import content_loss
from refine_rl.evaluate.curves import SHARPENED, sharpening
from refine_rl.evaluate.metrics.names import not_beaten
from refine_rl.evaluate.rivals import NAMES, shipping
from refine_rl.types import MIN_PROMPTS, Comparison, Estimate, StepMetrics, Verdict, count_of, decimals

FEW_PROMPTS = 20  # with fewer, only large differences show
HOLDS_FROM = 10  # with fewer, an interval promises more than it holds
MOSTLY = 0.5  # of the answers


def verdict(difference: Estimate | None, prompts: int, *, updated: bool = True) -> Verdict:
    """What the interval of the difference allows to say. Over fewer than 5 prompts a bootstrap interval
    means nothing (over one it has no width at all). `updated` says whether training moved a weight.

    >>> verdict(Estimate(mean=0.2, ci95=(0.1, 0.3)), 64), verdict(Estimate(mean=0.2, ci95=(0.0, 0.4)), 64)
    ('better', 'not better')
    >>> verdict(Estimate(mean=0.2, ci95=(0.1, 0.3)), 4), verdict(None, 0)
    ('too few to tell', 'not possible')
    >>> verdict(Estimate(mean=0.0, ci95=(0.0, 0.0)), 64, updated=False)
    'no signal'
    """
    if not updated:
        return "no signal"
    if difference is None:
        return "not possible"
    if prompts < MIN_PROMPTS:
        return "too few to tell"
    low, high = difference.ci95
    if low > 0:
        return "better"
    return "worse" if high < 0 else "not better"


def updated(history: Sequence[StepMetrics]) -> bool:
    """Whether any of a run's steps moved a weight. A run without a record of its steps may have."""
    return not history or any(m.loss is not None and m.grad_norm != 0.0 for m in history)


def mostly_cut(comparison: Comparison) -> bool:
    """Whether most answers of the tuned model were cut at the token limit, so that their ends were never
    scored. Where only the base model's were, the tuned one has learnt to come to an end."""
    cut = comparison.details.get("cut")
    return cut is not None and cut.tuned.mean > MOSTLY


def _base_mostly_cut(comparison: Comparison) -> bool:
    cut = comparison.details.get("cut")
    return cut is not None and cut.base.mean > MOSTLY >= cut.tuned.mean


def lost_content(comparison: Comparison) -> str:
    """What to say where the reward surely rose as answers shrank and lost the prompts' content; "" else."""
    c = comparison
    if c.reward is None or c.prompts < MIN_PROMPTS or c.reward.difference.ci95[0] <= 0 or not c.content:
        return ""
    return content_loss(c.content["base"], c.content["tuned"], (c.reward.base.mean, c.reward.tuned.mean))


def cautions(comparison: Comparison) -> dict[str, str]:
    """Name -> sentence for everything that weakens the verdict, or stands in its place."""
    c, found = comparison, {}
    if c.verdict == "no signal":
        found["no_signal"] = (
            "No step of the training moved a weight: in no group did one answer earn more than another, or "
            "their scores were missing. The tuned model is the base model."
        )
    if c.reward is None:
        found["not_possible"] = (
            f"No prompt (of {c.prompts_asked}) has scores of both models. The model is trained and saved: "
            "mend what keeps scores away, and compare again."
        )
    elif c.prompts < MIN_PROMPTS:
        found["few_prompts"] = (
            f"Only {count_of(c.prompts, 'prompt')}: a verdict needs at least {MIN_PROMPTS}, and "
            f"{FEW_PROMPTS} or more to be relied on. Compare on more, or hold out more (prompts.held_out)."
        )
    elif c.prompts < FEW_PROMPTS:
        found["few_prompts"] = (
            f"Only {count_of(c.prompts, 'prompt')}: {of_few(c.prompts)}. Hold out more prompts before "
            "relying on it."
        )
    if any(c.scores_missing.values()):
        are = "is" if c.prompts_missing == 1 else "are"
        left_out = (
            f" {c.prompts_missing} of {c.prompts_asked} prompts {are} left out." if c.prompts_missing else ""
        )
        answers = c.prompts_asked * (c.samples + 1)
        base, tuned = (c.scores_missing.get(side, 0) for side in ("base", "tuned"))
        found["scores_missing"] = (
            f"Scores are missing of {base} of the base model’s {answers} answers and of {tuned} of the tuned "
            f"model’s; a prompt counts by those that it has, if each side has one.{left_out}"
        )
    elif c.prompts_missing and c.reward is not None:
        found["scores_missing"] = (
            "Left out on both sides, because a score was missing: "
            f"{c.prompts_missing} of {c.prompts_asked} prompts."
        )
    if loss := lost_content(c):
        found["content_loss"] = loss
    found |= _beside_others(c)
    found |= {
        f"missing_{name}": f"{NAMES[name][0].upper()}{NAMES[name][1:]} is missing: {why}"
        for name, why in c.others_missing.items()
    }
    if mostly_cut(c):
        found["mostly_cut"] = (
            "Most answers of the tuned model were cut at rollout.max_tokens before their end: what is "
            "compared are beginnings. Raise it, or reward shorter answers."
        )
    if _base_mostly_cut(c):
        found["base_cut"] = (
            "Most answers of the base model were cut at rollout.max_tokens before their end, the tuned "
            "model’s were not: part of the difference is that it learnt to come to an end."
        )
    found |= {f"control_{name}": text for name, text in not_beaten(c).items()}
    if (changed := forgotten.large(c)) and c.verdict != "no signal":
        found["forgotten"] = changed
    if lost := looks.losses(c):
        found["lost_by_facet"] = lost
    if (curves := sharpening(c)).startswith(SHARPENED):
        found["sharpened"] = curves
    if c.verdict in ("not better", "too few to tell") and (could := power.told(c)):
        found["power"] = could
    return found


def of_few(prompts: int) -> str:
    """What is wrong with an interval from so few.

    >>> of_few(5), of_few(12)
    ('an interval from so few holds less often than it should', 'so few show large differences alone')
    """
    if prompts < HOLDS_FROM:
        return "an interval from so few holds less often than it should"
    return "so few show large differences alone"


def _beside_others(c: Comparison) -> dict[str, str]:
    """What a model from which training began takes away from a claim."""
    found = {}
    for name, other in c.stages.items():
        low, high = other.tuned_minus.ci95
        if c.prompts >= MIN_PROMPTS and low <= 0:
            what = "is worse than" if high < 0 else "is not shown to be better than"
            found[f"beside_{name}"] = (
                f"The tuned model {what} {called(name)}: {decimals(other.tuned_minus.mean, '+')}, 95 % "
                f"interval {decimals(low, '+')} to {decimals(high, '+')}."
            )
    return found


def called(name: str) -> str:
    """What a further model of a comparison is called in a sentence.

    >>> called("sft")
    'the model after supervised fine-tuning'
    """
    return {"sft": "the model after supervised fine-tuning"}.get(name, name)


def unexpected(comparison: Comparison) -> dict[str, str]:
    """The cautions that are warnings when a comparison is made."""
    found = cautions(comparison)
    return {
        name: found[name]
        for name in ("no_signal", "not_possible", "content_loss", "mostly_cut")
        if name in found
    }


def said_with(comparison: Comparison) -> list[str]:
    """The sentences that stand beside the verdict wherever it is told: which of its rivals to ship, how many
    answers were cut, and every caution."""
    first = (shipping(comparison), cut_text(comparison))
    return [*(text for text in first if text), *cautions(comparison).values()]


def cut_text(comparison: Comparison) -> str:
    """The shares of sampled answers that were cut; "" where they are not known."""
    cut = comparison.details.get("cut")
    if cut is None:
        return ""
    base, tuned = (f"{100 * side.mean:.0f} %" for side in (cut.base, cut.tuned))
    return f"Answers cut at the token limit: base {base}, tuned {tuned}."
