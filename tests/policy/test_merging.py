"""Adapters: targets, tied weights, merging, and where the saved model's answers end."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from refine_rl.errors import UserError
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.settings import ModelSettings

MakeModel = Callable[..., Path]
IDS = torch.tensor([[5, 6, 7, 8]])


def settings(folder: Path | str, **changes: object) -> ModelSettings:
    usual: dict[str, Any] = {"name": str(folder), "dtype": "float32", "device": "cpu", "rank": 4}
    return ModelSettings(**{**usual, **changes})


def moved(policy: Policy, by: float = 0.05) -> torch.Tensor:
    """Other weights, as after a training; the logits with them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.trainable().values():
            p += by * torch.randn(p.shape, generator=generator)
        logits: torch.Tensor = policy.model(input_ids=IDS).logits
    return logits


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["q_proj", "v_porj"], r"'v_porj' is no layer of this model \(nearest: v_proj"),
        (["q_proj", "query", "attn.v_proj"], "'query' is no layer .*; 'attn.v_proj' is no layer"),
        (["all-linear"], "'all-linear' is no layer .* Its linear layers are down_proj, gate_proj"),
        (["q_proj", "input_layernorm"], "cannot have an adapter: .*input_layernorm|cannot have an adapter"),
        ([], "names no layer"),
    ],
)
def test_every_target_is_a_layer(make_model: MakeModel, targets: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_policy(settings(make_model("llama"), targets=targets))


def test_targets_by_the_end_of_their_names(make_model: MakeModel) -> None:
    policy = load_policy(settings(make_model("llama"), targets=["0.self_attn.q_proj", "v_proj"]))
    adapted = {n.split(".lora_A")[0].split("layers.")[1] for n in policy.trainable() if "lora_A" in n}
    assert adapted == {"0.self_attn.q_proj", "0.self_attn.v_proj", "1.self_attn.v_proj"}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # peft's, of the plain loading
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set")
@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("qwen3", ["lm_head"]),
        ("qwen3", ["embed_tokens"]),
        ("qwen3", ["embed_tokens", "lm_head", "q_proj"]),
        ("gpt2", ["lm_head", "c_attn"]),
        ("gpt2", ["wte"]),
    ],
)
def test_an_adapter_on_tied_weights(
    make_model: MakeModel, tmp_path: Path, kind: str, targets: list[str]
) -> None:
    """Merged, the model is untied, and to plain transformers the tuned one; so is the adapter to peft."""
    policy = load_policy(settings(make_model(kind, tie_word_embeddings=True), targets=targets))
    with policy.reference() as untrained:
        before = untrained.model(input_ids=IDS).logits
    tuned = moved(policy)
    assert not torch.allclose(before, tuned, atol=1e-2)
    policy.save_merged(tmp_path / "merged")
    merged, found = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", output_loading_info=True
    )
    assert not found["missing_keys"]
    assert merged.config.tie_word_embeddings is False
    torch.testing.assert_close(merged(input_ids=IDS).logits, tuned, rtol=1e-4, atol=1e-4)
    policy.save(tmp_path / "adapter")
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    assert all("lora_" in name for name in names)  # not the base's embeddings as well
    adapter = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(adapter(input_ids=IDS).logits, tuned, rtol=1e-4, atol=1e-4)
    # The policy itself is as it was: tied, with its adapter.
    torch.testing.assert_close(policy.model(input_ids=IDS).logits, tuned)
    with policy.reference() as untrained:
        torch.testing.assert_close(untrained.model(input_ids=IDS).logits, before)


