"""What a tokenizer loses is found before training, and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from make import task_toml
from models import TEXTS, listening_model, losing_tokenizer
from refine_rl.policy.load import load_policy
from refine_rl.policy.round_trip import lost_text
from refine_rl.run import RunFolder
from refine_rl.settings import ModelSettings


@pytest.fixture(scope="module")
def losing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 whose tokenizer knows neither line ends nor braces."""
    folder = tmp_path_factory.mktemp("losing")
    tokenizer = losing_tokenizer(TEXTS)
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_lost_characters_are_counted_by_text(losing: Path) -> None:
    policy = load_policy(ModelSettings(name=str(losing), device="cpu"))
    texts = ["the cat", "the cat {and}\nthe dog", "the\ndog\n", " say hello ", "def add"]
    lost = lost_text(policy, texts)
    assert lost is not None
    assert (lost.texts, lost.changed, lost.visible) == (5, 2, True)
    assert lost.characters == (("\n", 2), ("{", 1), ("}", 1))
    assert lost.example == (texts[1], "the cat and the dog")
    blank = lost_text(policy, ["the\ndog"])
    assert blank is not None
    assert not blank.visible
    assert lost_text(policy, ["the cat", ""]) is None


def test_a_byte_level_tokenizer_loses_nothing(tmp_path: Path) -> None:
    policy = load_policy(ModelSettings(name=str(listening_model(tmp_path)), device="cpu"))
    assert lost_text(policy, ["a\n\n  b {}", "\t日本 </s> <extra_id_0>"]) is None


def rows(folder: Path, answer: str, *prompts: str) -> None:
    import json

    lines = [json.dumps({"prompt": p, "answer": answer}) for p in prompts]
    (folder / "prompts.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize("fits", [True, False])
def test_a_run_names_what_is_lost(
    losing: Path, tmp_path: Path, refine: Callable[..., Any], fits: bool
) -> None:
    rows(tmp_path, "the cat" if fits else "{cat}", *(f"say {w}\nthe {{dog}}" for w in TEXTS[0].split()))
    reward = {"rules": [{"rule": "equals", "data": "answer"}]}
    task = task_toml(losing, reward=reward, prompts={"held_out": 2, "near_duplicate": 1.0}, grpo={"steps": 1})
    (tmp_path / "task.toml").write_text(task)
    found = refine("train", "task.toml")
    assert (
        "prompts do not come back whole from the model's tokenizer: they lose '\\n'" in found.out + found.err
    )
    if fits:
        assert found.code == 0
    else:
        assert found.code == 2
        assert "`answer`: 1 of 1 reference" in found.err
        assert "'{cat}', of which 'cat' came back. The model can write none of them" in found.err


def test_supervised_fine_tuning_names_what_is_lost(
    losing: Path, tmp_path: Path, refine: Callable[..., Any]
) -> None:
    rows(tmp_path, "the {cat}\nthe dog", *(f"say {w}\nthe dog" for w in TEXTS[0].split()))
    sft = {"data": "file:prompts.jsonl", "steps": 1, "examples": 0, "validation": 0}
    (tmp_path / "task.toml").write_text(task_toml(losing, sft=sft))
    found = refine("sft", "task.toml", "--run", "run")
    assert found.code == 0
    of_answers, of_prompts = (
        e["text"] for e in RunFolder.open(tmp_path / "run").events() if e["kind"] == "warning"
    )
    assert of_answers == (
        "1 of 1 answer do not come back whole from the model's tokenizer: they lose '\\n' (1), '{' (1), '}' "
        "(1). The model cannot write them."
    )
    assert of_prompts.endswith("they lose '\\n' (10). The model cannot see them.")
    assert of_answers.split(":")[0] in found.err
