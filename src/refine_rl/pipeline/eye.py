"""The other eye at each validation: what it says of the same answers, and what follows where it and the
reward drift apart."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from refine_rl.errors import GuardStop
from refine_rl.evaluate.answer import answers_of, scored
from refine_rl.evaluate.correlate import within
from refine_rl.evaluate.drift import Drift, drift, gains, looks_of
from refine_rl.evaluate.stats import mean_ci
from refine_rl.pipeline.work import Work
from refine_rl.run.forgotten import GONE_BACK
from refine_rl.settings.file import override
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
    prompt; `gains` are answers whose reward rose against what the eye says (drift.py)."""
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
    earlier = (line["eye"]["prompts"] for line in work.folder.validation() if "eye" in line)
    first: Mapping[str, Sequence[float]] = next(earlier, {})
    said = (
        (o.prompt.id, t.said, s.value, value)
        for o, values in zip(outcomes, seen, strict=True)
        for (t, s), value in zip(o.sampled, values, strict=True)
        if s.value is not None and value is not None
    )
    mean = mean_ci([y for _, y in prompts.values()], resamples=1000, seed=work.settings.grpo.seed)
    return {
        "eye": {
            "mean": mean.mean,
            "ci95": mean.ci95,
            "correlation": within([*pairs.values()]),
            "prompts": prompts,
            "gains": gains(said, first),
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


class Back(Exception):  # noqa: N818 - no error: training goes on elsewhere
    """Training goes on from the checkpoint of `step`, for the reason `why`."""

    def __init__(self, step: int, why: str) -> None:
        super().__init__(why)
        self.step, self.why = step, why


def led_back(work: Work, step: int) -> str:
    """Why training is over before `step`; "" where it is not: a drift, where that leads back. The first time,
    where there is a checkpoint to go on from, it raises Back instead."""
    if work.settings.evaluate.on_drift != "rollback":
        return ""
    found = _drift(work, step - 1)
    if found is None or found.now != step - 1:
        return ""
    looks = [line for line in work.folder.validation() if 0 < line["step"] < found.now and "eye" in line]
    best = max(looks, key=lambda line: float(line["eye"]["mean"]), default=None)
    if best is not None and not work.journal.told(GONE_BACK) and best["step"] in work.folder.checkpoints():
        raise Back(best["step"], str(found))
    again = ", once more" if work.journal.told(GONE_BACK) else ""
    return (
        f"{found}{again}: training ended after {step - 1} steps, and the model is that of the checkpoint "
        "which the other eye liked best."
    )


def go_back(work: Work, back: Back) -> None:
    """Puts it on record that training is to go on from there, with half the learning rate; `gone_back` does
    it, in this process or the next one."""
    rate = work.settings.learning_rate
    text = (
        f"{back.why}: training went back to step {back.step}, and on from there with half the learning rate, "
        f"{rate / 2:g}. What was trained since is forgotten. Should they drift apart again, training ends."
    )
    work.journal.note(GONE_BACK, text, back.step, old=repr(rate), new=repr(rate / 2))


def gone_back(work: Work) -> Work:
    """The work as it goes on: where `go_back` said so and it was not yet done, the steps since are forgotten
    and the settings are those of half the rate."""
    events = work.folder.events()
    place = next((n for n in reversed(range(len(events))) if events[n]["name"] == GONE_BACK), None)
    if place is None:
        return work
    said, before = events[place], work.folder.settings()
    rates = [e["new"] for e in events[place:] if (e["kind"], e["name"]) == ("changed", "grpo.learning_rate")]
    by_hand = rates and rates[-1] != said["new"]  # since it was done: the old rate may be wanted again
    if by_hand or repr(before.learning_rate) != said["old"]:
        return work
    forgotten = sum(m.seconds["total"] for m in work.folder.history() if m.step > said["step"])
    work.folder.rewind(said["step"])
    work.journal.went_back(said["step"])
    halved = [f"grpo.learning_rate={said['new']}"]
    work.folder.change(before, override(before, halved), said["step"])
    # The hours that it took count.
    return replace(
        work,
        settings=override(work.settings, halved),
        began=time.perf_counter() - forgotten,
        warned={name for name in work.warned if work.journal.told(name)},
    )


def _drift(work: Work, step: int) -> Drift | None:
    """What the looks up to that of `step` show."""
    g = work.settings.grpo
    planned = 1 + -(-g.steps // g.validate_every)
    return drift(looks_of(line for line in work.folder.validation() if line["step"] <= step), planned)
