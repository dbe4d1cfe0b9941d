"""The plan of supervised fine-tuning: rows and tokens as the run counts them, exact steps, and estimates."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models import listening_model
from refine_rl.errors import UserError
from refine_rl.pipeline.sft import run
from refine_rl.plan import Counts, Plan, calls, make_plan, survey
from refine_rl.plan import supervised as planned
from refine_rl.plan.memory import memory, sampling_bytes
from refine_rl.plan.pace import Fitted, Pace
from refine_rl.plan.supervised import Rows, earliest, supervised
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict
from refine_rl.training.memory import held, training_bytes
from sizes import RATES, SIZE

MakeModel = Callable[..., Path]
ROWS = Rows(
    train=90,
    validation=10,
    tokens=9000,
    targets=3000,
    looked=1000,
    prompt=60,
    longest=120,
    steps=20,
    epochs=2.0,
    guessed=False,
    lines=(),
)
WORDS = ["cat", "dog", "tree", "house", "river", "stone"]
REWARD = {"rules": [{"rule": "words", "max": 3}]}


@pytest.fixture
def task(tmp_path: Path, make_model: MakeModel) -> Callable[..., Settings]:
    """task(sft={...}, model={...}, **sections) -> settings with 36 pairs in a file; one is far too long."""
    pairs = [{"prompt": f"say {a} and {b}", "answer": f"{a} {a}"} for a in WORDS for b in WORDS]
    long = [{"prompt": "xq" * 60, "answer": "dog"}, {"prompt": "say", "answer": "xq" * 60}]
    prompts = [{"prompt": f"say {a} and {b}"} for a in WORDS for b in WORDS]
    for name, lines in (("pairs", pairs), ("long", [*long, *pairs]), ("prompts", prompts)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def make(sft: dict[str, Any], model: dict[str, Any] | None = None, **sections: Any) -> Settings:
        own = {"name": str(make_model("llama")), "device": "cpu", "dtype": "float32", "rank": 4}
        tables = {
            "model": {**own, **(model or {})},
            "sft": {"data": "file:pairs.jsonl", "batch_tokens": 200, **sft},
            "rollout": {"max_tokens": 8},
            **sections,
        }
        return settings_from_dict({"task": "Twice.", **tables}, tmp_path)

    return make


def plan_of(settings: Settings) -> Plan:
    found = survey(settings)
    return make_plan(settings, found.counts, rates=RATES, lost=found.lost, shown=found.shown)


def rows_of(settings: Settings) -> Rows:
    stage = plan_of(settings).sft
    assert stage is not None
    return stage.rows


# -- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_plan_counts_what_the_run_trains_on(
    task: Callable[..., Settings], tmp_path: Path, kind: str
) -> None:
    """Rows, tokens, targets and steps of a run's own record; the rows that it cuts and sets aside too."""
    model = {} if kind == "llama" else {"name": str(listening_model(tmp_path / "t5")), "prefix": "say: "}
    settings = task({"data": "file:long.jsonl", "max_tokens": 60, "epochs": 1.0, "examples": 0}, model)
    rows = rows_of(settings)
    folder = RunFolder.create(tmp_path / "run", settings, kind="sft")
    run(folder)
    steps = folder.metrics()
    (told,) = (e["text"] for e in folder.events() if e["name"] == "rows")
    assert len(steps) == rows.steps
    assert sum(s["rows"] for s in steps) == round(rows.epochs * rows.train)
    assert steps[-1]["epoch"] == rows.epochs
    assert f"{rows.train} rows to train on ({rows.tokens} tokens, {rows.targets} of them" in told
    assert f", {rows.validation} to validate" in told
    assert rows.lines == tuple(told.splitlines()[:2])
    assert rows.lines[0].startswith("1 row (file:long.jsonl:2) cut at 60 tokens (sft.max_tokens)")
    assert rows.lines[1].startswith("1 row (file:long.jsonl:1) set aside")
    assert (rows.longest, rows.guessed) == (60, False)


