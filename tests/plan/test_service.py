"""A model that is elsewhere: tokens at a service by hand, and what a plan leaves out where others compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refine_rl.evaluate.probes import instructions, neutral
from refine_rl.plan import Counts, make_plan, memory, pace
from refine_rl.plan.money import Cost, advice
from refine_rl.plan.pace import Pace
from refine_rl.plan.service import Passed, passed, with_service
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict
from sizes import RATES, ROWS, SIZE

COUNTS = Counts(train=40, validation=5, held_out=7, chars=400)
GRPO = {"steps": 20, "prompts_per_step": 3, "validate_every": 10}
PRICES = {"prefill": 1.0, "sample": 4.0, "train": 2.0}
SERVER = {"kind": "vllm", "base_url": "http://127.0.0.1:8000/v1"}


def make(**sections: Any) -> Settings:
    given: dict[str, Any] = {"engine": {"kind": "tinker"}, "grpo": GRPO, **sections}
    return settings_from_dict(
        {"task": "Be brief.", "model": {"name": "tiny"}, "reward": {"rules": [{"rule": "words"}]}, **given},
        Path(),
    )


def numbers(settings: Settings) -> dict[str, tuple[Any, Any, Any]]:
    found = passed(settings, COUNTS, None)
    assert len({one.stage for one in found}) == len(found)
    return {one.stage: (one.prefilled, one.sampled, one.trained) for one in found}


def test_looks_at_what_is_not_the_task() -> None:
    """20 instructions answered twice by each model, in up to 64 tokens; and the texts, read by each."""
    texts, asked = neutral(), instructions()
    read = sum(-(-len(text) // 4) for text in texts)
    about = sum(-(-len(one.messages[0]["content"]) // 4) for one in asked)
    settings = make(evaluate={"probes": True})
    prefilled, sampled, trained = numbers(settings)["probes"]
    assert prefilled == (2 * read + 5 * about + 20 * 32, 2 * read + 5 * about + 20 * 64)
    assert (sampled, trained) == ((2 * 40 * 32, 2 * 40 * 64), (0, 0))
    (both,) = [one for one in passed(settings, COUNTS, None, seeds=2) if one.stage == "probes"]
    assert both.sampled == (3 * 40 * 32, 3 * 40 * 64)
    assert "probes" not in numbers(make())


def test_what_a_rollback_repeats_passes_again() -> None:
    """Of 21 steps with looks at every 10th, ten steps and a look."""
    rules = [{"rule": "words"}, {"rule": "chars", "weight": 0.0}]
    sections: dict[str, Any] = {"reward": {"rules": rules}, "grpo": {**GRPO, "steps": 21}}
    usual = numbers(make(**sections))
    found = numbers(make(**sections, evaluate={"on_drift": "rollback"}))
    for (low, high), (least, most) in zip(found["training"], usual["training"], strict=True):
        assert (low, 21 * high) == (least, 31 * most)
    for (low, high), (least, most) in zip(found["validation"], usual["validation"], strict=True):
        assert (low, 3 * high) == (least, 4 * most)


def test_every_stage() -> None:
    """Prompts of 100 tokens, answers of 128 to 256. 5 validation prompts x 4 answers, before training and
    twice later; 20 steps of 3 x 8; two models answer 7 held-out prompts 4 times and once greedily."""
    rows = 20 * 3 * 8
    low, high = rows * 228, rows * 356
    assert numbers(make()) == {
        "first validation": ((500, 500), (20 * 128, 20 * 256), (0, 0)),
        "training": ((6000 + low, 6000 + high), (rows * 128, rows * 256), (low, high)),
        "validation": ((1000, 1000), (40 * 128, 40 * 256), (0, 0)),
        "held-out comparison": ((2 * 1400, 2 * 1400), (2 * 35 * 128, 2 * 35 * 256), (0, 0)),
    }
    assert passed(make(engine={}), COUNTS, None) == ()


def test_more_updates_and_a_reference() -> None:
    """Each update reads every row twice, once for its gradient; the base model reads them once."""
    rows = 20 * 3 * 8
    found = numbers(make(grpo={**GRPO, "updates_per_step": 2, "kl": 0.1}))["training"]
    assert found[0] == (6000 + 3 * rows * 228, 6000 + 3 * rows * 356)
    assert found[1] == (rows * 129, rows * 257)  # a token is drawn where only log-probs are wanted
    assert found[2] == (2 * rows * 228, 2 * rows * 356)


def test_passes_that_may_end_and_groups_to_choose_from() -> None:
    """6 groups are sampled and 3 trained on, at least once; as some are trained on before others had their
    first pass, all are read for that once more. With the answers of the step before, half of which come
    again, it is half as much more."""
    rows = 20 * 3 * 8
    thrift = {"updates_per_step": 4, "minibatches": 3, "kl_stop": 0.03, "oversample": 2.0}
    found = numbers(make(grpo={**GRPO, **thrift}))["training"]
    assert found[0] == (12_000 + 2 * rows * 228, 12_000 + 5 * rows * 356)
    assert found[1] == (2 * rows * 128, 2 * rows * 256)
    assert found[2] == (rows * 228, 4 * rows * 356)
    again = numbers(make(grpo={**GRPO, **thrift, "replay": 1}))["training"]
    assert again[2] == (1.5 * rows * 228, 6 * rows * 356)


def test_groups_in_the_place_of_others() -> None:
    """Up to 2 more a step, in the high figures; those without spread are dropped, and so not trained on."""
    found = numbers(make(grpo={**GRPO, "resample": 2}))["training"]
    assert found[0][0] == 6000 + 480 * 228
    assert found[1] == (480 * 128, 20 * 5 * 8 * 256)


def test_later_turns_read_all_that_stands() -> None:
    """3 turns of at most 50 tokens, 30 between them: behind the first, which a group shares, each of 8 reads
    100 + 80 and 100 + 160 tokens. A row that is trained on has 100 + 150 + 60."""
    world = {"environment": "my_env.py:Guess", "turns": 3, "max_tokens": 50}
    settings = make(rollout=world, reward={}, grpo={**GRPO, "validate_every": 0})
    found = numbers(settings)
    read, said, _ = found["first validation"]
    assert (read[1], said[1]) == (5 * (100 + 4 * (180 + 260)), 5 * 4 * 150)
    assert found["training"][2] == (20 * 3 * 8 * (100 + 75 + 60), 20 * 3 * 8 * (100 + 150 + 60))


def test_exits_from_a_thought_are_short() -> None:
    """A group is one answer of 128 to 256 tokens, and 7 of at most 16 tokens, each behind the prompt of 100
    and half of the thought."""
    exits = {"ends": "</think>", "answer_tokens": 16}
    found = numbers(make(rollout={"early_exit": exits, "max_tokens": 256}))
    groups = 20 * 3
    rows = tuple(100 + said + 7 * (100 + said // 2 + short) for said, short in ((128, 8), (256, 16)))
    read = tuple(100 + 7 * (100 + said // 2) for said in (128, 256))
    assert found["training"] == (
        tuple(groups * (r + row) for r, row in zip(read, rows, strict=True)),
        (groups * (128 + 7 * 8), groups * (256 + 7 * 16)),
        tuple(groups * row for row in rows),
    )
    assert found["validation"] == numbers(make())["validation"]  # there the model thinks as it likes


def test_rows_to_imitate() -> None:
    sft = {"data": "file:pairs.jsonl", "validate_every": 10, "patience": 1, "examples": 6}
    (found,) = passed(make(sft=sft), None, ROWS)
    assert found.stage == "supervised fine-tuning"
    assert found.trained == (30_000, 60_000)  # half of it where patience ends it as early as it can
    looks = (1 + 2, 1 + 4)
    assert found.prefilled == (30_000 + looks[0] * 1000 + 12 * 150, 60_000 + looks[1] * 1000 + 12 * 150)
    assert found.sampled == (12 * 128, 12 * 256)


def test_dollars() -> None:
    """Prices are those of a million tokens; without them the sum is not known."""
    priced = make(engine={"kind": "tinker", "prices": PRICES, "model": "org/served"})
    found = {one.stage: one.dollars for one in passed(priced, COUNTS, None)}
    assert found["first validation"] == pytest.approx((500e-6 + 4 * 2560e-6, 500e-6 + 4 * 5120e-6))
    low = 480 * 228
    assert found["training"] is not None
    assert found["training"][0] == pytest.approx((6000 + low + 4 * 480 * 128 + 2 * low) / 1e6)
    llms = Cost(low=1.0, high=2.0, unknown=("e/j",))
    whole = with_service(llms, priced, passed(priced, COUNTS, None))
    assert whole.low == pytest.approx(1.0 + sum(span[0] for span in found.values() if span))
    assert whole.unknown == ("e/j",)
    unpriced = make(engine={"kind": "tinker", "model": "org/served"})
    assert with_service(llms, unpriced, passed(unpriced, COUNTS, None)) == Cost(
        low=1.0, high=2.0, unknown=("e/j", "tinker/org/served")
    )
    assert with_service(llms, make(engine={}), ()) == llms


def test_the_plan_of_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine is needed; the dollars count against the cap."""
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    priced = {"kind": "tinker", "prices": PRICES}
    planned = make_plan(make(engine=priced, budget={"dollars": 0.5}), COUNTS)
    assert (planned.memory, planned.disk, planned.rates, planned.work) == (None, None, None, None)
    assert planned.seconds.total is None
    assert planned.over[0].startswith("The plan exceeds budget.dollars = 0.5: ")
    assert "Not set yet: TINKER_API_KEY. The run needs it." in planned.notes
    assert any("go to the service, training." in note for note in planned.notes)
    assert "none to LLMs and the service: $" in repr(planned)
    unpriced = make_plan(make(), COUNTS)
    assert unpriced.cost.unknown == ("tinker/tiny",)
    (advised,) = [note for note in unpriced.notes if note.startswith("Without a known price: tinker/tiny.")]
    assert advised.endswith("into [engine].")
    monkeypatch.setenv("TINKER_API_KEY", "tml-x")
    assert not any("Not set yet" in note for note in make_plan(make(), COUNTS).notes)


