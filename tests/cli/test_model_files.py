"""From the command line: models and adapters that would be loaded in part, others than the run's, merged."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

MakeModel = Callable[..., Path]
Refine = Callable[..., Any]
Weights = dict[str, torch.Tensor]
QUICK = ("--set", "grpo.steps=2", "--set", "prompts.validation=0", "--set", "grpo.checkpoint_every=1")


def change(file: Path, how: Callable[[Weights], Weights]) -> None:
    save_file(how(load_file(file)), file, metadata={"format": "pt"})


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {k: v for k, v in weights.items() if name not in k}


def renamed(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: {k.replace(old, new): v for k, v in weights.items()}


@pytest.fixture
def model(make_model: MakeModel, tmp_path: Path) -> Path:
    """A copy of a model that a test may spoil."""
    return Path(shutil.copytree(make_model("llama"), tmp_path / "model"))


@pytest.fixture
def run(trained: tuple[Path, SimpleNamespace], tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


@pytest.fixture
def own(refine: Refine, task: Path, model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A finished run of a model that may be changed, and that model."""
    done = refine("train", task, "--run", "own", *QUICK, "--set", f"model.name={model}")
    assert done.code == 0, done.err
    return tmp_path / "own", model


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without("layers.1.mlp.up_proj"), "1 weight missing: model.layers.1.mlp.up_proj.weight"),
        (
            renamed("q_proj", "query"),
            "2 weights missing: model.layers.0.self_attn.q_proj.weight, "
            "model.layers.1.self_attn.q_proj.weight; 2 weights too many: model.layers.0.self_attn.query",
        ),
        (lambda weights: {**weights, "v_head.weight": torch.zeros(3)}, "1 weight too many: v_head.weight"),
    ],
)
def test_a_base_model_in_part_is_not_trained(
    refine: Refine, task: Path, model: Path, spoil: Callable[[Weights], Weights], words: str
) -> None:
    change(model / "model.safetensors", spoil)
    ended = refine("train", task, "--run", "new", "--set", f"model.name={model}")
    assert ended.code == 2
    assert words in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without("layers.1.self_attn.v_proj.lora_B"), "1 weight missing: base_model.model.model.layers.1"),
        (renamed("base_model.model.", ""), "weights missing: base_model.model.model.layers.0"),
        (renamed("lora_A", "lora_C"), "weights too many: base_model.model.model.layers.0"),
        (
            lambda weights: {k: v[:2].clone() if "lora_A" in k else v for k, v in weights.items()},
            "weights of another shape: base_model.model.model.layers.0",
        ),
    ],
)
@pytest.mark.parametrize("command", ["eval", "export", "chat"])
def test_an_adapter_in_part_is_not_used(
    refine: Refine, run: Path, spoil: Callable[[Weights], Weights], words: str, command: str
) -> None:
    change(run / "model" / "adapter_model.safetensors", spoil)
    more = {"eval": [], "export": ["--merged", "--out", "out"], "chat": []}[command]
    ended = refine(command, run, *more, stdin="hello\n")
    assert ended.code == 2
    assert words in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
    assert not Path("out").exists()
    assert not list((run / "evaluations").glob("eval*"))


def test_a_torn_model_is_written_again(refine: Refine, run: Path) -> None:
    """As the refusal says."""
    file = run / "model" / "adapter_model.safetensors"
    whole = file.read_bytes()
    for spoil in (lambda: file.write_bytes(whole[:3000]), lambda: change(file, without("layers.1."))):
        spoil()
        ended = refine("eval", run)
        assert ended.code == 2
        assert f"The run writes it again, from its best checkpoint: refine train --resume {run}" in ended.err
        copied = refine("export", run, "--out", "out")
        assert (copied.code, Path("out").exists()) == (2, False)
        assert f"{run / 'model'} is not as the run wrote it. The run writes it again" in copied.err
        assert refine("train", "--resume", run).code == 0
        assert file.read_bytes() == whole
        assert refine("chat", run).code == 0


