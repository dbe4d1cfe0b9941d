"""Folders that are no model to train: each is refused in plain words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from refine_rl.errors import MachineError, UserError
from refine_rl.policy.fetch import fetch
from refine_rl.policy.load import load_policy
from refine_rl.settings import ModelSettings

MakeModel = Callable[..., Path]
Spoil = Callable[[Path], object]


def settings(folder: Path | str, **changes: object) -> ModelSettings:
    return ModelSettings(**{"name": str(folder), "dtype": "float32", "device": "cpu", **changes})  # type: ignore[arg-type]


def put(file: str, **changes: Any) -> Spoil:
    """Keys of a JSON file, given other values; None takes one away."""

    def spoil(folder: Path) -> None:
        old = json.loads((folder / file).read_text())
        new = {k: v for k, v in {**old, **changes}.items() if v is not None}
        (folder / file).write_text(json.dumps(new))

    return spoil


def write(file: str, text: str) -> Spoil:
    return lambda folder: (folder / file).write_text(text)


def cut(file: str, size: int) -> Spoil:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size])


def take_away(*files: str) -> Spoil:
    return lambda folder: [(folder / file).unlink() for file in files]


def in_parts(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


QUANTISED: dict[str, Any] = {"bits": 4, "load_in_4bit": True}
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n"
ONLY_QUESTIONS = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"

CASES: dict[str, tuple[Spoil, str]] = {
    "weights that were cut off": (cut("model.safetensors", 5000), "model.safetensors is damaged or was cut"),
    "empty weights": (cut("model.safetensors", 0), "model.safetensors is damaged or was cut"),
    "a pointer": (write("model.safetensors", LFS), "model.safetensors is a Git LFS pointer"),
    "a tokenizer's pointer": (write("tokenizer.json", LFS), "tokenizer.json is a Git LFS pointer"),
    "a part that is not there": (in_parts, "names model-00002-of-00002.safetensors, which is not there"),
    "no weights": (take_away("model.safetensors"), "The folder needs config.json"),
    "no configuration": (take_away("config.json"), "The folder needs config.json"),
    "half a configuration": (
        write("config.json", '{"model_type": '),
        r"config.json is damaged: it is no JSON",
    ),
    "a list of stop tokens": (write("generation_config.json", "[]"), "generation_config.json is damaged"),
    "half of the stop tokens": (write("generation_config.json", "{"), "generation_config.json is damaged"),
    "an architecture of tomorrow": (
        put("config.json", model_type="warp_drive"),
        "model_type = 'warp_drive', which transformers .* does not know",
    ),
    "no architecture": (put("config.json", model_type=None), "model_type"),
    "a model of pictures": (
        put("config.json", model_type="vit"),
        "ViT is a kind of model that does not write",
    ),
    "code of its own": (
        put("config.json", model_type="own", auto_map={"AutoConfig": "own.Config"}),
        "no such code is run here",
    ),
    "heads that do not divide": (put("config.json", num_attention_heads=5), "not a multiple of the number"),
    "a size in words": (put("config.json", hidden_size="32"), "hidden_size' expected int"),
    "an unknown activation": (
        put("config.json", hidden_act="nonsense"),
        "name 'nonsense', which transformers",
    ),
    "an unknown number format": (put("config.json", dtype="float99"), "no attribute 'float99'"),
    "a package that is not there": (
        put("config.json", _attn_implementation="flash_attention_2"),
        "Install that package",
    ),
    "no tokenizer": (take_away("tokenizer.json", "tokenizer_config.json"), "its tokenizer cannot be made"),
    "half a tokenizer": (cut("tokenizer.json", 300), "tokenizer.json is damaged: it is no JSON"),
    "a tokenizer of tomorrow": (put("tokenizer.json", model={"type": "Warp"}), "tokenizers .* does not read"),
    "another kind of tokenizer": (
        put("tokenizer_config.json", tokenizer_class="T5Tokenizer"),
        "transformers cannot use its files",
    ),
    "a template without an answer": (
        write("chat_template.jinja", ONLY_QUESTIONS),
        "leaves out the assistant's words: a conversation of user, assistant becomes 'hello'",
    ),
    "a template without a question": (write("chat_template.jinja", "x"), "leaves out the user's words"),
    **{
        f"quantised by {method}": (
            put("config.json", quantization_config={**QUANTISED, "quant_method": method}),
            rf"is quantised \({method}\)",
        )
        for method in ("gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors", "mxfp4")
    },
}


@pytest.mark.parametrize("case", CASES)
def test_no_model_to_train(make_model: MakeModel, tmp_path: Path, case: str) -> None:
    spoil, words = CASES[case]
    folder = Path(shutil.copytree(make_model("llama"), tmp_path / "model"))
    spoil(folder)
    with pytest.raises(UserError, match=words):
        load_policy(settings(folder))


@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "llama"])
def test_a_tokenizer_made_of_nothing(make_model: MakeModel, tmp_path: Path, kind: str) -> None:
    """Of an architecture alone, without a file, transformers makes a tokenizer that knows no word."""
    folder = Path(shutil.copytree(make_model(kind), tmp_path / "model"))
    take_away("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")(folder)
    with pytest.raises(UserError, match=r"tokenizer.json"):
        load_policy(settings(folder))


@pytest.mark.parametrize("special", [True, False])
def test_a_token_that_the_model_does_not_know(make_model: MakeModel, tmp_path: Path, special: bool) -> None:
    """Where any text may hold it, or the template does. One more that nothing uses does no harm: published
    models have it."""
    import transformers

    folder = Path(shutil.copytree(make_model("llama"), tmp_path / "model"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image>"], special_tokens=special)
    tokenizer.save_pretrained(folder)
    if special:
        load_policy(settings(folder))
        template = (folder / "chat_template.jinja").read_text()
        (folder / "chat_template.jinja").write_text("<image>" + template)
    words = r"1 tokens that the model does not know: its embedding has 297 rows, and '<image>' \(297\)"
    with pytest.raises(UserError, match=words):
        load_policy(settings(folder))


def test_a_model_that_sees_what_follows(make_model: MakeModel, tmp_path: Path) -> None:
    """transformers loads BERT as a causal model, and only remarks that it is none."""
    import transformers

    folder = Path(shutil.copytree(make_model("llama"), tmp_path / "model"))
    config = transformers.BertConfig(
        vocab_size=297, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.BertForMaskedLM(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"\(bert\) lets a token see what follows it"):
        load_policy(settings(folder))


def test_memory_and_disk_are_not_the_users_mistake() -> None:
    class Fails:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def from_pretrained(self, source: str, **options: object) -> None:
            raise self.error

    with pytest.raises(MachineError, match="No space left"):
        fetch(Fails(OSError(28, "No space left on device")), "some/model")
    with pytest.raises(MemoryError):
        fetch(Fails(MemoryError()), "some/model")
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        fetch(Fails(RuntimeError("DefaultCPUAllocator: can't allocate memory")), "some/model")


@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "gemma3_text"])
def test_a_tied_head_is_not_missing(make_model: MakeModel, kind: str) -> None:
    from safetensors import safe_open

    folder = make_model(kind, tie_word_embeddings=True)
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert not any("lm_head" in name for name in weights.keys())  # noqa: SIM118 - no mapping
    load_policy(settings(folder))


def test_a_saved_value_head_is_told_apart_from_what_transformers_ignores(
    make_model: MakeModel, tmp_path: Path
) -> None:
    """GPT-2's masks, which old files have, are no weights; nor is any other buffer of the model's own."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(make_model("gpt2"), tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 256, 256)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    load_policy(settings(folder))
    llama = Path(shutil.copytree(make_model("llama"), tmp_path / "llama"))
    rotations = load_file(llama / "model.safetensors")
    rotations["model.rotary_emb.original_inv_freq"] = torch.ones(4)
    save_file(rotations, llama / "model.safetensors", metadata={"format": "pt"})
    load_policy(settings(llama))
    weights["v_head.summary.weight"] = torch.ones(1, 32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 weight too many: v_head.summary.weight"):
        load_policy(settings(folder))
