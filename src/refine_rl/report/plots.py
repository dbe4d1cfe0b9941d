"""Which charts the page has of a training, in what order, and what good looks like in each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from refine_rl.report.chart import Chart, Curve, Level, areas, lines
from refine_rl.report.data import number
from refine_rl.report.histogram import rewards_over_steps
from refine_rl.report.points import Line, mean
from refine_rl.report.quantities import GRADIENT, QUANTITIES, RATE, Quantity, key
from refine_rl.report.standing import Json
from refine_rl.report.survey import Seen
from refine_rl.report.traits import trait_charts
from refine_rl.types import Comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Charts that answer one question; `name` is part of an id on the page."""

    name: str
    title: str
    charts: tuple[Chart, ...]


def reward_chart(
    metrics: Sequence[Json],
    validation: Sequence[Json],
    comparison: Comparison | None = None,
    *,
    best: int | None = None,
    back: int | None = None,
) -> Chart | None:
    """The chart that the page begins with: the reward in training and on validation prompts, and where it
    all began; `best` and `back` as in `lines`."""
    band = (
        _of(validation, lambda v: v["reward"]["ci95"][0]),
        _of(validation, lambda v: v["reward"]["ci95"][1]),
    )
    return lines(
        "reward",
        "Reward",
        "Good: both lines rise and flatten out high above where they began, and the validation line goes "
        "with the training line. Training that rises alone learns its prompts by heart; a flat pair teaches "
        "nothing.",
        [
            _train(_of(metrics, lambda m: m["reward_mean"]), "training, each step"),
            _held(_of(validation, lambda v: v["reward"]["mean"]), band),
        ],
        levels=_levels(validation, comparison),
        best=best,
        back=back,
    )


def _levels(validation: Sequence[Json], comparison: Comparison | None) -> list[Level]:
    """What the untrained model has: on the validation prompts, else on the held-out ones; and the model after
    supervised fine-tuning, where nobody looked at validation prompts before the first step."""
    if validation and validation[0]["step"] == 0:
        return [Level(label="before the first step", value=validation[0]["reward"]["mean"])]
    if comparison is None or comparison.base is None:
        return []
    found = [Level(label="base on held-out prompts", value=comparison.base.mean)]
    if "sft" in comparison.stages:
        found.append(
            Level(
                label="after SFT on held-out prompts", value=comparison.stages["sft"].mean, colour="between"
            )
        )
    return found


def training_plots(
    metrics: Sequence[Json],
    validation: Sequence[Json],
    pool: Sequence[Json] = (),
    groups: Sequence[Seen] = (),
    *,
    best: int | None = None,
    back: int | None = None,
    steps: int = 0,
) -> list[Family]:
    """Every other chart of a run of so many `steps`; a quantity without any value has none.

    `metrics` are lines of metrics.jsonl, `validation` of validation.jsonl, `pool` of pool.jsonl, `groups`
    what was read off groups.jsonl; `best` is the step of the chosen checkpoint and `back` the one to which a
    drift led training back, marked where validation is drawn.
    """
    drawn_from = [line for line in pool if line["state"] == "drawn"]
    names = dict.fromkeys(name for line in (*metrics, *validation) for name in line["components"])
    families = {
        "learning": [
            rewards_over_steps(groups),
            _success(validation, best, back),
            *_other_eye(validation, best, back),
            *(_component(name, metrics, validation, best, back) for name in names),
            *_quantities("learning", metrics),
            _promised(drawn_from, metrics),
            _pool(drawn_from),
        ],
        "health": [*_quantities("health", metrics), *trait_charts(groups, steps)],
        "cost": [_times(metrics), *_quantities("cost", metrics), _dollars(metrics), _agreement(groups)],
    }
    return _families(families)


def sft_loss_chart(
    metrics: Sequence[Json], validation: Sequence[Json], *, best: int | None = None
) -> Chart | None:
    """The chart that the page of a supervised fine-tuning begins with."""
    return lines(
        "loss",
        "Loss, nats a token",
        "Good: both lines fall and flatten out. A validation line that turns up while training falls on "
        "means that the rows are learnt by heart: fewer passes, or more rows.",
        [
            _train(_of(metrics, lambda m: m["loss"]), "training, each step"),
            _held(_of(validation, lambda v: v["loss"])),
        ],
        levels=[Level(label="before the first step", value=validation[0]["loss"])]
        if validation and validation[0]["step"] == 0
        else [],
        best=best,
    )


