"""Quantised bases: packed weights, the products that are ours, and what comes of an adapter on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from make import prompt, trajectory
from refine_rl.errors import SettingsError, UserError
from refine_rl.policy import lora, quantised
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy, require_model
from refine_rl.policy.logprobs import logprobs
from refine_rl.policy.lora import at_rest
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose, begun
from refine_rl.policy.quantised import quantised_layers, whole_weight
from refine_rl.policy.share import Share
from refine_rl.policy.tokens import token_batch
from refine_rl.settings import ModelSettings
from refine_rl.types import Segment, Trajectory

MakeModel = Callable[..., Path]
IDS = torch.tensor([[5, 6, 7, 8]])
WIDE = {"hidden_size": 64, "intermediate_size": 128}


def settings(folder: Path | str, **changes: object) -> ModelSettings:
    usual: dict[str, Any] = {"name": str(folder), "dtype": "float32", "device": "cpu", "rank": 4}
    return ModelSettings(**{**usual, "adapter": "qlora", **changes})


def moved(policy: Policy, by: float = 0.05) -> torch.Tensor:
    """Other weights, as after a training; the logits with them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.trainable().values():
            p += by * torch.randn(p.shape, generator=generator)
        logits: torch.Tensor = policy.model(input_ids=IDS).logits
    return logits


def answers(policy: Policy, prompts: int = 3, members: int = 4) -> list[Trajectory]:
    asked = [prompt(f"p{n}", text=" ".join(["hello"] * (n + 1))) for n in range(prompts)]
    spoken = policy.speak(
        [begun(policy.encode(p.messages), p, members) for p in asked],
        sampling=Sampling(temperature=1.0, max_tokens=12),
        purpose=Purpose(seed=0, step=1, name="test"),
    )
    return [t for _, group in sorted(spoken) for t in group]


def bytes_of(policy: Policy) -> int:
    return sum(p.numel() * p.element_size() for p in policy.model.get_base_model().parameters())