def test_advice_names_both_places() -> None:
    both = advice(["tinker/org/m", "openrouter/org/j"], {})
    assert "into [engine]" in both
    assert "[endpoints.openrouter.prices]" in both
    assert "[engine]" not in advice(["openrouter/org/j"], {})
    assert "[endpoints" not in advice(["tinker/org/m"], {})


def test_answers_of_a_server_take_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time of sampling, no keys and values; training is as ever."""
    monkeypatch.setattr("refine_rl.plan.machine.installed_memory", lambda device: 1e12)
    here, there = make(engine={}), make(engine=SERVER)
    one = Pace(settings=here, size=SIZE, rates=RATES, prompt=100)
    found = pace.estimate(there, SIZE, RATES, COUNTS)
    assert found.step[1] == pytest.approx(one.training(3, 8))
    assert found.evaluation == (0.0, 0.0)
    many = {"grpo": {**GRPO, "prompts_per_step": 64, "tokens_per_micro_batch": 1}}
    rates = replace(RATES, dtype="bfloat16")
    held = [memory.memory(make(**many, engine=e), SIZE, rates, COUNTS, 1.0) for e in ({}, SERVER)]
    rows = (1 << 17) // 356
    caches = rows * 356 * 4 * 2 * 50 * 2 + rows * 2000 * 28 + SIZE.linear * 2
    trained = 356 * (4 * (2 * (34 * 100 + 4 * 400) + 4 * (600 + 400)) + 2000 * 16)
    assert held[0] - held[1] == caches - trained
    (note,) = [n for n in make_plan(there, COUNTS, rates=RATES).notes if "samples" in n]
    assert note.startswith("The server at http://127.0.0.1:8000/v1 samples: its time is not known here")


def test_a_stage_without_tokens_is_not_told() -> None:
    none = Counts(train=40, validation=0, held_out=7, chars=400)
    found: tuple[Passed, ...] = passed(make(), none, None)
    assert [one.stage for one in found] == ["training", "held-out comparison"]
