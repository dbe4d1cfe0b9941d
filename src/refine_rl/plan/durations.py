"""Machine and LLMs -> how long the parts of a run take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refine_rl.plan import pace
from refine_rl.plan.calls import STEPS, Calls
from refine_rl.plan.money import Endpoints
from refine_rl.plan.pace import Work
from refine_rl.settings import EndpointSettings

CALL_SECONDS = 3.0  # of a judge's or reader's call
WRITING_SECONDS = 15.0  # of a call that writes prompts, a rubric or questions
OVERLAP = 1.15  # a step's time over the longer of machine and judges, where they work side by side
_WRITING = ("facets", "prompts", "system message", "rubric", "questions")
_TRAINING = ("training", "questions", "check of the questions", STEPS)

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seconds:
    """How long the parts of a run take, low and high. `machine` and `total` are None where the model's size
    is unknown; `training` is `total` up to the end of training, as budget.hours counts."""

    machine: Span | None
    judges: Span
    training: Span | None
    total: Span | None


def durations(
    planned: Sequence[Calls],
    work: Work | None,
    *,
    steps: int,
    ahead: bool,
    endpoints: Endpoints,
    waves: int = 0,
    again: int = 0,
    before: Span = (0.0, 0.0),
) -> Seconds:
    """Machine and LLMs together: side by side in training where `steps` are sampled `ahead`, else after one
    another in the high figure. `waves`: times that a step may have to wait again, for groups in the place of
    others. `again`: steps that the high figure counts a second time. `before`: the machine's seconds of
    supervised fine-tuning, with which training begins."""
    training = [c for c in planned if c.stage in _TRAINING]
    around = [c for c in planned if c.stage not in _TRAINING]
    taken = steps, steps + again
    judged = tuple(
        taken[which] * _waiting(training, endpoints, which, rounds=taken[which], waves=which * waves)
        for which in (0, 1)
    )
    beside = tuple(_waiting(around, endpoints, which, rounds=1) for which in (0, 1))
    judges = (judged[0] + beside[0], judged[1] + beside[1])
    if work is None:
        return Seconds(machine=None, judges=judges, training=None, total=None)
    low, high = (n * s for n, s in zip(taken, work.step, strict=True))
    longer = max(high, judged[1])
    # The comparison comes after training; what else is evaluated is counted here as well.
    begun = (pace.START + before[0], pace.START + before[1])
    trained = (
        begun[0] + max(low, judged[0]),
        begun[1] + (OVERLAP * longer if ahead else high + judged[1]),
    )
    return Seconds(
        machine=(begun[0] + low + work.evaluation[0], begun[1] + high + work.evaluation[1]),
        judges=judges,
        training=trained,
        total=(
            trained[0] + max(work.evaluation[0], beside[0]),
            trained[1] + work.evaluation[1] + beside[1],
        ),
    )


def alone(sft: Span | None) -> Seconds:
    """Of supervised fine-tuning and nothing else."""
    whole = None if sft is None else (pace.START + sft[0], pace.START + sft[1])
    return Seconds(machine=whole, judges=(0.0, 0.0), training=whole, total=whole)


def _waiting(
    planned: Sequence[Calls], endpoints: Endpoints, which: int, *, rounds: int, waves: int = 0
) -> float:
    """Seconds of one of `rounds` equal shares of the calls: each endpoint works on as many at once as its
    `concurrency` allows, all endpoints side by side. `waves`: times that a share is cut, each part asked for
    after the one before."""
    busy: dict[str, float] = {}
    for c in planned:
        name = c.model.partition("/")[0]
        number = (c.low, c.high)[which] / rounds
        at_once = endpoints.get(name, EndpointSettings()).concurrency
        # In a round that is not full the last calls take as long as any.
        times = number / at_once if c.stage in _WRITING else -(-number // at_once) + waves
        busy[name] = busy.get(name, 0.0) + times * (WRITING_SECONDS if c.stage in _WRITING else CALL_SECONDS)
    return max(busy.values(), default=0.0)