def test_the_base_of_a_finished_run_in_part(refine: Refine, own: tuple[Path, Path]) -> None:
    """Runs without a fingerprint, as older versions wrote them, are not served by a made-up base either."""
    run, model = own
    forget_fingerprint(run)
    change(model / "model.safetensors", without("layers.0.mlp.down_proj"))
    for command in (["eval", run], ["export", run, "--merged", "--out", "out"], ["chat", run]):
        ended = refine(*command)
        assert ended.code == 2
        assert "missing: model.layers.0.mlp.down_proj.weight" in ended.err


def test_an_adapter_is_the_start(refine: Refine, task: Path, run: Path, tmp_path: Path) -> None:
    """A run's model/ is an adapter alone. Trained on, it is where the next run starts, and what the next
    run's base answers come from; what that leaves behind is one adapter for the plain model."""
    import peft
    import transformers

    first = peft.AutoPeftModelForCausalLM.from_pretrained(run / "model").eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    done = refine("train", task, "--run", "next", *QUICK, "--set", f"model.name={run / 'model'}")
    assert done.code == 0, done.err
    before, after = (json.loads((p / "comparison.json").read_text()) for p in (run, tmp_path / "next"))
    assert after["base"]["mean"] == pytest.approx(before["tuned"]["mean"], abs=0.02)
    assert after["base"]["mean"] > before["base"]["mean"] + 0.05

    from refine_rl.pipeline.weights import open_model
    from refine_rl.run import RunFolder

    _, policy = open_model(RunFolder.open(tmp_path / "next"))
    tuned = policy.model(input_ids=ids).logits
    with policy.reference() as start:
        torch.testing.assert_close(start.model(input_ids=ids).logits, first(input_ids=ids).logits)
    assert not torch.allclose(tuned, first(input_ids=ids).logits, atol=1e-3)
    as_it_is = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "next" / "model").eval()
    torch.testing.assert_close(as_it_is(input_ids=ids).logits, tuned, rtol=1e-4, atol=1e-4)
    assert refine("export", "next", "--merged", "--out", "merged").code == 0
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged(input_ids=ids).logits, tuned, rtol=1e-4, atol=1e-4)
    assert refine("replay", "next", "--step", "1").code == 0
    assert refine("chat", "next", stdin="hello\n").code == 0
    edit(run / "model/adapter_config.json", '"lora_alpha": 32.0', '"lora_alpha": 16.0')
    assert "other are: adapter." in refine("chat", "next", stdin="hello\n").err


def test_a_run_is_no_model_but_has_one(refine: Refine, task: Path, run: Path) -> None:
    ended = refine("train", task, "--run", "new", "--set", f"model.name={run}")
    assert ended.code == 2
    assert f"Where it is a run, name its model: {run / 'model'}." in " ".join(ended.err.split())


def test_a_model_with_an_adapter_beside_it(refine: Refine, task: Path, run: Path, model: Path) -> None:
    """Refused; the command that it is refused with makes an adapter of it that can be trained on."""
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(run / "model" / file, model / file)
    ended = refine("train", task, "--run", "new", *QUICK, "--set", f"model.name={model}")
    assert ended.code == 2
    assert "holds a model and an adapter" in ended.err
    command = next(line for line in ended.err.splitlines() if line.startswith("python -c"))
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True)
    assert not (model / "adapter_config.json").exists()
    done = refine("train", task, "--run", "new", *QUICK, "--set", f"model.name={model}-adapter")
    assert done.code == 0, done.err
    started = json.loads(Path("new/comparison.json").read_text())["base"]["mean"]
    assert started == pytest.approx(
        json.loads((run / "comparison.json").read_text())["tuned"]["mean"], abs=0.02
    )