@pytest.mark.parametrize(("bits", "dtype"), [(4, torch.uint8), (8, torch.int8)])
def test_the_layers_hold_so_many_bits(make_model: MakeModel, bits: int, dtype: torch.dtype) -> None:
    """And their whole weights are the files', rounded: NF4 by a tenth of their size, a row's int8 by a
    hundredth; the head and the embeddings are not touched."""
    folder = make_model("llama", **WIDE)
    policy = load_policy(settings(folder, bits=bits))
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    layers = dict(quantised_layers(policy.model))
    assert len(layers) == 14
    for name, layer in layers.items():
        assert layer.weight.dtype == dtype
        wanted = plain.get_submodule(
            name.removeprefix("base_model.model.").removesuffix(".base_layer")
        ).weight
        got = whole_weight(layer)
        off = float((got - wanted).detach().norm() / wanted.detach().norm())
        assert got.shape == wanted.shape
        assert (0.05 < off < 0.12) if bits == 4 else (1e-3 < off < 0.02)
    bare = policy.model.get_base_model()
    assert torch.equal(bare.lm_head.weight, plain.lm_head.weight)
    linear = sum(layer.in_features * layer.out_features for layer in layers.values())
    adapter = sum(p.numel() for p in policy.trainable().values())
    assert policy.share == Share(trained=adapter, whole=plain.num_parameters() + adapter)
    assert load_policy(settings(folder, adapter="lora")).share == policy.share
    assert load_policy(settings(folder, adapter="none")).share.text.endswith("parameters are trained (100 %)")
    assert (
        bytes_of(load_policy(settings(folder, adapter="lora"))) - bytes_of(policy)
        == linear * (32 - bits) // 8
    )
    assert all(p.dtype == torch.float32 and "lora" in n for n, p in policy.trainable().items())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"]])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sampler_and_trainer_are_one_model(
    make_model: MakeModel, bits: int, targets: Any, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights unpacked once, and for every token; with prompts shared, and without."""
    policy = load_policy(settings(make_model("llama"), bits=bits, targets=targets, dtype=dtype))
    moved(policy)
    assert policy.why_plain == ""
    said = answers(policy)
    batch = token_batch(said)
    new = policy.logprobs(batch, temperature=1.0).detach()
    old = torch.tensor([p for t in said for s in t.segments if s.trainable for p in s.logprobs])
    off = (new[batch.trainable] - old).abs().mean()
    assert float(off) <= policy.tolerance
    monkeypatch.setattr(lora, "UNPACKED_BYTES", 0)
    again = answers(policy)
    if dtype == "float32":
        assert [t.segments[1].token_ids for t in again] == [t.segments[1].token_ids for t in said]
    policy.use_fast = False
    torch.testing.assert_close(
        policy.logprobs(batch, temperature=1.0).detach(),
        new,
        rtol=1e-4 if dtype == "float32" else 0.05,
        atol=1e-4 if dtype == "float32" else 0.1,
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_gradients_by_a_slow_twin(make_model: MakeModel, bits: int) -> None:
    """Those of the same model with its weights unpacked into ordinary layers, and peft's own product; also
    after tokens were sampled, when the libraries' product would have lost them."""
    policy = load_policy(settings(make_model("llama"), bits=bits))
    moved(policy)
    batch = token_batch(answers(policy))
    got = torch.autograd.grad(logprobs(policy, batch).sum(), [*policy.trainable().values()])
    twin = load_policy(settings(make_model("llama"), bits=bits))
    moved(twin)
    quantised.unquantise(twin.model)
    assert not list(quantised_layers(twin.model))
    for layer in twin.model.modules():
        if hasattr(layer, "whole"):
            del layer.forward  # peft's own again
    twin.use_fast = False
    wanted = torch.autograd.grad(logprobs(twin, batch).sum(), [*twin.trainable().values()])
    assert all(float(g.abs().max()) > 0 for g in wanted)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_nothing_is_kept_of_what_was_unpacked(make_model: MakeModel) -> None:
    policy = load_policy(settings(make_model("llama"), targets=["q_proj"]))
    before = bytes_of(policy)
    with at_rest(policy.model):
        assert all(layer.unpacked is not None or "q_proj" in n for n, layer in quantised_layers(policy.model))
    assert all(layer.unpacked is None for _, layer in quantised_layers(policy.model))
    assert bytes_of(policy) == before


@pytest.mark.parametrize("bits", [4, 8])
def test_the_reference_is_the_quantised_base(make_model: MakeModel, bits: int) -> None:
    policy = load_policy(settings(make_model("llama"), bits=bits))
    with torch.no_grad():
        before = policy.model(input_ids=IDS).logits
        moved(policy)
        with policy.reference() as reference:
            assert torch.equal(reference.model(input_ids=IDS).logits, before)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set")  # peft's, of the plain loading