def sft_plots(metrics: Sequence[Json]) -> list[Family]:
    """The other charts of a supervised fine-tuning."""
    quantities = {
        "health": (
            Quantity(
                name="grad-norm", title="Gradient norm before clipping", good=GRADIENT, value=key("grad_norm")
            ),
            Quantity(
                name="learning-rate",
                smooth=False,
                title="Learning rate",
                good=RATE,
                value=key("learning_rate"),
            ),
        ),
        "cost": (
            Quantity(
                name="tokens-per-second",
                title="Tokens a second",
                good="Good: level. A slow decline is a machine that gets hot or is shared.",
                value=lambda m: m["tokens"] / m["seconds"]["train"] if m["seconds"]["train"] else None,
            ),
        ),
    }
    return _families({name: [_one(q, metrics) for q in some] for name, some in quantities.items()})


_TITLES = {
    "learning": "Is it learning?",
    "health": "Is the training healthy?",
    "cost": "What does it take?",
}


def _families(found: Mapping[str, Sequence[Chart | None]]) -> list[Family]:
    there = {name: tuple(c for c in charts if c is not None) for name, charts in found.items()}
    return [Family(name=n, title=_TITLES[n], charts=charts) for n, charts in there.items() if charts]


def _of(records: Sequence[Json], value: Callable[[Json], float | None]) -> Line:
    return [line["step"] for line in records], [value(line) for line in records]


def _train(line: Line, label: str = "training") -> Curve:
    return Curve(label=label, colour="train", line=line, smooth=True)


def _held(line: Line, band: tuple[Line, Line] | None = None) -> Curve:
    label = "validation, 95 % interval" if band else "validation"
    return Curve(label=label, colour="validation", line=line, dotted=True, band=band if line[0] else None)


def _success(validation: Sequence[Json], best: int | None, back: int | None) -> Chart | None:
    return lines(
        "success",
        "Full successes on validation prompts",
        "Good: rises. Where it stays at 0 while the reward rises, one component never reaches its full "
        "value.",
        [_held(_of(validation, lambda v: v["success"]))],
        unit=True,
        best=best,
        back=back,
    )


def _other_eye(validation: Sequence[Json], best: int | None, back: int | None) -> list[Chart | None]:
    """What another eye says of the validation answers, and how far it agrees with the reward."""
    looks = [look for look in validation if "eye" in look]
    band = (_of(looks, lambda v: v["eye"]["ci95"][0]), _of(looks, lambda v: v["eye"]["ci95"][1]))
    return [
        lines(
            "other-eye",
            "The other eye on validation answers",
            "Good: rises with the reward, or stays. A fall while the reward rises is a reward that is won "
            "without the task; see evaluate.on_drift.",
            [_held(_of(looks, lambda v: v["eye"]["mean"]), band)],
            best=best,
            back=back,
        ),
        lines(
            "other-eye-agrees",
            "Correlation of the reward and the other eye, within prompts",
            "Good: above 0, and level. Below 0 the reward prefers the answers that the other eye likes less.",
            [_held(_of(looks, lambda v: v["eye"]["correlation"]))],
            best=best,
            back=back,
        ),
    ]


def _component(
    name: str, metrics: Sequence[Json], validation: Sequence[Json], best: int | None, back: int | None
) -> Chart | None:
    train, valid = (_of(some, lambda m: m["components"].get(name)) for some in (metrics, validation))
    return lines(
        f"component-{name}",
        f"Component: {name}",
        "Good: rises with the reward, or stays. One that falls while the reward rises is what it is paid "
        "with.",
        [_train(train), _held(valid)],
        best=best,
        back=back,
    )


def _quantities(family: str, metrics: Sequence[Json]) -> list[Chart | None]:
    return [_one(q, metrics) for q in QUANTITIES[family] if q.is_shown(metrics)]


def _one(q: Quantity, metrics: Sequence[Json]) -> Chart | None:
    return lines(
        q.name,
        q.title,
        q.good,
        [Curve(label="training", colour="train", line=_of(metrics, q.value), smooth=q.smooth)],
        unit=q.unit,
    )


