"""Which prompts, which advantages, and what a step reports of its groups."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from make import attempts, group, prompt, score, trajectory
from refine_rl.errors import GuardStop
from refine_rl.settings import Settings
from refine_rl.training.grpo.advantages import Advantages, Scored
from refine_rl.training.grpo.choice import choose_prompts
from refine_rl.training.grpo.kl import Distance
from refine_rl.training.grpo.setup import advantages_of, rate_of
from refine_rl.training.grpo.statistics import group_statistics
from refine_rl.training.missing import require_scores
from refine_rl.training.rows import micro_batches
from refine_rl.types import Group, Score
from taught import rows_of


def settings(**sections: Any) -> Settings:
    return Settings.model_validate({"task": "x", **sections})


def with_advantages(scored: list[Scored], s: Settings) -> list[Group]:
    return [
        Group(step=1, prompt=p, trajectories=t, scores=g, advantages=a)
        for (p, t, g), a in zip(scored, advantages_of(s, {})(scored), strict=True)
    ]


def test_every_pass_reads_every_prompt_once() -> None:
    prompts = [prompt(i) for i in range(10)]
    first = [p.id for step in range(1, 6) for p in choose_prompts(prompts, step, 2, seed=0)]
    second = [p.id for step in range(6, 11) for p in choose_prompts(prompts, step, 2, seed=0)]
    assert sorted(first) == sorted(second) == sorted(p.id for p in prompts)
    assert first != second


def test_a_step_never_holds_a_prompt_twice() -> None:
    prompts = [prompt(i) for i in range(7)]
    for step in range(1, 30):
        chosen = choose_prompts(prompts, step, 3, seed=1)
        assert len({p.id for p in chosen}) == 3


def test_the_choice_depends_on_seed_and_step_alone() -> None:
    prompts = [prompt(i) for i in range(20)]
    assert choose_prompts(prompts, 9, 4, seed=5) == choose_prompts(prompts, 9, 4, seed=5)
    assert choose_prompts(prompts, 9, 4, seed=5) != choose_prompts(prompts, 9, 4, seed=6)


def test_too_many_missing_scores_stop_the_run() -> None:
    scores = [Score(value=1.0)] * 8 + [Score.missing("Traceback: boom")] * 2
    require_scores(scores, 0.2, "Step 1")
    with pytest.raises(GuardStop, match=r"2 of 10 scores are missing.*\n.*boom"):
        require_scores(scores, 0.19, "Step 1")


def test_statistics_by_hand() -> None:
    p, q = prompt(0), prompt(1)
    groups = [
        group(
            p,
            *(score(1.0, a=1.0), score(0.0, a=0.5)),
            trajectories=(
                trajectory(p, member=0, tokens=2, logprob=-0.5),
                trajectory(p, member=1, tokens=4, stop="length"),
            ),
            advantages=(1.0, -1.0),
        ),
        group(
            q,
            *(score(0.2, a=0.0), None),
            trajectories=attempts(q, 1, 1),
            advantages=(0.0, None),
        ),
    ]
    found = group_statistics(groups)
    assert found["reward_mean"] == pytest.approx(0.4)
    assert found["reward_std"] == pytest.approx((0.5 + 0.0) / 2)
    assert found["components"] == {"a": 0.5}
    assert found["groups"] == 2
    assert found["groups_zero_variance"] == 1
    assert found["groups_missing"] == 1
    assert found["members_missing"] == 1
    assert found["tokens_mean"] == 2.0
    assert found["clipped_share"] == 0.25
    assert found["entropy"] == pytest.approx((0.5 * 2 + 6) / 8)
    assert (found["distinct_share"], found["openings"]) == (0.0, {"": 1.0})  # nobody said anything


def test_kl_in_the_reward_moves_the_advantage_and_not_the_reward() -> None:
    p = prompt(0)
    sampled = [
        (
            p,
            attempts(p, 2, 1),
            (Score(value=1.0), Score(value=1.0)),
        )
    ]
    references = Mock(of=lambda trajectories: {("p0", 0): (-1.5, -2.0), ("p0", 1): (-1.0,)})
    distance = Distance(references=references, history=lambda: (), first=0.1, estimator="k1", in_reward=True)
    penalties = distance.penalties([members for _, members, _ in sampled], 1)
    # k1 = log pi - log reference: 0.5 + 1.0 for the first member, 0 for the second.
    assert penalties == [pytest.approx([0.15, 0.0])]
    (found,) = Advantages(kind="mean")(sampled, penalties)
    assert found == pytest.approx((-0.075, 0.075))
    assert distance.in_loss([]) is None
    assert replace(distance, first=0.0).penalties([], 1) is None
    assert replace(distance, in_reward=False).penalties([], 1) is None


def flat_and_not(**grpo: Any) -> list[tuple[float | None, ...]]:
    """Advantages of a group at 1, one at 0, one that spreads, and one with a single score."""
    given = [(1.0, 1.0, None), (0.0, 0.0, 0.0), (0.0, 1.0, 0.5), (1.0, None, None)]
    sampled = []
    for n, values in enumerate(given):
        p = prompt(n)
        scores = tuple(Score.missing("x") if v is None else Score(value=v) for v in values)
        sampled.append((p, attempts(p, 2, 2, 2), scores))
    s = settings(grpo={"advantage": "mean", **grpo})
    return [g.advantages for g in with_advantages(sampled, s)]


def test_what_becomes_of_groups_without_spread() -> None:
    spread = (-0.5, 0.5, 0.0)
    assert flat_and_not() == [(0.0, 0.0, None), (0.0, 0.0, 0.0), spread, (0.0, None, None)]
    none = (None, None, None)
    assert flat_and_not(flat="drop") == [none, none, spread, none]
    assert flat_and_not(resample=1) == flat_and_not(flat="drop")
    signs = [(1.0, 1.0, None), (-1.0, -1.0, -1.0), spread, (0.0, None, None)]
    assert flat_and_not(flat="sign", solved=1.0) == signs
    assert flat_and_not(flat="sign", solved=0.0)[1] == (1.0, 1.0, 1.0)


def by_steps(shares: list[list[float | None]], value: float = 0.0, **sections: Any) -> list[Group]:
    """A group of wrong answers for each row of shares, and behind them one with a spread."""
    sampled = []
    for n, row in enumerate(shares):
        p = prompt(n)
        scores = [Score(value=value, breakdown={} if s is None else {"right_steps": s}) for s in row]
        sampled.append((p, attempts(p, *[2] * len(row)), tuple(scores)))
    p = prompt(99)
    sampled.append((p, attempts(p, 2, 2), (Score(value=1.0), Score(value=0.0))))
    s = settings(
        **{
            "reward": {"steps": {"function": "r.py:right", "weight": 0.5}},
            "grpo": {"flat": "steps", "solved": 1.0, **sections},
        }
    )
    return with_advantages(sampled, s)


def test_steps_tell_wrong_answers_apart() -> None:
    shares: list[list[float | None]] = [[1.0, 0.0, 0.5, None], [0.5] * 4, [None] * 4]
    found = [g.advantages for g in by_steps(shares, advantage="mean")]
    # The only right answer of three graded ones would get 2/3; half of it times 0.75, -0.75 and 0.
    assert found[0] == pytest.approx((0.25, -0.25, 0.0, None))
    assert found[1:] == [(0.0,) * 4, (0.0,) * 4, (0.5, -0.5)]
    assert by_steps([[1.0, 0.0]], advantage="rloo")[0].advantages == (0.5, -0.5)
    # Where solved is 2 and all got 1, the step from wrong to right is as large.
    assert by_steps([[1.0, 0.0]], 1.0, advantage="rloo", solved=3.0)[0].advantages == (1.0, -1.0)
    population = by_steps([[1.0, 0.0, 0.0]], deviation="population", epsilon=1e-9)[0].advantages
    assert population == pytest.approx((0.5 * math.sqrt(2), -0.25 * math.sqrt(2), -0.25 * math.sqrt(2)))


def test_groups_told_apart_by_steps_are_counted() -> None:
    found = group_statistics(by_steps([[1.0, 0.0], [0.5, 0.5], [None, None], [0.5, None]]))
    assert (found["groups"], found["groups_zero_variance"], found["groups_by_steps"]) == (5, 4, 1)
    assert found["components"] == {"right_steps": 0.5}
    assert found["reward_mean"] == 0.1


def test_leave_one_out_is_asked_for_by_name() -> None:
    assert flat_and_not(advantage="rloo")[2] == (-0.75, 0.75, 0.0)


def test_dropped_groups_leave_the_denominator() -> None:
    p, q = prompt(0), prompt(1)
    sampled = [
        (p, attempts(p, 2, 4), (Score(value=1.0), Score(value=0.0))),
        (q, attempts(q, 5, 5), (Score(value=1.0), Score(value=1.0))),
    ]
    for flat, tokens in (("keep", 16), ("drop", 6)):
        s = settings(grpo={"flat": flat})
        groups = with_advantages(sampled, s)
        found = rows_of(groups, loss="dapo", max_tokens=8)
        assert {r.weight for r in found} == {1 / tokens}


def test_rows_without_a_score_leave_the_loss_and_its_denominator() -> None:
    p = prompt(0)
    made = group(p, 1.0, None, 0.0, trajectories=attempts(p, 1, 2, 3), advantages=(1.0, None, -1.0))
    found = rows_of([made], loss="grpo", max_tokens=8)
    assert [(r.trajectory.member, r.advantage, r.weight) for r in found] == [
        (0, 1.0, 1 / 2),
        (2, -1.0, 1 / 6),
    ]


def test_micro_batches_hold_every_row_once_within_the_budget() -> None:
    p = prompt(0)
    trajectories = attempts(p, 5, 1, 9, 2, 40, 3, 3)
    chunks = list(micro_batches(trajectories, 24))
    assert sorted(i for c in chunks for i in c) == list(range(7))
    for chunk in chunks:
        longest = max(trajectories[i].completion_tokens + 3 for i in chunk)
        assert len(chunk) == 1 or longest * len(chunk) <= 24


def test_packed_micro_batches_count_a_prompt_once() -> None:
    trajectories = [t for p in (0, 1) for t in attempts(prompt(p), 4, 4, 30, 1)]
    own = len(trajectories[0].segments[0].token_ids)
    assert own == 3
    chunks = list(micro_batches(trajectories, 16, packed=True))
    # Prompts of one text are one prompt: 3 + 4 + 4 leave no room for 30; 3 + 1 + 4 + 4 leave none for 30.
    assert chunks == [[0, 1], [2], [3, 4, 5], [6], [7]]


def test_a_group_is_not_cut_before_the_part_pays_for_its_prompt() -> None:
    trajectories = attempts(prompt(0), 1, 1, 1, 1, 1, 1, 1)
    # The prompt alone is over the budget: three completions of one token are as many tokens as it has.
    assert list(micro_batches(trajectories, 2, packed=True)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_learning_rates_by_hand() -> None:
    def rates(**grpo: Any) -> list[float]:
        s = settings(grpo={"steps": 4, "learning_rate": 1.0, **grpo})
        return [rate_of(s)(step) for step in range(1, 5)]

    assert rates() == [1.0] * 4
    assert rates(warmup_steps=2) == [0.5, 1.0, 1.0, 1.0]
    assert rates(schedule="linear") == [1.0, 0.75, 0.5, 0.25]
    assert rates(schedule="linear", warmup_steps=2) == [0.5, 1.0, 1.0, 0.5]
    assert rates(schedule="cosine") == pytest.approx(
        [1.0, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2]
    )
    assert rate_of(settings())(1) == 1e-4
    assert rate_of(settings(model={"adapter": "none"}))(1) == 1e-5


def test_rows_know_the_length_limit() -> None:
    p = prompt(0)
    made = group(p, 1.0, 0.0, trajectories=attempts(p, 2, 4), advantages=(1.0, -1.0))
    assert [r.weight for r in rows_of([made], loss="dr_grpo", max_tokens=8)] == [1 / 16, 1 / 16]
    assert rows_of([replace(made, advantages=(None, None))], loss="grpo", max_tokens=8) == []


def test_lanes_are_done_at_the_same_time() -> None:
    # 8 groups of 64 + 8 x 64 tokens: at 1,024 a lane they make 5 micro-batches, of which one lane has 3.
    trajectories = [
        trajectory(f"p{p}", member=m, tokens=64, given=[p] * 64) for p in range(8) for m in range(8)
    ]
    assert len(list(micro_batches(trajectories, 1024, packed=True))) == 5
    lanes = list(micro_batches(trajectories, 2048, packed=True, lanes=2))
    assert lanes == [list(range(8 * p, 8 * p + 8)) for p in range(8)]
    # One lane's are as before, however many tokens are left over.
    alone = list(micro_batches(trajectories, 1024, packed=True, lanes=1))
    assert alone == list(micro_batches(trajectories, 1024, packed=True))
