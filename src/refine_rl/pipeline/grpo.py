"""GRPO in a run: from the newest checkpoint on, with the run's folder as its record."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

from refine_rl.pipeline.counting import Promised, sampled
from refine_rl.pipeline.eye import Back, go_back, gone_back, led_back
from refine_rl.pipeline.looking import look_before, probe, validate
from refine_rl.pipeline.record import FolderRecord
from refine_rl.pipeline.resume import newest_whole
from refine_rl.pipeline.work import Work
from refine_rl.policy.protocol import Spoken
from refine_rl.training.checkpoint import Position
from refine_rl.training.grpo.keep import Keeper
from refine_rl.training.grpo.loop import train
from refine_rl.training.grpo.setup import (
    collector_of,
    distance_of,
    guards_of,
    learn_of,
    learner_config,
    play_of,
)
from refine_rl.types import Prompt


def train_grpo(work: Work, prompts: Sequence[Prompt], validation: Sequence[Prompt]) -> tuple[Work, Position]:
    """Trains to the last step, from the newest checkpoint on (from the start where there is none). The work
    is another one where a drift led back, and training went on with half the learning rate (eye.py)."""
    while True:
        work = gone_back(work)
        try:
            return work, _trained(work, prompts, validation)
        except Back as back:
            go_back(work, back)


def _trained(work: Work, prompts: Sequence[Prompt], validation: Sequence[Prompt]) -> Position:
    settings, scorer, g = work.settings, work.scorers.training, work.settings.grpo
    tell = work.journal.observer.count
    _look_first(work, prompts, validation)
    learner, start = work.engine.learner(learner_config(settings)), Position()
    if step := newest_whole(work.folder, work.journal):
        start = learner.load(work.folder.checkpoint(step))
    if start.step < g.steps:
        work.journal.stage(f"Training, steps {start.step + 1} to {g.steps}")
        tell("steps", start.step, g.steps)
    work.cost()  # what is counted from here on belongs to the steps
    record = FolderRecord(work.folder, learner, settings, work.journal, start)
    distance = distance_of(settings, work.speaker, record.history)
    learn = learn_of(settings, learner, distance, recorded=record.recorded, pause=work.pause)
    play = play_of(settings, work.speaker, stage=work.stage, pause=work.pause)

    def rollouts(some: Sequence[Prompt], step: int) -> Iterator[Spoken]:
        with work.training_at(step):  # the groups go to be scored while others are sampled
            yield from sampled(play(some, step), len(some), partial(tell, "groups sampled"))

    promised = Promised(partial(work.begin, scorer), partial(tell, "groups scored"), work.pause)
    collect = collector_of(
        settings,
        prompts,
        record,
        learn,
        play=rollouts,
        score=promised.start,
        check=learner.check,
        weights=scorer.weights,
        top=scorer.top,
        teacher=work.teacher,
        tell=work.journal.observer.note,
        pause=promised.pause,
    )
    keep = Keeper(
        record=record,
        start=start,
        steps=g.steps,
        checkpoint_every=g.checkpoint_every,
        validate=(lambda step: _timed(work, validation, prompts, step)) if validation else None,
        validate_every=g.validate_every,
        hours=settings.budget.hours,
        guards=guards_of(settings),
        weights=scorer.weights,
        whole=lambda: learner.whole and not settings.ahead,
        ended=partial(led_back, work),
    )
    # What an earlier process spent on steps that came after its last checkpoint counts.
    lost = sum(m.seconds["total"] for m in record.history() if m.step > start.step)
    spent = start.seconds + lost - work.began
    position = train(
        collect,
        learn,
        keep,
        cost=work.cost,
        clock=lambda: spent + time.perf_counter(),
        pause=work.pause,
    )
    _tell_pool(work)
    return position


def _tell_pool(work: Work) -> None:
    """What a curriculum wasted, and where it left the pool."""
    drawn = [line for line in work.folder.pool() if line["state"] == "drawn"]
    if not drawn:
        return
    metrics, pool = work.folder.metrics(), drawn[-1]["pool"]
    groups = sum(m["groups"] for m in metrics)
    flat = sum(m["groups_zero_variance"] - m.get("groups_by_steps", 0) for m in metrics)
    states = {
        "promising": "are likely to give spread",
        "easy": "are too easy",
        "hard": "too hard",
        "alike": "gave answers of equal reward",
        "new": "were never tried",
    }
    told = ", ".join(f"{pool[state]} {words}" for state, words in states.items() if pool.get(state))
    wasted = f"{flat} of {groups} groups had no spread"
    work.journal.observer.note(f"Curriculum: {wasted}; of {sum(pool.values())} training prompts {told}")


def load_best(work: Work, position: Position) -> None:
    """The weights that validation chose; without validation, the last."""
    step = position.best_step or position.step
    work.engine.take(work.folder.checkpoint(step))


def _look_first(work: Work, prompts: Sequence[Prompt], validation: Sequence[Prompt]) -> None:
    if work.folder.validation():
        return
    with work.folder.timed("validation", 0):
        if work.settings.prompts.probe:
            probe(work, prompts)
        if validation:
            look_before(work, validation)
    if validation:
        work.journal.kept(0)


def _timed(work: Work, prompts: Sequence[Prompt], training: Sequence[Prompt], step: int) -> float:
    with work.folder.timed("validation", step):
        reward = validate(work, prompts, training, step)
    work.journal.kept(step)
    return reward
