"""Supervised fine-tuning: its rows, read and encoded as a run would, and what they take.

No weight is read. Where the model is not on this machine, tokens are guessed from characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refine_rl.errors import MachineError
from refine_rl.plan.counts import tokens
from refine_rl.plan.machine import Rates
from refine_rl.plan.memory import kept_weights, sampling_bytes
from refine_rl.plan.pace import Pace
from refine_rl.plan.team import ALONE, Team
from refine_rl.policy.size import Size
from refine_rl.prompts.demonstrations import Shown
from refine_rl.settings import Settings, SFTSettings
from refine_rl.training.memory import SLACK, held, training_bytes
from refine_rl.types import Demonstration

LOOKED_AT = 10_000
"""So many rows are encoded, spread over all: a minute's worth is no plan."""

MUON = 30
"""Multiplications and additions a weight and unit of its matrix's smaller side: five times three products."""

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What the stage is trained on. `tokens` are those of one pass over the training rows, `targets` those
    among them that are imitated, `looked` those of the validation rows; `prompt` is the mean length of what
    stands before an answer, `longest` that of the longest row. `epochs` are the passes of all `steps`.
    `guessed`: tokens are guessed from characters."""

    train: int
    validation: int
    tokens: int
    targets: int
    looked: int
    prompt: int
    longest: int
    steps: int
    epochs: float
    guessed: bool
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Supervised:
    """The stage with what it takes; spans are (low, high), None where the model's size is unknown. Low:
    `sft.patience` ends it as early as it can, and answers have half of rollout.max_tokens."""

    rows: Rows
    seconds: Span | None = None
    memory: Span | None = None  # bytes
    disk: float = 0.0  # bytes


def count_rows(settings: Settings, sft: SFTSettings, shown: Shown, *, known: bool) -> Rows:
    """Raises UserError for rows that a run would refuse. `known`: the model's configuration is on this
    machine, so that its tokenizer counts; else, or where that one cannot be had, tokens are guessed."""
    from refine_rl.training.sft.rows import Order

    every = -(-len(shown.rows) // LOOKED_AT)
    some = shown.rows[::every]
    counted = _encoded(settings, sft, some, shown.lines) if known else None
    train, validation, lines = _guessed(sft, some) if counted is None else counted
    if every > 1:
        lines = (*lines, f"one row in {every} was looked at, and stands for the others")
    lengths = [length for length, _ in train] * every
    order = Order(lengths=tuple(lengths), batch_tokens=sft.batch_tokens, seed=sft.seed)
    steps = sft.steps or order.steps(sft.epochs or 1.0)
    targets = sum(said for _, said in train)
    return Rows(
        train=len(lengths),
        validation=len(validation) * every,
        tokens=sum(lengths),
        targets=targets * every,
        looked=sum(length for length, _ in validation) * every,
        prompt=round((sum(lengths) / every - targets) / len(train)),
        longest=max(length for length, _ in (*train, *validation)),
        steps=steps,
        epochs=order.epochs(steps),
        guessed=counted is None,
        lines=(*shown.lines, *lines),
    )


def supervised(
    settings: Settings, sft: SFTSettings, rows: Rows, size: Size, rates: Rates, team: Team = ALONE
) -> Supervised:
    """What the stage takes on a machine of these rates; memory is that of a device."""
    checkpoints = -(-rows.steps // (sft.checkpoint_every or -(-rows.steps // 10)))
    low, high = (
        _seconds(settings, sft, rows, size, rates, team, share=share, steps=steps)
        for share, steps in ((0.5, earliest(sft, rows)), (1.0, rows.steps))
    )
    return Supervised(
        rows=rows,
        seconds=(low, high),
        memory=(
            team.on_one * _memory(settings, sft, rows, size, rates, team, 1.0),
            team.on_one * _memory(settings, sft, rows, size, rates, team, SLACK),
        ),
        disk=kept_weights(settings.sft_model, size, min(sft.keep_checkpoints, checkpoints) + 1),
    )


def looks_every(sft: SFTSettings, rows: Rows) -> int:
    """Steps between looks at the validation rows; 0: there are none."""
    every = -(-rows.steps // 10) if sft.validate_every is None else sft.validate_every
    return every if rows.validation else 0


def earliest(sft: SFTSettings, rows: Rows) -> int:
    """The step at which `sft.patience` can end training first: the first look was the best."""
    every = looks_every(sft, rows)
    if sft.patience is None or not every:
        return rows.steps
    return min(rows.steps, every * (1 + sft.patience))


def _seconds(
    settings: Settings,
    sft: SFTSettings,
    rows: Rows,
    size: Size,
    rates: Rates,
    team: Team,
    *,
    share: float,
    steps: int,
) -> float:
    """Of `steps` steps, the looks at the validation rows, and the examples before and after."""
    own = settings.model_copy(update={"model": settings.sft_model})
    pace = Pace(settings=own, size=size, rates=team.rates(rates), prompt=rows.prompt, share=share, team=team)
    said = rows.targets / rows.tokens
    tokens = rows.tokens * rows.epochs / rows.steps  # of a step
    step = pace.once(tokens, tokens * said, sft.at_once) * pace.again
    if sft.optimizer == "muon":
        step += (
            MUON * size.linear * (2 if size.listens else 1) * size.hidden / rates.train * pace.fitted.slowdown
        )
    every, looks = looks_every(sft, rows), 0
    if rows.validation:
        looks = 1 + (steps // every + (steps == rows.steps and steps % every > 0) if every else 0)
    look = pace.once(rows.looked, rows.looked * said, sft.at_once) / 3
    examples = min(sft.examples, rows.validation or rows.train)
    return steps * step + looks * look + 2 * pace.sampling(examples, 1)


def _memory(
    settings: Settings, sft: SFTSettings, rows: Rows, size: Size, rates: Rates, team: Team, slack: float
) -> float:
    """Bytes at the peak, of a process."""
    model, most = settings.sft_model, settings.rollout.max_tokens
    sampling = sampling_bytes(
        size, rates, asked=max(1, team.groups(sft.examples)), length=rows.longest + most
    )
    at_once = min(sft.at_once, sft.batch_tokens)  # of a step's rows
    training = training_bytes(model, size, rates, max(at_once, rows.longest))
    return held(model, size, rates) - team.apart(size, rates) + slack * max(sampling, training)


Counted = tuple[list[tuple[int, int]], list[tuple[int, int]], tuple[str, ...]]
"""Tokens of each row, and those of its answers: of training rows, of validation rows; lines about others."""


def _encoded(
    settings: Settings, sft: SFTSettings, rows: Sequence[Demonstration], told: Sequence[str]
) -> Counted | None:
    """As training encodes them; None where the tokenizer cannot be had."""
    from refine_rl.policy.load import without_weights
    from refine_rl.training.sft.fitting import fit

    try:
        policy = without_weights(settings.model)
    except MachineError:
        return None
    fitted = fit(rows, policy, sft, told)
    train, validation = (
        [(len(t.ids), t.targets) for t in some] for some in (fitted.train, fitted.validation)
    )
    return train, validation, fitted.lines


def _guessed(sft: SFTSettings, rows: Sequence[Demonstration]) -> Counted:
    """From their characters."""
    found: dict[str, list[tuple[int, int]]] = {"train": [], "validation": []}
    for row in rows:
        answers = [
            m["content"]
            for n, m in enumerate(row.messages)
            if m["role"] == "assistant" and n not in row.given
        ]
        said = tokens(sum(map(len, answers if sft.train_on == "all" else answers[-1:])))
        length = min(sft.max_tokens, tokens(sum(len(m["content"]) for m in row.messages)))
        found[row.split].append((length, min(said, length)))
    return found["train"], found["validation"], ()
