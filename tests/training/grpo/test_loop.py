"""Collecting, learning and keeping, without a model: who is asked for what, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from make import attempts, prompts
from make import group as scored_group
from refine_rl.errors import GuardStop, Interrupted
from refine_rl.settings import Settings
from refine_rl.training.checkpoint import Position
from refine_rl.training.grpo.advantages import Advantages
from refine_rl.training.grpo.choice import Choice, Schedule
from refine_rl.training.grpo.collect import Collector
from refine_rl.training.grpo.keep import Keeper
from refine_rl.training.grpo.learn import Learn
from refine_rl.training.grpo.loop import train
from refine_rl.training.grpo.pool import Chosen, Seen
from refine_rl.training.grpo.selection import Selection
from refine_rl.training.grpo.setup import distance_of, guards_of, loss_of
from refine_rl.training.learner import Learned, Objective
from refine_rl.training.rate import Rate
from refine_rl.training.rows import Row
from refine_rl.types import Group, Prompt, Score, StepMetrics, Trajectory

PROMPTS = prompts(*"abcdefgh")
FLAT, SPREAD = (0.0, 0.0), (0.0, 1.0)


@dataclass
class Story:
    """Everything that happened, in order; it plays the record, the speaker, the scorer and the learner."""

    told: list[Any] = field(default_factory=list)
    known: dict[int, list[Group]] = field(default_factory=dict)
    past: list[StepMetrics] = field(default_factory=list)
    was: list[Seen] = field(default_factory=list)
    worth: Callable[[Prompt], Sequence[float | None]] = lambda prompt: SPREAD
    rows: dict[int, list[Row]] = field(default_factory=dict)
    selections: dict[int, Selection] = field(default_factory=dict)

    # -- the record -------------------------------------------------------------------------------

    def recorded(self, step: int) -> Sequence[Group] | None:
        return self.known.get(step)

    def history(self) -> Sequence[StepMetrics]:
        return self.past

    def seen(self) -> Sequence[Seen]:
        return self.was

    def pool(self, step: int, chosen: Chosen) -> None: ...

    def selected(self, step: int, selection: Selection) -> None:
        self.selections.setdefault(step, selection)

    def selection(self, step: int) -> Selection | None:
        return self.selections.get(step)

    def groups(self, groups: Sequence[Group]) -> None:
        self.was += map(Seen.of, groups)
        self.told.append(("recorded", groups[0].step, len(groups)))

    def step(self, metrics: StepMetrics) -> None:
        self.past.append(metrics)
        self.told.append(("step", metrics.step))

    def warning(self, step: int, name: str, text: str) -> None:
        self.told.append(("warning", step, name))

    def note(self, step: int, name: str, text: str) -> None:
        self.told.append(("note", step, name))

    def checkpoint(self, position: Position, *, best: bool) -> None:
        self.told.append(("checkpoint", position.step, best))

    # -- sampling and scoring ---------------------------------------------------------------------

    def play(self, some: Sequence[Prompt], step: int) -> Any:
        for place in reversed(range(len(some))):
            self.told.append(("sampled", step, some[place].id))
            yield place, attempts(some[place], 2, 3)

    def start(self, of: Prompt, group: tuple[Trajectory, ...]) -> Future[list[Score]]:
        self.told.append(("scoring", of.id))
        future: Future[list[Score]] = Future()
        values = self.worth(of)
        future.set_result([Score.missing("no reply") if v is None else Score(value=v) for v in values])
        return future

    def compare(self, some: Sequence[Trajectory], step: int) -> torch.Tensor:
        self.told.append(("compared", step))
        return torch.tensor([float(step)])

    # -- the learner ------------------------------------------------------------------------------

    def learn(
        self, rows: Sequence[Row], objective: Objective, *, step: int, rate: float, **more: Any
    ) -> Learned:
        self.rows[step] = list(rows)
        seen = more["seen"]
        self.told.append(("learned", step, rate, None if seen is None else float(seen)))
        return Learned(loss=0.5, grad_norm=1.0, clip_share=0.0, seen=seen, apart=None)


def collector(story: Story, *, steps: int = 4, ahead: bool = False, **more: Any) -> Collector:
    schedule = Schedule(ahead=ahead, checkpoint_every=3)
    return Collector(
        steps=steps,
        choice=Choice(prompts=PROMPTS, per_step=2, seed=0, schedule=schedule),
        record=story,
        play=story.play,
        score=story.start,
        compare=story.compare,
        advantages=Advantages(kind="mean", flat="drop"),
        **more,
    )


class References:
    at_hand = False


def learn_with(story: Story) -> Learn:
    s = Settings(task="x")
    distance = replace(distance_of(s, None, story.history), references=References())  # type: ignore[arg-type]
    rate = Rate(peak=1.0, steps=4, schedule="linear")
    return Learn(learner=story, loss=loss_of(s), distance=distance, rate=rate)  # type: ignore[arg-type]


def keeper(story: Story, *, start: Position | None = None, steps: int = 4, **more: Any) -> Keeper:
    given = {"checkpoint_every": 3, "guards": guards_of(Settings(task="x")), **more}
    return Keeper(record=story, start=start or Position(), steps=steps, **given)


def train_with(story: Story, *, ahead: bool = False, pause: Any = lambda: None, **more: Any) -> Position:
    steps = more.pop("steps", 4)
    return train(
        collector(story, steps=steps, ahead=ahead),
        learn_with(story),
        keeper(story, steps=steps, whole=lambda: not ahead, **more),
        clock=lambda: 7.0,
        pause=pause,
    )


def kinds(story: Story, *wanted: str) -> list[Any]:
    return [event for event in story.told if event[0] in wanted]


def on_record() -> Group:
    of = PROMPTS[0]
    return scored_group(of, 0.0, 1.0, trajectories=attempts(of, 2, 3))


# -- collecting ------------------------------------------------------------------------------------


def test_a_step_is_in_the_order_of_its_prompts_however_groups_end() -> None:
    story = Story()
    collected = collector(story)(1)
    assert [g.prompt.id for g in collected.groups] == [
        p.id for p in collector(story).choice.of_step(1, []).prompts
    ]
    first, second = [g.prompt.id for g in collected.groups]
    # Each goes to be scored before the next is sampled.
    assert story.told == [
        ("sampled", 1, second),
        ("scoring", second),
        ("sampled", 1, first),
        ("scoring", first),
        ("recorded", 1, 2),
    ]
    assert collected.groups[0].advantages == (-0.5, 0.5)
    assert collected.seen is None
    assert set(collected.seconds) == {"sample", "score"}


def test_what_is_on_record_is_not_sampled() -> None:
    recorded = [scored_group(PROMPTS[0], 0.0, 1.0)]
    story = Story(known={1: recorded})
    assert collector(story)(1).groups is recorded
    assert story.told == []


def test_ahead_the_next_step_is_sampled_first_and_compared_at_once() -> None:
    story, collect = Story(), collector(Story(), ahead=True)
    collect = replace(collect, record=story, play=story.play, score=story.start, compare=story.compare)
    seen = [collect(step).seen for step in range(1, 5)]
    # After the checkpoint of step 3 nothing is ahead.
    assert [None if s is None else float(s) for s in seen] == [None, 2.0, 3.0, None]
    order = [e[:2] for e in kinds(story, "sampled", "recorded", "compared")]
    assert list(dict.fromkeys(order)) == [
        ("sampled", 1),
        ("sampled", 2),
        ("compared", 2),
        ("recorded", 1),
        ("sampled", 3),
        ("compared", 3),
        ("recorded", 2),
        ("recorded", 3),
        ("sampled", 4),
        ("recorded", 4),
    ]


def test_ahead_of_a_recorded_step_the_next_is_sampled_all_the_same() -> None:
    """A resume: step 1 is on record, step 2 was sampled by the weights before it and has to be again."""
    story = Story(known={1: [scored_group(PROMPTS[0], 0.0, 1.0)]})
    collector(story, ahead=True)(1)
    assert [e[:2] for e in kinds(story, "sampled", "compared")] == [("sampled", 2)] * 2 + [("compared", 2)]


def test_groups_without_spread_are_replaced_and_timed_as_sampling() -> None:
    story = Story(worth=lambda p: FLAT if p.id in ("p1", "p2") else SPREAD)
    chosen = {p.id for p in collector(story).choice.of_step(1, []).prompts}
    collected = collector(story, resample=3)(1)
    flat = len(chosen & {"p1", "p2"})
    assert len(collected.groups) >= 2 + flat
    assert len({g.prompt.id for g in collected.groups}) == len(collected.groups)
    assert [any(g.advantages) for g in collected.groups] == [
        g.prompt.id not in ("p1", "p2") for g in collected.groups
    ]


def test_too_many_missing_scores_end_it_before_anything_is_recorded() -> None:
    story = Story(worth=lambda p: (None, 1.0))
    with pytest.raises(GuardStop, match="2 of 4 scores are missing"):
        collector(story, max_missing=0.4)(1)
    assert kinds(story, "recorded") == []
    assert collector(story, max_missing=0.5)(1).groups[0].advantages == (None, None)  # flat: dropped


# -- the loop --------------------------------------------------------------------------------------


def test_the_loop_collects_learns_and_keeps() -> None:
    story = Story()
    end = train_with(story, validate=lambda step: float(step == 2), validate_every=2)
    assert end == Position(step=4, kept=4, best_step=2, best_reward=1.0, seconds=7.0)
    assert kinds(story, "learned", "step", "checkpoint") == [
        *(("learned", 1, 1.0, None), ("step", 1)),
        *(("learned", 2, 0.75, None), ("step", 2), ("checkpoint", 2, True)),
        *(("learned", 3, 0.5, None), ("step", 3), ("checkpoint", 3, False)),
        *(("learned", 4, 0.25, None), ("step", 4), ("checkpoint", 4, False)),
    ]
    assert [m.loss for m in story.past] == [0.5] * 4
    assert [m.kl for m in story.past] == [None] * 4
    # grpo: a mean over each of the four rows, then over rows.
    assert [r.weight for r in story.rows[1]] == [1 / 8, 1 / 12] * 2


def test_a_step_on_record_is_learned_again_and_told_once() -> None:
    first = Story()
    train_with(first, steps=2)
    story = Story(known={1: [on_record()]}, past=list(first.past))
    train_with(story, steps=3)
    assert [e[1] for e in kinds(story, "learned")] == [1, 2, 3]
    assert kinds(story, "step") == [("step", 3)]


def test_what_stops_it_leaves_a_checkpoint_of_the_last_whole_step() -> None:
    calls = iter(range(99))

    def pause() -> None:
        if next(calls) == 2:
            raise Interrupted("stop")

    story = Story()
    with pytest.raises(Interrupted):
        train_with(story, pause=pause)
    assert story.told[-1] == ("checkpoint", 2, False)
    calls, story = iter(range(99)), Story()
    with pytest.raises(Interrupted):
        train_with(story, ahead=True, pause=pause)
    assert kinds(story, "checkpoint") == []  # the weights have moved since step 3 was sampled


def test_a_validation_that_is_behind_is_made_up_for() -> None:
    story = Story()
    start = Position(step=2, kept=1)
    train_with(story, start=start, validate=lambda step: 0.0, validate_every=2)
    assert story.told[0] == ("checkpoint", 2, True)


def test_hours_are_looked_at_after_each_step_but_the_last() -> None:
    story = Story()
    with pytest.raises(GuardStop, match=r"Step 1: the 0\.001 hours of budget.hours are used up"):
        train_with(story, hours=0.001)
    assert train_with(Story(), hours=0.001, steps=1).step == 1


def test_nothing_left_to_win_ends_it() -> None:
    story = Story(worth=lambda p: (1.0, 1.0))
    end = train_with(story, steps=9)
    # No component is paid for here, so twelve groups without spread, two a step, are the top.
    assert end.step == 6
    assert kinds(story, "note") == [("note", 6, "done_early")]
    assert story.told[-1] == ("checkpoint", 6, False)


def test_a_last_validation_without_scores_costs_a_look_and_no_model() -> None:
    def validate(step: int) -> float:
        raise GuardStop("missing", "Validation: all scores are missing. ", "Mend it.")

    story = Story()
    assert train_with(story, validate=validate, validate_every=4).best_step == 0
    assert ("warning", 4, "validation_missing") in story.told
    with pytest.raises(GuardStop):
        train_with(Story(), validate=validate, validate_every=2)
