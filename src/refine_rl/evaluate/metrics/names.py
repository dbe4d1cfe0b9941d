"""The metrics by name, for people: labels, which end is the better one, and what may be said of controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from refine_rl.types import MIN_PROMPTS, Beside, Comparison, decimals

Better = Literal["higher", "lower", ""]

LABELS: Mapping[str, tuple[str, Better]] = {
    "bleu": ("BLEU, 0 to 100", "higher"),
    "chrf": ("chrF, 0 to 100", "higher"),
    "rouge1": ("ROUGE-1, F1", "higher"),
    "rouge2": ("ROUGE-2, F1", "higher"),
    "rougeL": ("ROUGE-L, F1", "higher"),
    "bertscore": ("BERTScore, F1", "higher"),
    "perplexity": ("Perplexity of the references", "lower"),
    "chars": ("Length, characters", ""),
    "tokens": ("Length, tokens", ""),
    "win_rate": ("Win rate against the other model", "higher"),
    "win_rate_reference": ("Win rate against the reference", "higher"),
    "reward": ("Reward, greedy answer", "higher"),
}
"""A metric's name in records -> its label, and which end is the better one ("" where neither is)."""

CONTROLS: Mapping[str, str] = {
    "shuffled": "the reference of another prompt",
    "name": "the name echoed",
    "nearest": "the answer of the nearest training prompt",
}
"""A control's name in records -> what stands there: for `shuffled` in the reference's place, else in the
answer's."""


def label(name: str) -> str:
    """
    >>> label("bleu"), label("mine")
    ('BLEU, 0 to 100', 'mine')
    """
    return LABELS.get(name, (name, ""))[0]


def not_beaten(comparison: Comparison) -> dict[str, str]:
    """Control -> what has to be said where the tuned model is not shown to beat it by a metric; nothing on
    fewer prompts than an interval needs."""
    prompts = max((metric.prompts for metric in comparison.metrics.values()), default=0)
    if prompts < MIN_PROMPTS:
        return {}
    found: dict[str, str] = {}
    for control, metrics in comparison.controls.items():
        lost = [_against(name, beside) for name, beside in metrics.items() if not _beaten(name, beside)]
        # One metric that tells a prompt's own reference from others shows that answers depend on it.
        if not lost or (control == "shuffled" and len(lost) < len(metrics)):
            continue
        by = " and ".join([", ".join(lost[:-1]), lost[-1]] if len(lost) > 1 else lost)
        if control == "shuffled":
            found[control] = (
                f"The tuned model’s answers fit {CONTROLS[control]} as well as their own by {by}: they may "
                "not depend on what was asked."
            )
        else:
            found[control] = (
                f"The tuned model is not shown to beat {CONTROLS.get(control, control)}, which needs no "
                f"model, by {by}."
            )
    return found


def _beaten(name: str, beside: Beside) -> bool:
    """Whether the interval of the difference says so; a length is not won."""
    better = LABELS.get(name, (name, "higher"))[1]
    low, high = beside.tuned_minus.ci95
    return {"higher": low > 0, "lower": high < 0, "": True}[better]


def _against(name: str, beside: Beside) -> str:
    tuned = beside.mean + beside.tuned_minus.mean
    short = label(name).partition(",")[0]
    return f"{short} ({decimals(tuned)} against {decimals(beside.mean)})"