@pytest.mark.parametrize(("kind", "bits"), [("llama", 4), ("llama", 8), ("gpt2", 4), ("gpt2", 8)])
def test_what_is_saved(make_model: MakeModel, tmp_path: Path, kind: str, bits: int) -> None:
    """The adapter comes back to the bit, and peft puts it on the plain base as well; merged, an ordinary
    model computes what the policy did."""
    policy = load_policy(settings(make_model(kind), bits=bits))
    tuned = moved(policy)
    policy.save(tmp_path / "adapter")
    again = load_policy(settings(make_model(kind), bits=bits), adapter_from=tmp_path / "adapter")
    assert torch.equal(again.model(input_ids=IDS).logits, tuned)
    plain = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    upon_plain = load_policy(settings(make_model(kind), adapter="lora"), adapter_from=tmp_path / "adapter")
    wanted = upon_plain.model(input_ids=IDS).logits
    torch.testing.assert_close(plain(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.equal(wanted, tuned)
    policy.save_merged(tmp_path / "merged")
    merged, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert getattr(merged.config, "quantization_config", None) is None
    assert {v.dtype for v in load_file(tmp_path / "merged/model.safetensors").values()} == {torch.float32}
    torch.testing.assert_close(merged.eval()(input_ids=IDS).logits, tuned, rtol=1e-4, atol=1e-4)
    # A copy was merged: the policy itself is as it was.
    assert torch.equal(policy.model(input_ids=IDS).logits, tuned)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_start_is_merged_before_the_base_is_quantised(
    make_model: MakeModel, tmp_path: Path, bits: int
) -> None:
    """So the packed weights are those of the sum; and what is saved does both upon the plain base."""
    first = load_policy(settings(make_model("llama"), adapter="lora"))
    moved(first)
    first.save(tmp_path / "first")
    policy = load_policy(settings(tmp_path / "first", bits=bits))
    assert policy.start is not None
    assert policy.start.lost < 1e-3
    first.save_merged(tmp_path / "whole")
    direct = load_policy(settings(tmp_path / "whole", bits=bits))
    for (_, one), (_, other) in zip(
        quantised_layers(policy.model), quantised_layers(direct.model), strict=True
    ):
        assert float((whole_weight(one) - whole_weight(other)).abs().max()) < 2e-3
    tuned = moved(policy)
    policy.save(tmp_path / "second")
    again = load_policy(settings(tmp_path / "first", bits=bits), adapter_from=tmp_path / "second")
    assert torch.equal(again.model(input_ids=IDS).logits, tuned)
    plain = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "second").eval()
    unpacked = load_policy(settings(tmp_path / "first", adapter="lora"), adapter_from=tmp_path / "second")
    wanted = unpacked.model(input_ids=IDS).logits
    torch.testing.assert_close(plain(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-4)


def test_without_the_extra(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    for load in (load_policy, require_model):
        with pytest.raises(SettingsError, match=r'pip install "refine-rl\[qlora\]"'):
            load(settings(make_model("llama")))


def test_targets_of_a_quantised_base(make_model: MakeModel) -> None:
    with pytest.raises(UserError, match=r"'v_porj' is no layer of this model \(nearest: v_proj"):
        load_policy(settings(make_model("llama"), targets=["q_proj", "v_porj"]))


def test_layers_computed_again(make_model: MakeModel) -> None:
    """Gradient checkpointing gives the same gradients to the bit."""
    found = []
    for again in (False, True):
        policy = load_policy(settings(make_model("llama"), gradient_checkpointing=again))
        moved(policy)
        batch = token_batch(answers(policy))
        found.append(torch.autograd.grad(logprobs(policy, batch).sum(), [*policy.trainable().values()]))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def losses(adapter: str, bits: int = 4, steps: int = 8) -> list[float]:
    """Of an adapter on the bundled model that learns a sentence: mean -log-prob a token, before each step."""
    model = ModelSettings(name="tiny", adapter=adapter, bits=bits, dtype="float32", device="cpu")  # type: ignore[arg-type]
    policy = load_policy(model, seed=3)
    asked = Segment(
        token_ids=policy.encode([{"role": "user", "content": "Say it politely."}]), trainable=False
    )
    words = policy.encode_words("Would you be so kind as to close the door of the museum?")
    said = Segment(token_ids=words, trainable=True, logprobs=(0.0,) * len(words))
    batch = token_batch([trajectory("p", stop="length", segments=(asked, said))])
    optimizer = torch.optim.AdamW(policy.trainable().values(), lr=1e-3)
    found = []
    for _ in range(steps):
        loss = -policy.logprobs(batch, temperature=1.0).sum() / len(words)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def test_it_learns_as_upon_whole_weights() -> None:
    """Of 8 bits the losses are those of float32 within 0.03; those of 4 bits begin where the rounding of a
    small model's weights puts them, and fall by as much within 0.03."""
    whole, eight, four = losses("lora"), losses("qlora", 8), losses("qlora", 4)
    assert whole[-1] < 0.7 * whole[0]
    assert max(abs(a - b) for a, b in zip(whole, eight, strict=True)) < 0.03
    assert max(abs((a - whole[0]) - (b - four[0])) for a, b in zip(whole, four, strict=True)) < 0.03
