"""What a model is made of, as hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from refine_rl.policy import fingerprint as module
from refine_rl.policy.fingerprint import fingerprint
from refine_rl.policy.origin import Origin, find_origin

MakeModel = Callable[..., Path]


@pytest.fixture
def model(make_model: MakeModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(make_model("llama"), tmp_path / "model"))


def of(folder: Path) -> dict[str, str]:
    return of_name(str(folder))


def flip(file: Path, place: int) -> None:
    """One bit, and the times as they were."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_bit_of_the_weights(model: Path, tmp_path: Path) -> None:
    before = of(model)
    assert set(before) == {"weights", "configuration", "tokenizer", "chat_template"}
    assert of(Path(shutil.copytree(model, tmp_path / "elsewhere"))) == before
    flip(model / "model.safetensors", -7)
    assert {part for part, hashed in of(model).items() if hashed != before[part]} == {"weights"}


@pytest.mark.parametrize(
    ("file", "key", "value", "part"),
    [
        ("config.json", "rope_theta", 5.0, "configuration"),
        ("config.json", "transformers_version", "99", None),
        ("generation_config.json", "eos_token_id", [0, 1], "configuration"),
        ("generation_config.json", "temperature", 0.1, None),
        ("tokenizer_config.json", "add_bos_token", True, "tokenizer"),
        ("tokenizer_config.json", "chat_template", "{{ messages }}", "chat_template"),
        ("tokenizer.json", "truncation", {}, "tokenizer"),
        ("README.json", "anything", 1, None),
    ],
)
def test_what_matters(model: Path, file: str, key: str, value: object, part: str | None) -> None:
    before = of(model)
    path = model / file
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**old, key: value}))
    assert {p for p, hashed in of(model).items() if hashed != before[p]} == ({part} if part else set())


def test_a_model_in_parts(model: Path) -> None:
    before = of(model)["weights"]
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    (model / "model-00002-of-00002.safetensors").write_bytes(b"more")
    (model / "spare.safetensors").write_bytes(b"not named")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    whole = of(model)["weights"]
    assert whole != before
    flip(model / "spare.safetensors", 0)
    assert of(model)["weights"] == whole
    flip(model / "model-00002-of-00002.safetensors", 0)
    assert of(model)["weights"] != whole


def test_a_large_file_is_read_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGE", 1000)
    before = of(model)
    read = []

    def count(file: object, name: str) -> object:
        read.append(name)
        return hashlib.new(name, file.read())  # type: ignore[attr-defined]

    monkeypatch.setattr(hashlib, "file_digest", count)
    assert of(model) == before
    assert not read
    flip(model / "model.safetensors", -7)  # with its times put back: the inode's change tells
    assert of(model)["weights"] != before["weights"]
    assert read


def test_small_and_large_files_hash_alike(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = of(model)
    monkeypatch.setattr(module, "_LARGE", 0)
    monkeypatch.setenv("REFINE_CACHE", "/proc/no/such/place")  # no place to keep it is no error
    assert of(model) == before


def test_a_model_of_the_hub(make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the hub's own cache keeps it: a base model, and an adapter that names it by its id."""
    from huggingface_hub import constants

    from refine_rl.policy.load import load_policy
    from refine_rl.settings import ModelSettings

    def keep(name: str, folder: Path) -> Path:
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        return Path(shutil.copytree(folder, place / "snapshots" / ("0" * 40)))

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    keep("some/model", make_model("llama"))
    hub, local = of_name("some/model"), of(make_model("llama"))
    assert hub == local
    load_policy(ModelSettings(name=str(make_model("llama")), device="cpu")).save(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    named = {**json.loads(config.read_text()), "base_model_name_or_path": "some/model"}
    config.write_text(json.dumps(named))
    kept = keep("some/adapter", tmp_path / "adapter")
    both = of_name("some/adapter")
    assert both["weights"] == local["weights"]
    policy = load_policy(ModelSettings(name="some/adapter", device="cpu", dtype="float32"))
    assert policy.start is not None
    assert policy.start.base == "some/model"
    flip(kept / "adapter_model.safetensors", -7)
    assert of_name("some/adapter")["adapter"] != both["adapter"]


def of_name(name: str) -> dict[str, str]:
    return fingerprint(find_origin(name))


def test_files_that_are_not_here_yet() -> None:
    name = "nobody/no-model-of-this-name"
    assert fingerprint(Origin(base=name, tokenizer=name)) == {}