def test_a_head_of_its_own_in_spite_of_the_configuration(make_model: MakeModel, tmp_path: Path) -> None:
    """The files decide, and what is saved says so."""
    folder = Path(shutil.copytree(make_model("llama", tie_word_embeddings=True), tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    policy = load_policy(settings(folder))
    tuned = moved(policy)
    policy.save_merged(tmp_path / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.config.tie_word_embeddings is False
    torch.testing.assert_close(merged(input_ids=IDS).logits, tuned, rtol=1e-4, atol=1e-4)
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(stored["lm_head.weight"], weights["lm_head.weight"])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_what_a_merge_loses_by_a_slow_twin(make_model: MakeModel, tmp_path: Path, kind: str) -> None:
    policy = load_policy(settings(make_model(kind), dtype="bfloat16"))
    moved(policy, 0.002)
    lost = policy.save_merged(tmp_path / "merged")
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    gone = change = 0.0
    for name, layer in policy.model.get_base_model().named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
        wanted = (b.double() @ a.double()) * layer.scaling["default"]
        if kind == "gpt2":
            wanted = wanted.T
        got = stored[f"{name}.weight"].double() - layer.base_layer.weight.double()
        gone += (wanted - got).square().sum().item()
        change += wanted.square().sum().item()
    assert 0.02 < lost < 0.9
    assert lost == pytest.approx(math.sqrt(gone / change), rel=1e-3)
    assert policy.save_merged(tmp_path / "whole", torch.float32) < 1e-4
    assert {v.dtype for v in load_file(tmp_path / "whole/model.safetensors").values()} == {torch.float32}


def test_a_start_in_bfloat16_says_what_it_lost(make_model: MakeModel, tmp_path: Path) -> None:
    first = load_policy(settings(make_model("llama")))
    moved(first, 0.0003)
    first.save(tmp_path / "adapter")
    for dtype, least, most in (("bfloat16", 0.3, 1.0), ("float32", 0.0, 1e-3)):
        start = load_policy(settings(tmp_path / "adapter", dtype=dtype)).start
        assert start is not None
        assert least <= start.lost <= most


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (peft.LoraConfig, {"r": 2, "use_dora": True}),
        (peft.LoraConfig, {"r": 2, "modules_to_save": ["lm_head"]}),
        (peft.LoraConfig, {"r": 2, "bias": "lora_only"}),
        (peft.IA3Config, {"feedforward_modules": []}),
    ],
)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_adapters_that_are_more(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, options: dict[str, Any]
) -> None:
    """Refused, with a command that makes a model of them which can be trained."""
    base = transformers.AutoModelForCausalLM.from_pretrained(make_model("llama"))
    config = kind(target_modules=["q_proj"], task_type="CAUSAL_LM", **options)
    adapted = peft.get_peft_model(base, config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, p in adapted.named_parameters():
            if "lora" in name or "ia3" in name or "modules_to_save" in name:
                torch.nn.init.normal_(p, mean=0.5, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    shutil.copy(make_model("llama") / "tokenizer.json", tmp_path / "adapter")
    shutil.copy(make_model("llama") / "tokenizer_config.json", tmp_path / "adapter")
    with pytest.raises(UserError, match="not LoRA matrices alone") as refused:
        load_policy(settings(tmp_path / "adapter"))
    command = str(refused.value).splitlines()[-1]
    python, flag, code = shlex.split(command)
    assert (python, flag) == ("python", "-c")
    monkeypatch.chdir(tmp_path)
    exec(code, {})  # noqa: S102 - a process of its own would take seconds to import
    merged = load_policy(settings(tmp_path / "merged"))
    wanted = adapted.eval()(input_ids=IDS).logits
    torch.testing.assert_close(merged.model(input_ids=IDS).logits, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`")
@pytest.mark.parametrize("own", [["q_proj", "down_proj"], ["gate_proj"], ["embed_tokens", "lm_head"]])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(("rslora", "tied"), [(True, False), (False, True)])
def test_a_start_of_another_shape(
    make_model: MakeModel, tmp_path: Path, own: list[str], rslora: bool, tied: bool
) -> None:
    """Another rank, scale and other layers than the run's: what is saved does both, for peft as it is, and
    comes back as two, to the bit."""
    base = transformers.AutoModelForCausalLM.from_pretrained(make_model("llama", tie_word_embeddings=tied))
    config = peft.LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=["q_proj", "up_proj", "embed_tokens"],
        rank_pattern={"up_proj": 2},
        use_rslora=rslora,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = peft.get_peft_model(base, config)
        for name, p in adapted.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:  # those that begin as zeros
                torch.nn.init.normal_(p, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    start = adapted.eval()(input_ids=IDS).logits
    how = settings(tmp_path / "adapter", targets=own)
    policy = load_policy(how)
    torch.testing.assert_close(policy.model(input_ids=IDS).logits, start, rtol=1e-4, atol=1e-4)
    tuned = moved(policy)
    policy.save(tmp_path / "both")
    plain = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "both")
    torch.testing.assert_close(plain(input_ids=IDS).logits, tuned, rtol=1e-4, atol=1e-4)
    again = load_policy(how, adapter_from=tmp_path / "both")
    for name, p in policy.trainable().items():
        assert torch.equal(p, again.trainable()[name]), name
    with again.reference() as reference:
        torch.testing.assert_close(reference.model(input_ids=IDS).logits, start, rtol=1e-4, atol=1e-4)
    file = tmp_path / "both" / "adapter_model.safetensors"
    whole = load_file(file)
    trained = next(key for key in whole if _own(key, own) and ("lora_A" in key or "embedding_A" in key))
    for part, words in (
        ({k: v for k, v in whole.items() if k != trained}, "1 weight missing: base_model"),
        ({**whole, trained: whole[trained][:-1].clone()}, "of another shape: base_model"),
    ):
        save_file(part, file)
        with pytest.raises(UserError, match=words):
            load_policy(how, adapter_from=tmp_path / "both")


def _own(key: str, targets: list[str]) -> bool:
    return any(f".{target}." in key for target in targets)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_embeddings_stored_whole_are_no_part_to_drop(make_model: MakeModel, tmp_path: Path) -> None:
    base = transformers.AutoModelForCausalLM.from_pretrained(make_model("llama"))
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(base, config)
    adapted.save_pretrained(tmp_path / "same", save_embedding_layers=True)
    load_policy(settings(tmp_path / "same"))
    with torch.no_grad():
        base.get_input_embeddings().weight[3] += 1
    adapted.save_pretrained(tmp_path / "other", save_embedding_layers=True)
    with pytest.raises(UserError, match="not LoRA matrices alone"):
        load_policy(settings(tmp_path / "other"))


def test_without_an_adapter_of_ours_a_start_is_trained_whole(make_model: MakeModel, tmp_path: Path) -> None:
    first = load_policy(settings(make_model("llama")))
    start = moved(first)
    first.save(tmp_path / "adapter")
    policy = load_policy(settings(tmp_path / "adapter", adapter="none"), keep_reference=True)
    torch.testing.assert_close(policy.model(input_ids=IDS).logits, start, rtol=1e-4, atol=1e-4)
    assert len(policy.trainable()) == len(list(policy.model.parameters()))
    tuned = moved(policy)
    assert not torch.allclose(tuned, start, atol=1e-2)
    with policy.reference() as reference:
        torch.testing.assert_close(reference.model(input_ids=IDS).logits, start, rtol=1e-4, atol=1e-4)


def test_an_adapter_whose_base_cannot_be_told(make_model: MakeModel, tmp_path: Path) -> None:
    load_policy(settings(make_model("llama"))).save(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    for base, words in (
        (None, "does not say of which model"),
        ("/no/such/folder", "there is no such folder"),
    ):
        file.write_text(json.dumps({**config, "base_model_name_or_path": base}))
        with pytest.raises(UserError, match=words):
            load_policy(settings(tmp_path / "adapter"))
    # A folder that lies in the adapter's own is found from there.
    shutil.copytree(make_model("llama"), tmp_path / "adapter" / "base")
    file.write_text(json.dumps({**config, "base_model_name_or_path": "base"}))
    load_policy(settings(tmp_path / "adapter"))
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no adapter_model.safetensors"):
        load_policy(settings(tmp_path / "adapter"))


@pytest.fixture
def learned(make_model: MakeModel, tmp_path: Path) -> Path:
    """A model whose template ends a turn with a token that nothing else calls a stop token, and that gives
    hints of sampling which transformers would not save anew."""
    folder = Path(shutil.copytree(make_model("llama"), tmp_path / "model"))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|end|>", "<|pad|>"))
    file = folder / "generation_config.json"
    hints = {"temperature": 0.6, "do_sample": False}
    file.write_text(json.dumps({**json.loads(file.read_text()), **hints}))
    return folder


@pytest.mark.filterwarnings("ignore:.*pad_token_id.*", "ignore:.*temperature.*")
@pytest.mark.parametrize("form", ["adapter", "merged", "none"])
def test_the_saved_model_ends_where_the_policy_ends(learned: Path, tmp_path: Path, form: str) -> None:
    """By plain transformers' own generate()."""
    policy = load_policy(settings(learned, adapter="none" if form == "none" else "lora"))
    stop = policy.tokenizer.convert_tokens_to_ids("<|pad|>")
    end = policy.tokenizer.convert_tokens_to_ids("<|end|>")
    assert policy.stop_ids == {stop, end}
    out = tmp_path / "out"
    if form == "merged":
        policy.save_merged(out)
    else:
        policy.save(out)
    saved = transformers.GenerationConfig.from_pretrained(out)
    assert saved.eos_token_id == [end, stop]
    if form == "adapter":
        model = peft.AutoPeftModelForCausalLM.from_pretrained(out)
        model.generation_config = saved  # as the model's card has it
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(out)
    always_stops(model, stop)
    prompt = torch.tensor([policy.encode([{"role": "user", "content": "hello"}])])
    answer = model.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :]
    assert answer.tolist() == [stop]


def always_stops(model: Any, token: int) -> None:
    """Makes `token` the likeliest everywhere."""
    head = (model.get_base_model() if hasattr(model, "peft_config") else model).get_output_embeddings()

    def lift(module: Any, given: Any, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[..., token] += 1000
        return logits

    head.register_forward_hook(lift)


def test_the_card_says_how_answers_end() -> None:
    from refine_rl.policy.card import Base, Trained, model_card
    from refine_rl.settings.file import settings_from_dict
    from refine_rl.types import Comparison

    estimate = {"mean": 0.5, "ci95": (0.4, 0.6)}
    from refine_rl.run.records import comparison_from

    comparison: Comparison = comparison_from(
        {
            "prompts": 5,
            "samples": 2,
            "base": estimate,
            "tuned": estimate,
            "difference": estimate,
            "verdict": "not better",
            "details": {},
            "examples": [],
        }
    )
    tables = {"task": "x", "model": {"name": "tiny"}, "reward": {"rules": [{"rule": "words", "max": 3}]}}
    card = model_card(
        settings_from_dict(tables, Path()),
        comparison,
        trained=Trained(step=3, taken=3),
        base=Base(id="", called="tiny"),
    )
    snippet = card.split("```python\n")[1].split("```")[0]
    compile(snippet, "card", "exec")
    assert 'model.generation_config = GenerationConfig.from_pretrained("THIS_FOLDER")' in snippet
