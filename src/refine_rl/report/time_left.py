"""How long a run will still take, by what is on record of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from refine_rl.run import RunFolder
from refine_rl.run.forgotten import marked
from refine_rl.run.state import end_of
from refine_rl.types.amounts import long_time

NEWEST = 25
"""So many of a kind say what the next one takes: answers become shorter or longer while a model learns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Work of one kind: how often it is still to be done, and the seconds that each took so far, the oldest
    first."""

    to_come: int
    took: Sequence[float] = ()

    @property
    def each(self) -> float | None:
        """Seconds that the next one is likely to take: the median of the newest, so that a slow one weighs no
        more than any other. The very first, which warms up, counts only while it is the only one.

        >>> Part(to_come=1, took=(60.0, 2.0, 2.0, 9.0)).each, Part(to_come=1, took=(60.0,)).each
        (2.0, 60.0)
        """
        if not self.took:
            return None
        return median((self.took[1:] or self.took)[-NEWEST:])


def time_left(parts: Iterable[Part], since: float = 0.0) -> float | None:
    """Seconds until all of it is done, in the order in which the parts are done; None where nothing is known
    yet of a kind that is to come. `since` are the seconds behind the last that was done: the next one is
    under way, and is not counted for less than nothing where it takes longer than its like.

    >>> steps, answers = Part(to_come=10, took=(9.0, 2.0, 2.0)), Part(to_come=1, took=(30.0,))
    >>> time_left([steps, answers]), time_left([steps, answers], since=1.5)
    (50.0, 48.5)
    >>> time_left([steps, answers], since=100.0), time_left([Part(to_come=1)]), time_left([Part(to_come=0)])
    (48.0, None, 0.0)
    """
    left, under_way = 0.0, True
    for part in parts:
        if part.to_come == 0:
            continue
        each = part.each
        if each is None:
            return None
        left += part.to_come * each
        if under_way:
            left -= min(since, each)
            under_way = False
    return left


def parts_of(run: RunFolder) -> list[Part]:
    """What is still to be done in a run, by its files. A run that was stopped early is one that goes on; one
    that ended, early or not, has nothing left. Supervised fine-tuning with which a run begins is a run of its
    own (`run.sft`); while it is not over, nothing is known of the steps behind it."""
    if run.config.kind() == "sft":
        return _sft_parts(run)
    settings, metrics = run.settings(), run.metrics()
    took = _seconds(run)
    g, done = settings.grpo, len(metrics)
    steps = done if ended_early(run, done) else g.steps
    looks = {look["step"] for look in run.validation()}
    looked = took("validation")
    compare = 0 if run.answers("tuned").exists() else 1
    return [
        Part(to_come=steps - done, took=[m["seconds"]["total"] for m in metrics]),
        Part(to_come=_looks_to_come(looks, done, steps, g.validate_every), took=looked),
        Part(to_come=_due(done, steps, g.checkpoint_every), took=took("checkpoint") or [0.0]),
        Part(to_come=compare, took=_comparison(run, looked if looks else [])),
    ]


def _sft_parts(run: RunFolder) -> list[Part]:
    """Those of supervised fine-tuning. The seconds of its steps have the looks at the validation rows in
    them."""
    sft, history, took = run.settings().sft, run.sft_history(), _seconds(run)
    assert sft is not None
    done, planned = len(history), run.planned_steps()
    steps = done if ended_early(run, done) else planned
    tenth = max(1, math.ceil(steps / 10))
    every = tenth if sft.validate_every is None else sft.validate_every
    looks = {look["step"] for look in run.validation()}
    looked = [m.seconds["total"] - m.seconds["train"] for m in history if m.validation_loss is not None]
    return [
        Part(to_come=steps - done if planned else 1, took=[m.seconds["train"] for m in history]),
        Part(to_come=_looks_to_come(looks, done, steps, every), took=took("validation") + looked),
        Part(to_come=_due(done, steps, sft.checkpoint_every or tenth), took=took("checkpoint") or [0.0]),
    ]


def fine_tuning(run: RunFolder) -> RunFolder | None:
    """The supervised fine-tuning with which a run begins, while that is under way."""
    if run.config.kind() == "sft" or run.settings().sft is None or not run.sft.begun:
        return None
    return None if end_of(run.sft.events()) == "finished" else run.sft


def left_of(run: RunFolder, since: float = 0.0) -> float | None:
    """Seconds until the run is over, as `time_left` has them."""
    return time_left(parts_of(run), since)


def _seconds(run: RunFolder) -> Callable[[str], list[float]]:
    """What each stage outside of the steps took, by its name."""
    lines = run.times()
    return lambda stage: [line["seconds"] for line in lines if line["stage"] == stage]


def ended_early(run: RunFolder, done: int) -> bool:
    """Whether training ended early, after `done` steps."""
    told = (e for e in marked(run.events()) if not e["forgotten"])
    return any(e["name"] == "done_early" and e["step"] == done for e in told)


def _due(done: int, steps: int, every: int) -> int:
    """How many of the steps after `done` are a multiple of `every`, or the last."""
    return sum(step % every == 0 or step == steps for step in range(done + 1, steps + 1))


def _looks_to_come(looks: set[int], done: int, steps: int, every: int) -> int:
    """Validations that are still to be made. A run without a look at step 0 has nothing to look at; the one
    of the step that was last done may be under way."""
    if not looks or not every:
        return 0
    under_way = done > 0 and done not in looks and (done % every == 0 or done == steps)
    return _due(done, steps, every) + under_way


def _comparison(run: RunFolder, looked: Sequence[float]) -> list[float]:
    """What the tuned model's answers to the held-out prompts will take: as long for each answer as those of
    the newest validation did, which a tuned model gave; before there is one, what the base model's took.
    Where the time of these was put on record twice, the second time found them done."""
    settings, prompts = run.settings(), run.prompts()
    samples = settings.evaluate.samples
    held_out = sum(p.split == "held_out" for p in prompts) * (samples + 1)
    if len(looked) > 1:
        return [looked[-1] * held_out / (samples * sum(p.split == "validation" for p in prompts))]
    sides = 1 if settings.sft is None else 2
    base = [line["seconds"] / sides for line in run.times() if line["stage"] == "base"]
    return [max(base)] if base else []


def about(seconds: float) -> str:
    """A time that is not known exactly, in words.

    >>> about(4.2), about(14), about(71), about(119.0)
    ('a few seconds', 'about 15 s', 'about 70 s', 'about 2 min')
    >>> about(760), about(3590), about(7500), about(200_000)
    ('about 13 min', 'about 1 h', 'about 2 h 5 min', 'about 2 days 8 h')
    """
    if seconds < 7.5:
        return "a few seconds"
    if seconds < 95:
        tidy = 5 if seconds < 57.5 else 10
        return f"about {tidy * round(seconds / tidy)} s"
    minutes = round(seconds / 60)
    tidy = 1 if minutes < 60 else 5 if minutes < 600 else 30 if minutes < 2880 else 60
    return f"about {long_time(tidy * round(seconds / 60 / tidy))}"