def test_steps_and_passes(task: Callable[..., Settings]) -> None:
    one, given = rows_of(task({})), rows_of(task({"steps": 7}))
    assert one.train + one.validation == 36
    assert (one.validation, one.epochs >= 1, given.steps) == (3, True, 7)
    assert one.steps == rows_of(task({"epochs": 1.0})).steps
    assert one.prompt == round((one.tokens - one.targets) / one.train)
    assert rows_of(task({"validation": 0})).validation == 0


def test_rows_that_ask_what_held_out_prompts_ask_are_left_out(task: Callable[..., Settings]) -> None:
    prompts = {"source": "file:prompts.jsonl", "validation": 4, "held_out": 6, "near_duplicate": 1.0}
    rows = rows_of(task({}, prompts=prompts, reward=REWARD))
    assert rows.lines == ("10 rows left out: they ask what a held-out prompt asks",)
    assert rows.train + rows.validation == 26


def test_of_many_rows_some_stand_for_all(
    task: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows_of(task({"validation": 0}))
    monkeypatch.setattr(planned, "LOOKED_AT", 18)
    half = rows_of(task({"validation": 0}))
    assert (half.train, half.lines) == (36, ("one row in 2 was looked at, and stands for the others",))
    assert half.tokens == pytest.approx(whole.tokens, rel=0.2)


def test_tokens_of_an_unknown_model_are_guessed(task: Callable[..., Settings]) -> None:
    """Four characters a token: "say cat and dog" with "cat cat" are 22, so 6, and 2 of them the answer's."""
    settings = task({"epochs": 2.0, "validation": 0}, {"name": "nobody/nothing"})
    plan = plan_of(settings)
    assert plan.sft is not None
    pairs = [(f"say {a} and {b}", f"{a} {a}") for a in WORDS for b in WORDS]
    assert plan.sft.rows.tokens == sum(math.ceil(len(p + a) / 4) for p, a in pairs)
    assert plan.sft.rows.targets == sum(math.ceil(len(a) / 4) for _, a in pairs)
    assert plan.sft.rows.guessed
    assert (plan.sft.seconds, plan.memory, plan.disk, plan.seconds.total) == (None, None, None, None)
    assert plan.notes[0].startswith("nobody/nothing is not on this machine yet")
    assert "guessed from characters" in plan.notes[1]


@pytest.mark.parametrize(
    ("sft", "said"),
    [
        ({"max_tokens": 3}, r"nothing to train on: 36 rows.*Raise sft\.max_tokens \(3\)"),
        ({"data": "file:none.jsonl"}, r"none\.jsonl"),
        ({"answer": "anser"}, r"has no column `anser`.*`answer`"),
        ({"validation": 36}, r"there are only 36 rows"),
    ],
)
def test_mistakes_in_the_data_are_told(task: Callable[..., Settings], sft: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan_of(task(sft))


# -- estimates --------------------------------------------------------------------------------------


def of(sft: dict[str, Any], **model: Any) -> Settings:
    return settings_from_dict({"task": "x", "sft": {"data": "file:x.jsonl", **sft}, "model": model}, Path())


def takes(settings: Settings, rows: Rows = ROWS) -> tuple[tuple[float, float], tuple[float, float], float]:
    assert settings.sft is not None
    found = supervised(settings, settings.sft, rows, SIZE, RATES)
    assert found.seconds is not None
    assert found.memory is not None
    return found.seconds, found.memory, found.disk


def test_time_of_the_stage() -> None:
    """20 steps of 900 tokens, 300 of them targets; looks at 1000 tokens before, and at every 2nd step; 6
    examples, twice."""
    settings = of({})
    pace = Pace(settings=settings, size=SIZE, rates=RATES, prompt=60)
    step, look = pace.once(900, 300, 2048), pace.once(1000, 1000 / 3, 2048) / 3
    (low, high), _, _ = takes(settings)
    assert high == pytest.approx(20 * step + 11 * look + 2 * pace.sampling(6, 1))
    assert low == pytest.approx(high - 2 * (pace.sampling(6, 1) - replace(pace, share=0.5).sampling(6, 1)))
    assert takes(of({"examples": 0, "validate_every": 0}))[0][1] == pytest.approx(20 * step + look)
    assert takes(of({"examples": 0, "validate_every": 7}))[0][1] == pytest.approx(20 * step + 4 * look)
    blind = replace(ROWS, validation=0, looked=0)
    assert takes(of({"examples": 0}), blind)[0] == pytest.approx((20 * step,) * 2)
    again = takes(of({"examples": 0}, gradient_checkpointing=True), blind)[0][1]
    assert again == pytest.approx(1.5 * 20 * step)
    whole = replace(pace, settings=of({}, adapter="none")).once(900, 300, 2048)
    assert takes(of({"examples": 0, "adapter": "none"}), blind)[0][1] == pytest.approx(20 * whole)
    muon = takes(of({"examples": 0, "adapter": "none", "optimizer": "muon"}), blind)[0][1]
    assert muon == pytest.approx(20 * (whole + 30 * 800_000 * 100 / 1e9 * pace.fitted.slowdown))


def test_of_a_token_through_the_model_and_back() -> None:
    """900 tokens, 300 of them targets, in two micro-batches; once by hand."""
    pace = Pace(
        settings=of({}),
        size=SIZE,
        rates=RATES,
        prompt=60,
        given=Fitted(launch=1e-3, started=3e-3, slowdown=3, traffic=10),
    )
    activation = 4 * (34 * 100 + 4 * 400) + 4 * (600 + 400)
    products = 2 * (900 * 2 * 800_000 + 300 * 2 * 2000 * 100)
    by_hand = 3 * products / 1e9 + 10 * 900 * 4 * activation / 1e9 + 2 * 3 * 4e-3
    assert pace.once(900, 300, 512) == pytest.approx(by_hand)


def test_patience_may_end_it_early() -> None:
    """Looks at every 2nd of 20 steps: the first is the best, and so many find nothing lower."""
    patient = of({"patience": 3})
    assert patient.sft is not None
    assert earliest(patient.sft, ROWS) == 8
    assert earliest(patient.sft, replace(ROWS, validation=0)) == 20
    longer = patient.sft.model_copy(update={"patience": 30})
    assert earliest(longer, ROWS) == 20
    pace = Pace(settings=patient, size=SIZE, rates=RATES, prompt=60, share=0.5)
    look = pace.once(1000, 1000 / 3, 2048) / 3
    low = takes(patient)[0][0]
    assert low == pytest.approx(8 * pace.once(900, 300, 2048) + 5 * look + 2 * pace.sampling(6, 1))


def test_memory_and_disk_of_the_stage() -> None:
    settings = of({"tokens_per_micro_batch": 64, "adapter": "none"})
    model = settings.sft_model
    low, high = takes(settings)[1]
    there, moving = held(model, SIZE, RATES), training_bytes(model, SIZE, RATES, 120)  # the longest row
    assert there == 0.5e9 + 1_000_000 * 16
    assert (low, high) == (there + moving, there + 2 * moving)
    huge = of({"tokens_per_micro_batch": 10_000_000, "batch_tokens": 4000, "adapter": "none"})
    assert takes(huge)[1][0] == there + training_bytes(model, SIZE, RATES, 4000)  # no step has more
    # Checkpoints at 2, 4 ...: the two newest and the best, weights and two moments; the model in 2 bytes.
    assert takes(settings)[2] == 3 * 1_000_000 * 12 + 1_000_000 * 2
    assert takes(of({"checkpoint_every": 20, "keep_checkpoints": 5}))[2] == 2 * 160_000 * 12 + 160_000 * 4


def test_two_models_answer_side_by_side_before_grpo() -> None:
    """An optimizer of all weights is more than a second model; that of an adapter is not."""
    counts = Counts(train=40, validation=5, held_out=7, chars=400)
    big = replace(SIZE, parameters=10**9)

    def held_by(model: dict[str, Any], **sections: Any) -> float:
        tables = {"model": model, "grpo": {"kl": 0.1}, "rollout": {"max_tokens": 900}, **sections}
        return memory(settings_from_dict({"task": "x", **tables}, Path()), big, RATES, counts, 1.0)

    sft, whole = {"data": "file:x.jsonl"}, {"adapter": "none"}
    assert held_by(whole, sft=sft) == held_by(whole)
    sampling = sampling_bytes(SIZE, RATES, asked=64, length=1000)
    assert held_by({}, sft=sft) == 0.5e9 + 2 * 4e9 + sampling
    assert held_by({}) < 0.5e9 + 4e9 + 5e8


# -- the whole --------------------------------------------------------------------------------------

COUNTS = Counts(train=40, validation=5, held_out=7, chars=400)


def test_both_stages_and_their_sum(task: Callable[..., Settings]) -> None:
    prompts = {"source": "file:prompts.jsonl", "validation": 4, "held_out": 6, "near_duplicate": 1.0}
    both = task({}, prompts=prompts, reward=REWARD, grpo={"steps": 3, "prompts_per_step": 2})
    plan = plan_of(both)
    alone = plan_of(both.model_copy(update={"reward": type(both.reward)()}))
    assert plan.sft is not None
    assert plan.work is not None
    assert plan.sft.seconds is not None
    assert plan.seconds.total is not None
    grpo = [3 * step + rest for step, rest in zip(plan.work.step, plan.work.evaluation, strict=True)]
    assert plan.seconds.total[0] == pytest.approx(5 + plan.sft.seconds[0] + grpo[0])
    assert plan.seconds.machine == pytest.approx(
        (5 + plan.sft.seconds[0] + grpo[0], 5 + plan.sft.seconds[1] + grpo[1])
    )
    assert plan.seconds.training is not None
    assert plan.seconds.training[0] == pytest.approx(5 + plan.sft.seconds[0] + 3 * plan.work.step[0])
    assert plan.memory == max(plan.sft.memory or (0, 0), plan.work.memory, key=lambda span: span[1])
    assert plan.disk == plan.sft.disk + plan.work.disk
    assert (alone.counts, alone.work, alone.lines) == (None, None, ())
    assert alone.sft is not None
    assert alone.sft.seconds is not None
    assert alone.seconds.total == tuple(5 + s for s in alone.sft.seconds) == alone.seconds.training


def test_the_hours_of_the_budget_count_both(task: Callable[..., Settings]) -> None:
    (over,) = plan_of(task({}, budget={"hours": 1e-6})).over
    assert over.startswith("The plan exceeds budget.hours = 1e-06")


def test_a_stage_that_does_not_fit_names_its_keys(
    task: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    from refine_rl.plan import machine

    monkeypatch.setattr(machine, "installed_memory", lambda device: 1e6)
    assert any("lower sft.tokens_per_micro_batch or sft.max_tokens" in n for n in plan_of(task({})).notes)


def test_three_models_are_compared() -> None:
    """7 held-out prompts, 5 answers a model: an absolute judge sees 105; a ruler a group of 15; a win rate
    takes 2 calls a prompt for base and tuned, and 2 for each of three models beside the reference."""

    def asked(kind: str, **sections: Any) -> dict[str, tuple[int, int]]:
        settings = settings_from_dict(
            {
                "task": "x",
                "sft": {"data": "file:x.jsonl"},
                "reward": {"judges": ["e/j"]},
                "judge": {"kind": kind, "anchors": False},
                **sections,
            },
            Path(),
        )
        return {c.stage: (c.low, c.high) for c in calls(settings, COUNTS)}

    assert asked("absolute")["held-out comparison"] == (105, 105)
    assert asked("ruler")["held-out comparison"] == (7, 7)
    assert asked("pairwise")["held-out comparison"] == (7 * 2 * 15 * 4, 7 * 2 * 15 * 4)
    assert asked("ruler", evaluate={"metrics": ["win_rate"]})["win rate"] == (14, 56)
    quiz = {"reward": {"quiz": {"writer": "e/w", "reader": "e/r"}}}
    settings = settings_from_dict({"task": "x", "sft": {"data": "file:x.jsonl"}, **quiz}, Path())
    found = {c.stage: c.low for c in calls(settings, COUNTS)}
    assert found["held-out comparison"] == 105
    pace = Pace(settings=settings, size=SIZE, rates=RATES, prompt=100)
    two = replace(pace, settings=settings.model_copy(update={"sft": None}))
    comparison = pace.sampling(7, 4) + pace.sampling(7, 1)
    assert pace.evaluation(COUNTS) == pytest.approx(two.evaluation(COUNTS) + comparison)