def forget_fingerprint(run: Path) -> None:
    """As an older version wrote it."""
    file = run / "config.toml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("model = {")]
    assert len(lines) < len(file.read_text().splitlines())
    file.write_text("\n".join(lines) + "\n")


def nudge(model: Path) -> None:
    def by_a_hair(weights: Weights) -> Weights:
        weights["model.norm.weight"][3] += 1e-4
        return weights

    change(model / "model.safetensors", by_a_hair)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("alter", "part"),
    [
        (nudge, "weights"),
        (lambda m: edit(m / "tokenizer_config.json", '"<|pad|>"', '"<|user|>"'), "tokenizer"),
        (lambda m: edit(m / "chat_template.jinja", "<|end|>", "<|end|> "), "chat template"),
        (
            lambda m: edit(m / "config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'),
            "configuration",
        ),
    ],
)
def test_another_model_than_the_runs_is_refused(
    refine: Refine, own: tuple[Path, Path], alter: Callable[[Path], None], part: str
) -> None:
    run, model = own
    kept = {file.name: file.read_bytes() for file in model.iterdir()}
    alter(model)
    for command in (
        ["train", "--resume", run],
        ["eval", run],
        ["replay", run, "--step", "1"],
        ["export", run, "--out", "out"],
        ["export", run, "--out", "out", "--merged"],
        ["chat", run],
    ):
        ended = refine(*command, stdin="hello\n")
        assert ended.code == 2, command
        assert f"other are: {part}." in " ".join(ended.err.split())
        assert "Put its files back; or start a new run." in " ".join(ended.err.split())
    for name, content in kept.items():
        (model / name).write_bytes(content)
    assert refine("replay", run, "--step", "1").code == 0


def test_a_stopped_run_with_another_model_starts_over(refine: Refine, own: tuple[Path, Path]) -> None:
    run, model = own
    shutil.rmtree(run / "model")
    for file in ("evaluations/tuned.jsonl", "comparison.json"):
        (run / file).unlink()
    then = (run / "config.toml").read_text()
    nudge(model)
    ended = refine("train", "--resume", run)
    assert ended.code == 2
    way_out = f"start the training over: refine train --resume {run} --from-step 0"
    assert way_out in " ".join(ended.err.split())
    assert (run / "config.toml").read_text() == then
    assert refine("train", "--resume", run, "--from-step", "0").code == 0
    assert (run / "config.toml").read_text() != then
    assert refine("replay", run, "--step", "1").code == 0


def test_a_run_without_a_fingerprint_works(refine: Refine, run: Path) -> None:
    forget_fingerprint(run)
    assert refine("replay", run, "--step", "1").code == 0
    assert refine("train", "--resume", run).code == 0
    assert "model = {" in (run / "config.toml").read_text()  # from here on it is known


def test_a_merge_that_rounds_away_the_update(refine: Refine, run: Path, tmp_path: Path) -> None:
    import peft
    import transformers

    def fainter(weights: Weights) -> Weights:
        return {k: v * 1e-3 if "lora_B" in k else v for k, v in weights.items()}

    change(run / "model/adapter_model.safetensors", fainter)
    lossy = refine("export", run, "--merged", "--dtype", "bfloat16", "--out", "lossy")
    assert lossy.code == 0
    assert "of what training changed" in lossy.err
    assert "--merged --dtype float32" in lossy.err
    exact = refine("export", run, "--merged", "--dtype", "float32", "--out", "exact")
    assert exact.code == 0
    assert "of what training changed" not in exact.err
    ids = torch.tensor([[5, 6, 7, 8]])
    tuned = peft.AutoPeftModelForCausalLM.from_pretrained(run / "model")(input_ids=ids).logits
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exact")
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged(input_ids=ids).logits, tuned, rtol=1e-5, atol=1e-5)
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "lossy").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dtype", "float32"], "goes with --merged"),
        (["--merged", "--dtype", "int8"], "float32 or bfloat16"),
    ],
)
def test_number_formats_that_are_none(refine: Refine, run: Path, options: list[str], words: str) -> None:
    ended = refine("export", run, "--out", "out", *options)
    assert ended.code == 2
    assert words in ended.err


