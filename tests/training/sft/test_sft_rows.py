"""Which rows a step takes, and what they are worth: small numbers, and a plain twin of the update."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from refine_rl.errors import GuardStop
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.settings import ModelSettings
from refine_rl.training.check import Check
from refine_rl.training.local import LocalLearner, adamw
from refine_rl.training.rows import micro_batch, micro_batches
from refine_rl.training.sft.learn import mean_loss
from refine_rl.training.sft.rows import Order, Tokens, likelihood, rows_of, tokens_of
from refine_rl.types import Segment


def tokens(*spans: int, name: str = "a:1", seed: int = 0) -> Tokens:
    ids = np.random.default_rng(seed + sum(spans)).integers(0, 60, sum(spans), dtype=np.int32)
    return Tokens(name=name, ids=ids, spans=spans)


ROWS = [tokens(3, 5), tokens(9, 2, seed=1), tokens(4, 2, 6, 3, seed=2), tokens(2, 12, seed=3)]


def policy_of(folder: Any, **changes: Any) -> Policy:
    settings = {"rank": 4, "dtype": "float32", "device": "cpu", **changes}
    return load_policy(ModelSettings(name=str(folder), **settings))


def test_every_pass_takes_every_row_once_in_an_order_of_its_own() -> None:
    order = Order(lengths=(5, 3, 8, 2, 7, 4, 6), batch_tokens=11, seed=3)
    taken = [row for step in range(1, 60) for row in order.rows(step)]
    passes = [taken[start : start + 7] for start in range(0, len(taken) - 7, 7)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert any(one != other for one, other in pairwise(passes))
    # As many rows as fit, one after the other.
    for step in range(1, 59):
        here, following = order.rows(step), order.rows(step + 1)[0]
        size = sum(order.lengths[row] for row in here)
        assert size <= 11 < size + order.lengths[following]


def test_a_step_does_not_depend_on_what_was_asked_before() -> None:
    def order() -> Order:
        return Order(lengths=tuple(range(2, 30)), batch_tokens=40, seed=1)

    forwards = order()
    steps = [forwards.rows(step) for step in range(1, 30)]
    assert [order().rows(step) for step in range(1, 30)] == steps
    assert [forwards.rows(step) for step in (20, 3, 29, 1)] == [steps[n - 1] for n in (20, 3, 29, 1)]
    assert Order(lengths=tuple(range(2, 30)), batch_tokens=40, seed=2).rows(1) != steps[0]


def test_a_row_longer_than_a_step_goes_alone_and_a_step_is_no_more_than_a_pass() -> None:
    assert [len(Order(lengths=(50, 60), batch_tokens=10).rows(step)) for step in (1, 2, 3)] == [1, 1, 1]
    few = Order(lengths=(5, 6, 7), batch_tokens=10_000)
    assert [sorted(few.rows(step)) for step in (1, 2)] == [[0, 1, 2]] * 2
    assert (few.steps(2.0), few.epochs(2)) == (2, 2.0)


def test_steps_of_so_many_passes() -> None:
    order = Order(lengths=(3,) * 10, batch_tokens=6)
    assert [order.steps(epochs) for epochs in (0.1, 1.0, 1.1, 3.0)] == [1, 5, 6, 15]


def test_a_cut_row_ends_with_a_token_of_an_answer() -> None:
    segments = [
        Segment(token_ids=(1, 2), trainable=False),
        Segment(token_ids=(3, 4), trainable=True, target=True),
        Segment(token_ids=(5, 6), trainable=False),
        Segment(token_ids=(7,), trainable=True, target=True),
    ]
    found = {limit: tokens_of("a:1", segments, limit) for limit in range(8)}
    assert [found[limit][1] for limit in range(8)] == [3, 3, 3, 2, 1, 1, 1, 0]
    assert [limit for limit in range(8) if found[limit][0] is None] == [0, 1, 2]
    spans = [t.spans for t, _ in found.values() if t is not None]
    assert spans == [(2, 1), (2, 2), (2, 2), (2, 2), (2, 2, 2, 1)]
    whole = found[7][0]
    assert whole is not None
    assert whole.trajectory().segments == tuple(segments)
    assert (whole.targets, whole.ids.tolist()) == (3, [1, 2, 3, 4, 5, 6, 7])


def test_a_whole_row_is_counted_whole() -> None:
    """Two rows with one prompt share nothing, unlike two completions of a group."""
    same = [tokens(6, 4), tokens(6, 4)]
    trajectories = [t.trajectory() for t in same]
    assert trajectories[0].segments[0] == trajectories[1].segments[0]
    assert list(micro_batches(trajectories, 19, packed=True)) == [[0], [1]]
    assert list(micro_batches(trajectories, 20, packed=True)) == [[0, 1]]


def test_each_token_of_an_answer_weighs_the_same(make_model: Any) -> None:
    rows = rows_of(ROWS)
    assert {row.weight for row in rows} == {1 / (5 + 2 + 5 + 12)}
    batch = micro_batch(rows, torch.device("cpu"))
    assert not batch.old_B_T.any()
    new = torch.full(batch.tokens.ids.shape, -0.5)
    assert likelihood(new, batch, None).loss.item() == pytest.approx(0.5)


@pytest.mark.parametrize("limit", [12, 4096])
def test_an_update_is_the_plain_one(make_model: Any, limit: int) -> None:
    """Micro-batches of any size against the mean cross-entropy that transformers computes, row by row."""
    policy, twin = policy_of(make_model()), policy_of(make_model())
    learner = LocalLearner(
        speaker=policy, optimizer=adamw(policy), check=Check(speaker=policy), tokens=limit, table="sft"
    )
    learned = learner.learn(rows_of(ROWS), likelihood, step=1, rate=0.01)

    total = torch.zeros(())
    for row in ROWS:
        labels = torch.full((len(row.ids),), -100)
        start = 0
        for place, length in enumerate(row.spans):
            if place % 2:
                labels[start : start + length] = torch.from_numpy(row.ids[start : start + length]).long()
            start += length
        ids = torch.from_numpy(row.ids).long()[None]
        total = total + twin.model(input_ids=ids, labels=labels[None]).loss * row.targets
    loss = total / sum(row.targets for row in ROWS)
    loss.backward()
    parameters = [p for _, p in sorted(twin.trainable().items())]
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0).step()

    assert learned.loss == pytest.approx(loss.item(), rel=1e-5)
    assert learned.grad_norm == pytest.approx(norm.item(), rel=1e-4)
    assert (learned.seen, learned.clip_share) == (None, None)
    for name, parameter in policy.trainable().items():
        torch.testing.assert_close(parameter, twin.trainable()[name], rtol=1e-3, atol=1e-4)
    assert mean_loss(policy, ROWS, limit) == pytest.approx(mean_loss(twin, ROWS, 4096), rel=1e-3)


def test_validation_is_the_mean_of_a_token(make_model: Any) -> None:
    policy = policy_of(make_model())
    one = [mean_loss(policy, [row], 4096) for row in ROWS]
    weights = [row.targets for row in ROWS]
    expected = sum(loss * n for loss, n in zip(one, weights, strict=True)) / sum(weights)
    assert mean_loss(policy, ROWS, 4096) == pytest.approx(expected, rel=1e-6)
    assert mean_loss(policy, ROWS, 10) == pytest.approx(expected, rel=1e-6)


def test_dropout_follows_from_seed_and_step(make_model: Any) -> None:
    def after(step: int) -> Counter[str]:
        policy = policy_of(make_model(), dropout=0.5)
        learner = LocalLearner(
            speaker=policy, optimizer=adamw(policy), check=Check(speaker=policy), tokens=64, dropout=0.5
        )
        learner.learn(rows_of(ROWS), likelihood, step=step, rate=0.01)
        learned = learner.learn(rows_of(ROWS), likelihood, step=step + 1, rate=0.01)
        return Counter({"loss": learned.loss})  # type: ignore[dict-item]

    assert after(1) == after(1) != after(2)


def test_a_loss_that_is_no_number_names_the_right_setting(make_model: Any) -> None:
    policy = policy_of(make_model())
    before = {n: p.clone() for n, p in policy.trainable().items()}
    next(iter(policy.trainable().values())).data.fill_(float("nan"))
    learner = LocalLearner(
        speaker=policy, optimizer=adamw(policy), check=Check(speaker=policy), tokens=64, table="sft"
    )
    with pytest.raises(GuardStop, match=r"lower sft\.learning_rate"):
        learner.learn(rows_of(ROWS), likelihood, step=1, rate=0.01)
    changed = [n for n, p in policy.trainable().items() if not torch.equal(p, before[n])]
    assert len(changed) == 1