def _times(metrics: Sequence[Json]) -> Chart | None:
    """Seconds of a step, stacked by what they were spent on."""
    if not any(m["seconds"].get("total") for m in metrics):
        return None
    parts_of = {"sample": "sample", "score": "score", "update": "train"}
    stack = {name: [m["seconds"].get(part, 0.0) for m in metrics] for name, part in parts_of.items()}
    known = [sum(parts) for parts in zip(*stack.values(), strict=True)]
    totals = [m["seconds"].get("total", 0.0) for m in metrics]
    stack["other"] = [max(0.0, total - k) for total, k in zip(totals, known, strict=True)]
    labels = {"sample": "sampling", "score": "scoring", "update": "training", "other": "other"}
    means = ", ".join(f"{labels[n]} {number(sum(ys) / len(ys))}" for n, ys in stack.items())
    return areas(
        "seconds",
        "Seconds a step",
        "Good: mostly sampling and training. Scoring that is seen here is waiting for a judge or slow code.",
        [float(m["step"]) for m in metrics],
        {(labels[name], name): values for name, values in stack.items()},
        f"Where the time of a step went, stacked; mean seconds: {means}.",
    )


def _dollars(metrics: Sequence[Json]) -> Chart | None:
    """What LLMs cost up to each step; no chart where nothing of known cost was asked."""
    if not any(m["cost_usd"] for m in metrics):
        return None
    spent, so_far = [], 0.0
    for m in metrics:
        so_far += m["cost_usd"] or 0.0
        spent.append(so_far)
    return lines(
        "dollars",
        "Dollars for LLMs, all steps so far",
        "Good: a straight line within the budget. It bends up where judges are asked more, or answers grow.",
        [Curve(label="so far", colour="train", line=([m["step"] for m in metrics], spent))],
    )


def _agreement(groups: Sequence[Seen]) -> Chart | None:
    """How far several looks at the same group agree, by step."""
    by_step: dict[int, list[float]] = {}
    for group in groups:
        if group.agreement is not None:
            by_step.setdefault(group.step, []).append(group.agreement)
    return lines(
        "agreement",
        "Agreement of the judges’ looks",
        "Good: well above 0 (1: the same order, 0: as by chance). A fall says that answers came too close "
        "to be told apart, or that the judge guesses.",
        [_train((list(by_step), [mean(some) for some in by_step.values()]))],
    )


_STATES = {  # of a training prompt in a curriculum: its colour, what it is called
    "promising": ("update", "likely to differ"),
    "new": ("other", "never tried"),
    "easy": ("sample", "too easy"),
    "hard": ("score", "too hard"),
    "alike": ("validation", "all alike"),
}


def _pool(pool: Sequence[Json]) -> Chart | None:
    """How many training prompts a curriculum held for what, stacked."""
    states = [state for state in _STATES if any(state in line["pool"] for line in pool)]
    if not states:
        return None
    title = "Training prompts by what their next group promises"
    ends = ", ".join(
        f"{_STATES[s][1]} {pool[0]['pool'].get(s, 0)} to {pool[-1]['pool'].get(s, 0)}" for s in states
    )
    return areas(
        "pool",
        title,
        "Good: some are likely to differ until the end. When all are too easy or too hard, there is nothing "
        "left to learn from these prompts.",
        [float(line["step"]) for line in pool],
        {(_STATES[s][1], _STATES[s][0]): [float(line["pool"].get(s, 0)) for line in pool] for s in states},
        f"{title}, stacked; from the first step to the last: {ends}.",
    )


def _promised(pool: Sequence[Json], metrics: Sequence[Json]) -> Chart | None:
    """The share of groups with spread that a curriculum expected in each step, and the share that came."""
    said = [(line["step"], mean(list(line["promised"].values()))) for line in pool]
    came = [(m["step"], 1 - m["groups_zero_variance"] / m["groups"]) for m in metrics if m["groups"]]
    if not any(math.isfinite(v) for _, v in said) or not came:
        return None
    return lines(
        "promised",
        "Share of groups with spread",
        "Good: what was found goes with what was promised, and both stay high.",
        [
            Curve(
                label=label,
                colour=colour,
                line=([s for s, _ in points], [v for _, v in points]),
                smooth=True,
                dashed=label == "promised",
            )
            for label, colour, points in (("promised", "other", said), ("found", "train", came))
        ],
        unit=True,
    )
