"""How many tokens go through the model at once where the settings leave it to the card's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from refine_rl.pipeline import begin as beginning
from refine_rl.pipeline.train import run
from refine_rl.run import RunFolder
from refine_rl.settings import ModelSettings, Settings
from refine_rl.settings.file import settings_from_dict
from refine_rl.training.grpo import setup
from refine_rl.training.grpo.setup import settled, settled_for
from refine_rl.training.memory import LEAST, MOST, SLACK, TILES, Place, held, tokens_that_fit, training_bytes
from sizes import SIZE

CARD = Place(device="cuda", dtype="bfloat16")
MODEL = ModelSettings(name="x")


def made(**tables: Any) -> Settings:
    return settings_from_dict({"task": "x", **tables}, Path())


@pytest.mark.parametrize("changes", [{}, {"adapter": "none"}, {"gradient_checkpointing": True}])
def test_as_many_as_the_high_figure_says_that_fit(changes: dict[str, Any]) -> None:
    model = MODEL.model_copy(update=changes)
    for free in (3e9, 3.03e9, 3.1e9):
        found = tokens_that_fit(model, SIZE, CARD, free)
        assert found % LEAST == 0

        def high(tokens: int) -> float:
            return held(model, SIZE, CARD) + SLACK * training_bytes(model, SIZE, CARD, tokens)

        fitting = [n for n in range(LEAST, MOST + 1, LEAST) if high(n) <= free]
        assert found == max(fitting, default=LEAST)


def test_never_more_than_helps_nor_fewer_than_can_be_worked() -> None:
    assert tokens_that_fit(MODEL, SIZE, CARD, 80e9) == MOST
    assert tokens_that_fit(MODEL, SIZE, CARD, 1e9) == LEAST
    # 0.7 GB of the program, 16 bytes of each trained weight, 2 of each other one; four layers of 5,200 bytes
    # a token, and the head's tiles.
    free = 0.7e9 + 160_000 * 16 + 1_000_000 * 2 + 2 * (1024 * 4 * 5200 + TILES)
    assert tokens_that_fit(MODEL, SIZE, CARD, free) == 1024
    assert tokens_that_fit(MODEL, SIZE, CARD, free - 1) == 768


def test_what_is_given_stays_and_each_stage_has_its_own() -> None:
    sft = {"data": "file:pairs.jsonl", "adapter": "none"}
    open_to_both = made(sft=sft)
    where: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16", "free": 3e9}
    found = settled(open_to_both, SIZE, **where)
    assert found.sft is not None
    assert found.grpo.at_once == tokens_that_fit(MODEL, SIZE, CARD, 3e9)
    assert found.sft.at_once == tokens_that_fit(ModelSettings(adapter="none"), SIZE, CARD, 3e9)
    assert found.grpo.at_once != found.sft.at_once
    assert settled(found, SIZE, **{**where, "free": 80e9}) == found
    given = made(sft={**sft, "tokens_per_micro_batch": 100}, grpo={"tokens_per_micro_batch": 7})
    assert settled(given, SIZE, **where) == given


def test_the_reference_of_a_kl_term_is_counted_where_it_is_a_second_model() -> None:
    where: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16"}

    def at_once(free: float, **grpo: Any) -> int:
        return settled(made(model={"adapter": "none"}, grpo=grpo), SIZE, free=free, **where).grpo.at_once

    assert at_once(3e9 + 4e6, kl=0.1) == at_once(3e9)
    assert at_once(3e9, kl=0.1) == at_once(3e9 - 4e6)


def test_a_processor_and_what_is_not_packed_keep_the_fixed_number() -> None:
    settings = made(sft={"data": "file:pairs.jsonl"})
    where: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16", "free": 80e9}
    for size, other in (
        (SIZE, {"device": "cpu"}),
        (replace(SIZE, listens=True), {}),
        (SIZE, {"packed": False}),
    ):
        found = settled(settings, size, **{**where, **other})
        assert found.sft is not None
        assert (found.grpo.tokens_per_micro_batch, found.sft.tokens_per_micro_batch) == (2048, 2048)


def test_what_was_found_stays_when_the_run_goes_on(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for once: the other card of a later process changes nothing."""
    (tmp_path / "p.jsonl").write_text("".join(f'{{"prompt": "say {n} of {n * n}"}}\n' for n in range(12)))
    settings = settings_from_dict(
        {
            "task": "Be short.",
            "model": {"name": str(make_model("llama")), "dtype": "float32", "device": "cpu"},
            "prompts": {"source": "file:p.jsonl", "validation": 0, "held_out": 3},
            "reward": {"rules": [{"rule": "chars", "max": 12}]},
            "rollout": {"group_size": 2, "max_tokens": 4},
            "grpo": {"steps": 1, "prompts_per_step": 2, "all_cut_patience": 9},
            "evaluate": {"samples": 1},
        },
        tmp_path,
    )
    cards = iter([3.1e9, 80e9])

    def as_on_a_card(given: Settings, policy: object, *, beside: float = 0.0) -> Settings:
        assert beside == 0.0
        return settled(given, SIZE, device="cuda", dtype="bfloat16", free=next(cards))

    monkeypatch.setattr(beginning, "settled_for", as_on_a_card)
    folder = RunFolder.create(tmp_path / "run", settings)
    assert folder.settings().grpo.tokens_per_micro_batch == "auto"
    run(folder)
    found = tokens_that_fit(MODEL, SIZE, CARD, 3.1e9)
    assert folder.settings().grpo.tokens_per_micro_batch == found < MOST
    assert as_on_a_card(folder.settings(), None) == folder.settings()


@pytest.mark.parametrize(("kind", "told"), [("grpo", ["grpo", "sft"]), ("sft", ["sft"])])
def test_what_the_card_decided_is_told(kind: str, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[tuple[str, str]] = []

    class Told:
        def note(self, name: str, text: str, *, once: bool) -> None:
            assert once
            notes.append((name, text))

    before = made(sft={"data": "file:pairs.jsonl"})
    after = settled(before, SIZE, device="cuda", dtype="bfloat16", free=80e9)
    beginning._tell_at_once(before, after, kind, Told())  # type: ignore[arg-type]
    text = ".tokens_per_micro_batch: 32,768 tokens go through the model at once"
    assert notes == [(f"{table}_at_once", table + text) for table in told]
    beginning._tell_at_once(after, after, kind, Told())  # type: ignore[arg-type]
    assert len(notes) == len(told)


def test_the_device_of_the_model_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    class There:
        device = torch.device("cuda:1")
        form = "bfloat16"
        shares_prompts = True

    asked: list[str] = []

    def free(device: str) -> float:
        asked.append(device)
        return 6.2e9

    monkeypatch.setattr(setup, "model_size", lambda model: SIZE)
    monkeypatch.setattr(setup, "free_memory", free)
    settings = made(engine={"kind": "processes", "processes": 2})
    found = settled_for(settings, There())  # type: ignore[arg-type]
    assert found.grpo.at_once == tokens_that_fit(MODEL, SIZE, CARD, 3.1e9)  # both on one card
    assert asked == ["cuda:1"]
