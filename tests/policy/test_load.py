"""Loading: templates, stop tokens, adapters, and refusals that name the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from make import trajectory
from refine_rl.errors import UserError
from refine_rl.policy.load import choose_dtype, load_policy
from refine_rl.policy.logprobs import logprobs
from refine_rl.policy.tokens import TokenBatch, token_batch
from refine_rl.settings import ModelSettings
from refine_rl.types import Segment

MakeModel = Callable[..., Path]


def settings(folder: Path | str, **changes: object) -> ModelSettings:
    return ModelSettings(**{"name": str(folder), "dtype": "float32", "device": "cpu", **changes})  # type: ignore[arg-type]


def test_own_template_and_stop_token(make_model: MakeModel) -> None:
    policy = load_policy(settings(make_model("llama")))
    ids = policy.encode([{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}])
    assert policy.tokenizer.decode(list(ids)) == "<|system|>be kind<|end|><|user|>hello<|end|><|assistant|>"
    assert policy.stop_ids == {policy.tokenizer.convert_tokens_to_ids("<|end|>")}


def test_a_plain_template_is_given_and_saved(make_model: MakeModel, tmp_path: Path) -> None:
    policy = load_policy(settings(make_model("llama", chat=False), adapter="none"))
    ids = policy.encode([{"role": "user", "content": "hello"}])
    assert policy.decode(ids) == "User: hello\nAssistant:"
    policy.save(tmp_path / "saved")
    again = load_policy(settings(tmp_path / "saved"))
    assert again.encode([{"role": "user", "content": "hello"}]) == ids


def test_the_end_of_turn_of_the_template_stops(make_model: MakeModel, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(make_model("llama"), folder)
    template = (folder / "chat_template.jinja").read_text()
    # This template ends a turn with a special token that nothing else calls a stop token.
    (folder / "chat_template.jinja").write_text(template.replace("<|end|>", "<|pad|>"))
    policy = load_policy(settings(folder))
    names = set(policy.tokenizer.convert_ids_to_tokens(sorted(policy.stop_ids)))
    assert names == {"<|end|>", "<|pad|>"}


def test_a_template_that_refuses_names_the_roles(make_model: MakeModel, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(make_model("llama"), folder)
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template = folder / "chat_template.jinja"
    template.write_text(refusal + template.read_text())
    policy = load_policy(settings(folder))
    with pytest.raises(UserError, match=r"system, user: .*no system role"):
        policy.encode([{"role": "system", "content": "x"}, {"role": "user", "content": "y"}])


def test_the_fresh_adapter_changes_nothing_and_depends_on_the_seed_alone(make_model: MakeModel) -> None:
    folder = make_model("llama")
    torch.manual_seed(123)
    first = load_policy(settings(folder), seed=1)
    torch.manual_seed(456)
    same = load_policy(settings(folder), seed=1)
    other = load_policy(settings(folder), seed=2)
    a, b, c = (dict(p.trainable()) for p in (first, same, other))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert any(not torch.equal(a[n], c[n]) for n in a)
    assert all("lora" in n for n in a)
    batch = one_row()
    with first.reference() as reference:
        untouched = logprobs(reference, batch)
    assert torch.equal(logprobs(first, batch), untouched)


def test_every_linear_layer_but_the_head_has_an_adapter(make_model: MakeModel) -> None:
    policy = load_policy(settings(make_model("llama")))
    adapted = {n.split(".lora_A")[0].rsplit(".", 1)[-1] for n in policy.trainable() if ".lora_A" in n}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def one_row() -> TokenBatch:
    return token_batch(
        [
            trajectory(
                "p",
                stop="length",
                segments=(
                    Segment(token_ids=(7, 8), trainable=False),
                    Segment(token_ids=(9, 10), trainable=True, logprobs=(0.0, 0.0)),
                    Segment(token_ids=(11,), trainable=False),
                    Segment(token_ids=(12,), trainable=True, logprobs=(0.0,)),
                ),
            )
        ]
    )


def test_masks_come_from_provenance(make_model: MakeModel) -> None:
    batch = one_row()
    assert batch.trainable.tolist() == [[False, False, True, True, False, True]]
    policy = load_policy(settings(make_model("llama")))
    new = logprobs(policy, batch).detach()
    table = policy.model(input_ids=batch.ids).logits.log_softmax(-1)[0].detach()
    expected = [0.0, 0.0, table[1, 9], table[2, 10], 0.0, table[4, 12]]
    assert new[0].tolist() == pytest.approx([float(x) for x in expected], abs=1e-5)


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_the_reference_is_the_untrained_model(make_model: MakeModel, adapter: str) -> None:
    policy = load_policy(settings(make_model("llama"), adapter=adapter), keep_reference=True)
    batch = one_row()
    before = logprobs(policy, batch).detach()
    with torch.no_grad():
        for p in policy.trainable().values():
            p += 0.1
    assert not torch.allclose(logprobs(policy, batch), before)
    with policy.reference() as reference:
        assert torch.equal(logprobs(reference, batch).detach(), before)


def test_saved_and_merged_models_are_the_policy(make_model: MakeModel, tmp_path: Path) -> None:
    import peft
    import transformers

    policy = load_policy(settings(make_model("llama")))
    with torch.no_grad():
        for p in policy.trainable().values():
            p += 0.05
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = policy.model(input_ids=ids).logits
    policy.save(tmp_path / "adapter")
    policy.save_merged(tmp_path / "merged")
    adapter = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(adapter(input_ids=ids).logits, expected)
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    # Merging works on a copy: the policy itself still has its adapter.
    with policy.reference():
        assert not torch.allclose(policy.model(input_ids=ids).logits, expected)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./no/such/folder", "no such folder"),
        ("nobody/no-model-of-this-name", "HF_HUB_OFFLINE=1 is set"),
    ],
)
def test_models_that_cannot_be_had(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_policy(settings(name))


def test_pickled_weights_are_refused(make_model: MakeModel, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(make_model("llama"), folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_policy(settings(folder))


def test_unknown_targets_name_the_layers_there_are(make_model: MakeModel) -> None:
    with pytest.raises(UserError, match="down_proj, gate_proj"):
        load_policy(settings(make_model("llama"), targets=["query"]))


def test_a_device_that_is_not_there(make_model: MakeModel) -> None:
    with pytest.raises(UserError, match="device = 'nonsense'"):
        load_policy(settings(make_model("llama"), device="nonsense"))


def test_dtype_is_detected_not_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    assert choose_dtype("auto", cpu) == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert choose_dtype("auto", cpu) == torch.bfloat16
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert choose_dtype("auto", cpu) == torch.float32
    assert choose_dtype("bfloat16", cpu) == torch.bfloat16
