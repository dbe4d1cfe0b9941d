"""A folder beside the tuned model: the whole one holds, and each fault in it is found by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from make import prompt
from models import listening_model
from refine_rl.errors import UserError
from refine_rl.export.check import Check, check_folder, failed
from refine_rl.export.witness import Witness, hear
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.settings import ModelSettings

MakeModel = Callable[..., Path]
ASKED = [
    prompt(1, "say something short"),
    prompt(2, "the cat <|end|>"),
    prompt(3, "and the dog", system="hi"),
]


def tuned(folder: Path, by: float = 0.2, **changes: Any) -> Policy:
    """A policy that has learned something."""
    usual: dict[str, Any] = {"name": str(folder), "dtype": "float32", "device": "cpu", "rank": 4}
    policy = load_policy(ModelSettings(**{**usual, **changes}), keep_reference=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.trainable().values():
            p += by * torch.randn(p.shape, generator=generator)
    return policy


def looked(folder: Path, witness: Witness, *, rounded: bool = False, adapter: bool = False) -> list[Check]:
    cpu = torch.device("cpu")
    return check_folder(folder, witness, dtype=torch.float32, device=cpu, rounded=rounded, adapter=adapter)


@pytest.fixture(scope="module")
def made(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Witness]:
    """A merged model with an adapter on a head that was tied, and what it said before."""
    model = make_model("qwen3", tie_word_embeddings=True)
    policy = tuned(model, targets=["q_proj", "v_proj", "lm_head"])
    witness = hear(policy, ASKED, max_tokens=6)
    folder = tmp_path_factory.mktemp("merged") / "whole"
    policy.save_merged(folder, torch.float32)
    return folder, witness


@pytest.fixture
def copied(made: tuple[Path, Witness], tmp_path: Path) -> tuple[Path, Witness]:
    return Path(shutil.copytree(made[0], tmp_path / "copy")), made[1]


def test_the_whole_one_holds(made: tuple[Path, Witness]) -> None:
    folder, witness = made
    found = looked(folder, witness)
    assert all(check.held for check in found)
    assert [c.text.partition(":")[0] for c in found] == ["ends", "prompts", "head", "answers"]
    assert "2 held-out prompts get the same token ids (1 with control tokens" in found[1].text
    assert found[3].text.startswith(f"answers: the same, {witness.tokens} tokens; log-probs ")
    assert witness.moved > 0.1


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def spoil_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    kept = load_file(file)
    name = next(n for n in kept if n.endswith("1.self_attn.v_proj.weight"))
    save_file({**kept, name: kept[name] * 0.9}, file, metadata={"format": "pt"})


def spoil_template(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("<|assistant|>", "<|user|>"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_weights, "nats a token apart"),
        (spoil_template, "a prompt gets other token ids"),
        (lambda f: change_json(f / "generation_config.json", eos_token_id=[1]), "ends an answer at [1]"),
    ],
)
def test_each_fault_is_found(copied: tuple[Path, Witness], spoil: Callable[[Path], None], words: str) -> None:
    folder, witness = copied
    spoil(folder)
    (bad,) = [c for c in failed(looked(folder, witness)) if words in c.text]
    assert not bad.held


def test_a_head_that_is_tied_again_is_not_the_tuned_one(copied: tuple[Path, Witness]) -> None:
    folder, witness = copied
    change_json(folder / "config.json", tie_word_embeddings=True)
    assert failed(looked(folder, witness))


def test_a_loss_by_rounding_is_no_other_model(copied: tuple[Path, Witness]) -> None:
    """The weights lose a little of the update; the untrained ones are another model, rounded or not."""
    folder, witness = copied
    file = folder / "model.safetensors"
    kept = load_file(file)
    save_file({n: v.bfloat16().float() for n, v in kept.items()}, file, metadata={"format": "pt"})
    assert not failed(looked(folder, witness, rounded=True))
    assert failed(looked(folder, witness, rounded=False))


def test_what_a_base_models_manners_change_is_said(copied: tuple[Path, Witness]) -> None:
    folder, witness = copied
    change_json(folder / "generation_config.json", repetition_penalty=1.3, temperature=0.2, do_sample=True)
    found = looked(folder, witness)
    assert not failed(found)
    (odd,) = [c for c in found if not c.held]
    assert "asks for repetition_penalty = 1.3" in odd.text


def test_an_adapter_upon_its_base(make_model: MakeModel, tmp_path: Path) -> None:
    policy = tuned(make_model("llama"))
    witness = hear(policy, ASKED, max_tokens=6)
    policy.save(tmp_path / "adapter")
    assert all(c.held for c in looked(tmp_path / "adapter", witness, adapter=True))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    kept = load_file(file)
    save_file({n: v * (0 if "lora_B" in n else 1) for n, v in kept.items()}, file)
    assert failed(looked(tmp_path / "adapter", witness, adapter=True))
    file.unlink()
    with pytest.raises(UserError):
        looked(tmp_path / "adapter", witness, adapter=True)


def test_a_whole_model_and_an_encoder_decoder(make_model: MakeModel, tmp_path: Path) -> None:
    everything = tuned(make_model("gpt2"), 0.02, adapter="none")
    witness = hear(everything, ASKED, max_tokens=6)
    assert witness.moved > 0.01  # its reference is the copy that was kept
    everything.save(tmp_path / "whole")
    assert all(c.held for c in looked(tmp_path / "whole", witness))
    listening = tuned(listening_model(tmp_path / "base", "bart"), prefix="say: ")
    witness = hear(listening, ASKED[:1], max_tokens=6)
    listening.save_merged(tmp_path / "merged", torch.float32)
    found = looked(tmp_path / "merged", witness)
    assert all(c.held for c in found), found
