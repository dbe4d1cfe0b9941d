"""GGUF: what a file has to hold, the converter and its words, and where llama.cpp is. The real llama.cpp is
tried where LLAMA_CPP names its folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from make import prompt
from refine_rl.errors import MachineError, UserError
from refine_rl.export.check import failed
from refine_rl.export.gguf.check import check_gguf
from refine_rl.export.gguf.convert import convert
from refine_rl.export.gguf.find import LlamaCpp, find_llama_cpp
from refine_rl.export.gguf.pre import pre_tokenizer_of
from refine_rl.export.gguf.server import check_served
from refine_rl.export.witness import Witness, hear
from refine_rl.pipeline.export_gguf import q8_0
from refine_rl.policy.load import load_policy
from refine_rl.settings import ModelSettings

pytest.importorskip("gguf")
sys.path.insert(0, str(Path(__file__).parent))
from written import write_llama

MakeModel = Callable[..., Path]
STAND_IN = LlamaCpp(converter=Path(__file__).with_name("convert_hf_to_gguf.py"), server=None)
Made = tuple[Path, Witness, dict[str, Any]]


@pytest.fixture(scope="module")
def made(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A merged Llama, what it said, and its configuration."""
    asked = ModelSettings(name=str(make_model("llama")), dtype="float32", device="cpu", rank=4)
    policy = load_policy(asked)
    with torch.no_grad():
        for p in policy.trainable().values():
            p += 0.2
    folder = tmp_path_factory.mktemp("gguf") / "merged"
    policy.save_merged(folder, torch.float32)
    witness = hear(policy, [prompt(1, "say something"), prompt(2, "the dog")], max_tokens=8)
    return folder, witness, json.loads((folder / "config.json").read_text())


def found(made: Made, file: Path, **changes: Any) -> list[str]:
    """What is wrong with a file that was written with changes."""
    folder, witness, config = made
    write_llama(folder, file, "gpt-2", config, **changes)
    return [c.text for c in failed(check_gguf(file, folder, witness))]


def test_a_file_that_holds_the_model(made: Made, tmp_path: Path) -> None:
    folder, witness, config = made
    write_llama(folder, tmp_path / "a.gguf", "gpt-2", config)
    seen = check_gguf(tmp_path / "a.gguf", folder, witness)
    assert all(c.held for c in seen)
    assert seen[0].text == "weights: 21 tensors of llama, equal in F32"
    assert [c.text.partition(":")[0] for c in seen] == ["weights", "vocabulary", "ends", "template"]


def half(name: str, values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16) if values.ndim > 1 else values


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"change": lambda n, v: v + (n == "blk.1.ffn_up")}, "1 of 21 tensors .* blk.1.ffn_up"),
        ({"change": lambda n, v: v[::-1].copy() if n == "blk.0.attn_q" else v}, "blk.0.attn_q.weight is up"),
        ({"change": lambda n, v: v[:-1] if n == "blk.0.ffn_up" else v}, "ffn_up.weight is 63x32 and not"),
        ({"eos": 1}, r"does not know that"),
        ({"tokens": ["<|end|>"] * 3}, "the vocabulary has 3 tokens"),
        ({"template": "{{ messages }}"}, "chat template in the file is not the tokenizer's"),
    ],
)  # fmt: skip
def test_each_fault_is_found(made: Made, tmp_path: Path, changes: Any, words: str) -> None:
    import re

    if "eos" in changes:  # <|end|> is an end by its text; another text is not
        names = [f"w{i}" for i in range(300)]
        changes = {**changes, "tokens": names}
    assert any(re.search(words, text) for text in found(made, tmp_path / "a.gguf", **changes))


def test_what_a_format_rounds_away_is_no_fault(made: Made, tmp_path: Path) -> None:
    assert found(made, tmp_path / "a.gguf", change=half) == []
    nearly = {"change": lambda n, v: half(n, v * 1.01)}
    assert found(made, tmp_path / "b.gguf", **nearly)


def test_q8_0_is_what_the_package_makes_of_it() -> None:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    packed = quantize(weight.numpy(), GGMLQuantizationType.Q8_0)
    expected = torch.from_numpy(dequantize(packed, GGMLQuantizationType.Q8_0))
    assert torch.equal(q8_0(weight), expected)


def test_how_a_tokenizer_cuts_texts(made: Made, tmp_path: Path) -> None:
    folder = made[0]
    assert pre_tokenizer_of(folder) == "gpt-2"
    said = json.loads((folder / "tokenizer.json").read_text())
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}
    for changes, name in (
        ({"pre_tokenizer": {"type": "Whitespace"}}, ""),
        ({"normalizer": {"type": "Lowercase"}}, ""),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}}, ""),
        ({"model": {**said["model"], "ignore_merges": True}}, ""),
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps({**said, **changes}))
        assert pre_tokenizer_of(tmp_path) == name, changes
    assert pre_tokenizer_of(tmp_path / "nowhere") == ""


def test_a_tokenizer_that_the_converter_does_not_know(made: Made, tmp_path: Path) -> None:
    folder, witness, _ = made
    told = convert(STAND_IN, folder, tmp_path / "a.gguf", "f32", "mine")
    assert 'cuts texts as "gpt-2" does' in told
    assert not failed(check_gguf(tmp_path / "a.gguf", folder, witness))


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("architecture", UserError, "does not know the architecture WarpForCausalLM"),
        ("package", UserError, "pip install sentencepiece"),
        ("tensor", UserError, "no place for the weight decoder.block.2.k.weight"),
        ("other", MachineError, "failed: KeyError: 'hidden_size'"),
    ],
)
def test_the_converters_words(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, kind: type[Exception], words: str
) -> None:
    monkeypatch.setenv("FAULT", fault)
    with pytest.raises(kind, match=words):
        convert(STAND_IN, made[0], tmp_path / "a.gguf", "f32", "mine")


def test_where_llama_cpp_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"not on PATH\. It comes with llama\.cpp's source .*git clone"):
        find_llama_cpp()
    with pytest.raises(UserError, match=r"--llama-cpp .*is no folder"):
        find_llama_cpp(tmp_path / "gone")
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    with pytest.raises(UserError, match=r"LLAMA_CPP .*has no convert_hf_to_gguf\.py"):
        find_llama_cpp()
    (tmp_path / "convert_hf_to_gguf.py").touch(mode=0o755)
    assert find_llama_cpp().server is None
    server = tmp_path / "build/bin/llama-server"
    server.parent.mkdir(parents=True)
    server.touch(mode=0o755)
    assert find_llama_cpp().server == server
    monkeypatch.delenv("LLAMA_CPP")
    assert find_llama_cpp().converter == tmp_path / "convert_hf_to_gguf.py"


@pytest.mark.skipif("LLAMA_CPP" not in os.environ, reason="LLAMA_CPP names no llama.cpp")
@pytest.mark.parametrize("outtype", ["f32", "q8_0"])
def test_the_real_llama_cpp(made: Made, tmp_path: Path, outtype: str) -> None:
    tools, (folder, witness, _) = find_llama_cpp(), made
    convert(tools, folder, tmp_path / "a.gguf", outtype, "mine")
    assert not failed(check_gguf(tmp_path / "a.gguf", folder, witness))
    if tools.server is not None:
        seen = check_served(tools.server, tmp_path / "a.gguf", witness)
        assert not failed(seen)
        assert seen[0].held
