"""The other eye at each validation: what it says of the same answers, and what follows where it and the
reward drift apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refine_rl.errors import GuardStop
from refine_rl.evaluate.answer import answers_of, scored
from refine_rl.evaluate.correlate import within
from refine_rl.evaluate.drift import Drift, drift, looks_of
from refine_rl.evaluate.stats import mean_ci
from refine_rl.pipeline.work import Work
from refine_rl.training.missing import require_scores
from refine_rl.types import Outcome, Score, mean_of

Json = dict[str, Any]
_ADVICE = (
    "Read the newest answers beside the earlier ones: the reward is being won by something that the other "
    "eye does not want. Mend the reward (weigh what it leaves out, a sharper rubric, another judge) and "
    "start anew, or take the checkpoint of the earlier step."
)


def looked(work: Work, outcomes: Sequence[Outcome], step: int, where: str) -> Json:
    """What the other eye says of validation answers, for their line on record; {} without one. `prompts` has
    (mean reward, mean of the eye) of each prompt; `correlation` is that of both over answers to the same
    prompt."""
    eye = work.scorers.eye
    if eye is None:
        return {}
    if eye.reward is not None:
        score = work.scorer(eye.reward, f"{where}, the other eye", "missing_in_other_eye", step)
        seen = [[s.value for _, s in o.sampled] for o in scored([answers_of(outcomes)], score)[0]]
    else:
        seen = [[_watched(s, eye.watched) for _, s in o.sampled] for o in outcomes]
    pairs = {
        o.prompt.id: [
            (s.value, value)
            for (_, s), value in zip(o.sampled, values, strict=True)
            if s.value is not None and value is not None
        ]
        for o, values in zip(outcomes, seen, strict=True)
    }
    pairs = {name: some for name, some in pairs.items() if some}
    if not pairs:
        require_scores([Score.missing("the other eye gave no value")], 0.0, where)
    prompts = {
        name: [mean_of([x for x, _ in some]), mean_of([y for _, y in some])] for name, some in pairs.items()
    }
    mean = mean_ci([y for _, y in prompts.values()], resamples=1000, seed=work.settings.grpo.seed)
    return {
        "eye": {
            "mean": mean.mean,
            "ci95": mean.ci95,
            "correlation": within([*pairs.values()]),
            "prompts": prompts,
        }
    }


def _watched(score: Score, names: Sequence[str]) -> float | None:
    values = [score.breakdown[name] for name in names if name in score.breakdown]
    return mean_of(values) if values and score.value is not None else None


def heeded(work: Work, record: Json) -> float:
    """By what a validation on record counts for the choice of a checkpoint: its reward, or the other eye's
    value where a drift would lead back. Warns of a drift; raises GuardStop where `evaluate.on_drift` says
    so."""
    way = work.settings.evaluate.on_drift
    if way == "off" or "eye" not in record:
        return float(record["reward"]["mean"])
    step = record["step"]
    if (found := _drift(work, step)) is not None:
        if way == "stop":
            raise GuardStop(
                "drift", f"{found}.", f'{_ADVICE} To go on all the same: evaluate.on_drift="warn".'
            )
        text = f"{found}. {_ADVICE}"
        work.journal.warning("drift", text, step, shown=f"Step {step}: {text}", once=True)
    return float(record["eye" if way == "rollback" else "reward"]["mean"])


def led_back(work: Work, step: int) -> str:
    """Why training is over before `step`; "" where it is not: a drift, where that leads back."""
    if work.settings.evaluate.on_drift != "rollback":
        return ""
    found = _drift(work, step - 1)
    if found is None or found.now != step - 1:
        return ""
    return (
        f"{found}: training ended after {step - 1} steps, and the model is that of the checkpoint which the "
        "other eye liked best."
    )


def _drift(work: Work, step: int) -> Drift | None:
    """What the looks up to that of `step` show."""
    g = work.settings.grpo
    planned = 1 + -(-g.steps // g.validate_every)
    return drift(looks_of(line for line in work.folder.validation() if line["step"] <= step), planned)
