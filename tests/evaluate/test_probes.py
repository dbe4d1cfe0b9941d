"""Forgetting, from records of exact small numbers; and by a model that answers what it is asked."""

from __future__ import annotations

import dataclasses
import math

import pytest

import make
from refine_rl.evaluate import forgotten
from refine_rl.evaluate.probes import Probed, Sampled, forgetting, instructions, neutral, probe
from refine_rl.evaluate.verdict import cautions
from refine_rl.policy.load import load_policy
from refine_rl.settings import ModelSettings


def probed(losses: list[tuple[float, int] | None], greedy: list[str], moved: list[float]) -> Probed:
    return Probed(
        losses=tuple(losses),
        greedy=tuple((text, len(text), not text.endswith("…")) for text in greedy),
        sampled=tuple(Sampled(asked=(1,), tokens=(2, 3), logprobs=(-1.0, -1.0)) for _ in greedy),
        moved=tuple(moved),
    )


def test_forgetting_is_read_off_both_looks() -> None:
    base = probed([(2.0, 2), None, (4.0, 4)], ["yes", "no", "so…", "ab"], [0.0] * 4)
    tuned = probed([(4.0, 2), (1.0, 1), (8.0, 4)], ["yes", "ahoy…", "so…", "ab"], [0.0, 4.0, 2.0, 2.0])
    found = forgetting(base, tuned, resamples=200, seed=0)
    assert found is not None
    assert (found.texts, found.instructions) == (2, 4)  # one text has no likelihood under base
    assert found.perplexity.base.mean == pytest.approx(math.e)
    assert found.perplexity.tuned.mean == pytest.approx(math.e**2)
    assert found.kl.mean == 1.0  # 8 nats over 8 tokens
    assert found.same.mean == 0.75
    assert (found.ended.base.mean, found.ended.tuned.mean) == (0.75, 0.5)
    assert (found.tokens.base.mean, found.tokens.tuned.mean) == (2.5, 3.25)
    c = make.comparison("better", make.contrast(0.2, 0.8), forgetting=found)
    assert forgotten.told(c).startswith(
        "Outside of the task: perplexity of 2 neutral texts 2.718 -> 7.389; of 4"
    )
    assert "75% are answered as before, 75% -> 50% of the answers end" in forgotten.told(c)
    assert "grpo.kl" in cautions(c)["forgotten"]
    little = dataclasses.replace(found, kl=make.estimate(0.02, 0.01, 0.03), perplexity=make.contrast(9, 9.1))
    assert "forgotten" not in cautions(dataclasses.replace(c, forgetting=little))
    assert forgotten.told(make.comparison("better", make.contrast(0.2, 0.8))) == ""
    assert forgetting(probed([None] * 3, ["a"] * 4, [0.0] * 4), tuned, resamples=10, seed=0) is None


def test_the_texts_are_there_and_differ() -> None:
    texts, asked = neutral(), [p.messages[0]["content"] for p in instructions()]
    assert (len(texts), len(set(texts))) == (60, 60)
    assert (len(asked), len(set(asked))) == (20, 20)


@pytest.mark.slow
def test_a_model_that_stays_as_it_is_forgets_nothing() -> None:
    policy = load_policy(ModelSettings(name="tiny", device="cpu", dtype="float32"))
    base = probe(policy, seed=3)
    again = probe(policy, seed=3, base=base)
    assert (again.losses, again.greedy, again.sampled) == (base.losses, base.greedy, base.sampled)
    assert max(map(abs, again.moved)) < 1e-3
    assert all(len(one.tokens) == len(one.logprobs) > 0 for one in base.sampled)
    found = forgetting(base, again, resamples=200, seed=0)
    assert found is not None
    assert (found.texts, found.instructions) == (60, 20)
    assert found.perplexity.difference.ci95 == (0.0, 0.0)
    assert (found.same.mean, found.kl.ci95[1] < 1e-4) == (1.0, True)
