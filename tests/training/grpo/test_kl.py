"""Estimates of the KL, and the coefficient that follows it."""

from __future__ import annotations

import math
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch

from make import metrics
from refine_rl.training.grpo.kl import Distance, adapted, kl_terms
from refine_rl.types import StepMetrics


def test_kl_estimators_by_hand() -> None:
    # log pi = log 0.5, log reference = log 0.25: d = -log 2.
    pi, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert kl_terms(pi, reference, "k1").item() == pytest.approx(math.log(2))
    assert kl_terms(pi, reference, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
    assert kl_terms(pi, reference, "k3").item() == pytest.approx(0.5 + math.log(2) - 1)
    with pytest.raises(ValueError, match="unknown KL"):
        kl_terms(pi, reference, "k4")


def test_k1_and_k3_are_unbiased_and_k2_is_close() -> None:
    p, q = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    exact = float((p * (p / q).log()).sum())
    assert float((p * kl_terms(p.log(), q.log(), "k1")).sum()) == pytest.approx(exact, abs=1e-7)
    assert float((p * kl_terms(p.log(), q.log(), "k3")).sum()) == pytest.approx(exact, abs=1e-7)
    assert float((p * kl_terms(p.log(), q.log(), "k2")).sum()) == pytest.approx(exact, rel=0.2)


def test_the_coefficient_by_hand() -> None:
    assert adapted(0.5, 0.1, []) == 0.5
    # Errors 0.1 and -0.05: 1 % more, then 0.5 % less.
    assert adapted(0.5, 0.1, [0.11, 0.095]) == pytest.approx(0.5 * 1.01 * 0.995)
    # Cut at 0.2 on both sides: 2 % each way.
    assert adapted(0.5, 0.1, [9.0, 9.0]) == pytest.approx(0.5 * 1.02**2)
    assert adapted(0.5, 0.1, [-1.0]) == pytest.approx(0.5 * 0.98)
    assert adapted(0.5, 0.1, [None, 0.2, None]) == pytest.approx(0.5 * 1.02)


def history(*kls: float | None) -> list[StepMetrics]:
    return [metrics(n, kl=kl) for n, kl in enumerate(kls, 1)]


def test_a_step_knows_the_steps_before_it_alone() -> None:
    past = history(9.0, None, 0.0, 9.0)
    distance = Distance(references=Mock(), history=lambda: past, first=0.5, target=0.1)
    found = [distance.coefficient(step) for step in range(1, 6)]
    by_hand = [0.5, 0.5 * 1.02, 0.5 * 1.02, 0.5 * 1.02 * 0.98, 0.5 * 1.02 * 0.98 * 1.02]
    assert found == pytest.approx(by_hand, rel=1e-12)
    # The order on record is of no account.
    backwards = replace(distance, history=lambda: past[::-1])
    assert [backwards.coefficient(step) for step in range(1, 6)] == found


def test_without_a_target_it_is_what_it_was() -> None:
    distance = Distance(references=Mock(), history=lambda: history(9.0, 9.0), first=0.5)
    assert [distance.coefficient(step) for step in range(1, 4)] == [0.5] * 3