def test_a_context_that_is_too_small(refine: Refine, task: Path, make_model: MakeModel) -> None:
    for reads, words in (
        (8, "leaves no room for a prompt: the model reads 8 tokens in all"),
        (
            20,
            "45 prompts set aside: longer than 10 tokens (the model's context less rollout.max_tokens). ",
        ),
    ):
        model = make_model("llama", max_position_embeddings=reads)
        ended = refine("train", task, "--run", "new", "--set", f"model.name={model}")
        assert ended.code == 2
        assert words in " ".join(ended.err.split())
        assert not Path("new").exists()
    longer = "The model reads 20 tokens, prompt and answer together: lower rollout.max_tokens (10)"
    assert longer in " ".join(ended.err.split())
    short = refine("train", task, "--run", "new", "--set", "prompts.max_tokens=3")
    assert short.code == 2
    assert "Raise prompts.max_tokens (3)" in " ".join(short.err.split())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "is quantised (gptq)"),
        ({"model_type": "warp_drive"}, "model_type = 'warp_drive'"),
        ({"model_type": "vit"}, "is a kind of model that does not write"),
        ({"num_attention_heads": 5}, "not a multiple"),
    ],
)
def test_plan_and_train_refuse_alike(
    refine: Refine, task: Path, model: Path, changes: dict[str, Any], words: str
) -> None:
    file = model / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    for command in (["plan", task], ["train", task, "--run", "new"]):
        ended = refine(*command, "--set", f"model.name={model}")
        assert ended.code == 2
        assert words in " ".join(ended.err.split())
        assert "Traceback" not in ended.err
    assert not Path("new").exists()


def test_a_target_that_is_no_layer(refine: Refine, task: Path) -> None:
    for command in (["plan", task], ["train", task, "--run", "new"]):
        ended = refine(*command, "--set", 'model.targets=["q_proj", "v_porj"]')
        assert ended.code == 2
        assert "'v_porj' is no layer of this model (nearest: v_proj" in " ".join(ended.err.split())


def test_a_run_with_an_adapter_on_tied_words(
    refine: Refine, task: Path, make_model: MakeModel, tmp_path: Path
) -> None:
    """Trained, merged and asked by plain transformers: the answers are the tuned model's."""
    import transformers

    from refine_rl.pipeline.weights import open_model
    from refine_rl.run import RunFolder

    model = make_model("qwen3", tie_word_embeddings=True)
    named = ("--set", f"model.name={model}", "--set", 'model.targets=["embed_tokens", "lm_head"]')
    done = refine("train", task, "--run", "tied", *QUICK, *named)
    assert done.code == 0, done.err
    assert refine("export", "tied", "--merged", "--out", "merged").code == 0
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    _, policy = open_model(RunFolder.open(tmp_path / "tied"))
    ids = torch.tensor([[5, 6, 7, 8]])
    tuned = policy.model(input_ids=ids).logits
    torch.testing.assert_close(merged(input_ids=ids).logits, tuned, rtol=1e-4, atol=1e-4)
    with policy.reference() as untrained:
        assert not torch.allclose(untrained.model(input_ids=ids).logits, tuned, atol=1e-3)
    assert refine("replay", "tied", "--step", "2").code == 0


def test_stop_tokens_stand_in_model_and_export(
    refine: Refine, task: Path, model: Path, tmp_path: Path
) -> None:
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|end|>", "<|pad|>"))
    done = refine("train", task, "--run", "run", *QUICK, "--set", f"model.name={model}")
    assert done.code == 0, done.err
    assert refine("export", "run", "--out", "adapter").code == 0
    assert refine("export", "run", "--merged", "--out", "merged").code == 0
    for folder in ("run/model", "adapter", "merged"):
        stops = json.loads((tmp_path / folder / "generation_config.json").read_text())["eos_token_id"]
        assert stops == [0, 1], folder
