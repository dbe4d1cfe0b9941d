"""Rotary positions that follow the length of a batch, held still: no text depends on its neighbours."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from make import prompt
from refine_rl.envs.play import sample
from refine_rl.errors import GuardStop
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.logprobs import logprobs, plain_logprobs
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose
from refine_rl.policy.tokens import token_batch
from refine_rl.settings import ModelSettings, Settings
from refine_rl.training import check
from refine_rl.training.grpo.setup import learner_of
from refine_rl.types import Prompt, Trajectory

MakeModel = Callable[..., Path]
FIRST = 64  # tokens that the model was first trained for
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": FIRST,
    "factor": 4.0,
}
BOTH = {"full_attention": LONGROPE, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "longrope": ("llama", {"rope_parameters": LONGROPE}),
    "by layer": ("gemma3_text", {"rope_parameters": BOTH, "layer_types": ["full_attention"] * 2}),
}
SHORT = prompt("short", "hi")
LONG = prompt("long", "zq " * 30)
PURPOSE = Purpose(seed=3, step=7, name="rollout")


def policy_of(make_model: MakeModel, which: str = "longrope", **changes: Any) -> Policy:
    kind, options = KINDS[which]
    settings = ModelSettings(name=str(make_model(kind, **options)), dtype="float32", device="cpu", **changes)
    return load_policy(settings, keep_reference=True)


def of(policy: Policy, prompts: list[Prompt], tokens: int = 8) -> list[Trajectory]:
    groups = sample(
        policy, prompts, members=2, sampling=Sampling(max_tokens=tokens, temperature=0.8), purpose=PURPOSE
    )
    return [t for group in groups for t in group]


@pytest.mark.parametrize("longest", [50, 200])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("which", KINDS)
def test_a_text_does_not_depend_on_its_neighbours(
    make_model: MakeModel, which: str, fast: bool, longest: int
) -> None:
    policy = replace(policy_of(make_model, which), use_fast=fast)
    assert (policy.fast is not None) == fast, policy.why_plain
    assert policy.moving == "longrope"
    assert policy.hold_still(longest) == (longest > FIRST)
    assert policy.moving == ""
    alone, together = of(policy, [SHORT]), of(policy, [SHORT, LONG])
    assert len(together[2].segments[0].token_ids) > FIRST
    for a, b in zip(alone, together[:2], strict=True):
        assert a.segments[1].token_ids == b.segments[1].token_ids
        assert a.segments[1].logprobs == pytest.approx(b.segments[1].logprobs, abs=2e-5)
    for function in (logprobs, plain_logprobs):
        both = function(policy, token_batch(together), temperature=0.8).detach()
        short = function(policy, token_batch(alone), temperature=0.8).detach()
        torch.testing.assert_close(both[:2, : short.shape[1]], short, rtol=0, atol=2e-5)
    # What the sampler saw is what the trainer sees, also for a text that grows past the border.
    assert check.difference(policy, together, 0.8).max() < 2e-5


def test_left_alone_it_does_and_the_guard_names_it(make_model: MakeModel) -> None:
    policy = policy_of(make_model)
    # A text that grows past the border: cached with short frequencies, trained with long ones.
    some = prompt("p", "zq " * 8)
    grown = [t for t in of(policy, [some], tokens=60) if t.completion_tokens > 50]
    assert grown
    assert check.difference(policy, grown, 0.8).max() > 1e-2
    settings = Settings.model_validate({"task": "x", "rollout": {"temperature": 0.8, "max_tokens": 60}})
    with pytest.raises(GuardStop, match=r"positions follow the longest text of a batch \(longrope\)"):
        learner_of(settings, policy).check.compare(grown, 1)
    policy.hold_still(FIRST + 60)
    assert check.difference(policy, of(policy, [some], tokens=60), 0.8).max() < 2e-5


@torch.no_grad()
@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize(("longest", "tokens"), [(FIRST, 20), (FIRST + 1, FIRST + 10)])
def test_held_still_it_is_the_model_of_texts_of_that_length(
    make_model: MakeModel, longest: int, tokens: int, adapter: str
) -> None:
    folder = make_model("llama", rope_parameters=LONGROPE)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    policy = policy_of(make_model, adapter=adapter)
    for other in (200, 10, longest):  # it may be changed
        policy.hold_still(other)
    ids = torch.randint(5, 290, (1, tokens), generator=torch.Generator().manual_seed(0))
    expected = plain(input_ids=ids).logits
    torch.testing.assert_close(policy.model(input_ids=ids).logits, expected, rtol=0, atol=1e-5)
    with policy.reference() as base:
        torch.testing.assert_close(base.model(input_ids=ids).logits, expected, rtol=0, atol=1e-5)
    copied = copy.deepcopy(policy.model)
    torch.testing.assert_close(copied(input_ids=ids).logits, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_dynamic_scaling_is_held_still_as_well(make_model: MakeModel) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    folder = make_model("llama", rope_parameters=rope, max_position_embeddings=FIRST)
    policy = load_policy(ModelSettings(name=str(folder), dtype="float32", device="cpu"))
    ids = torch.randint(5, 290, (1, 80), generator=torch.Generator().manual_seed(0))
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    policy = replace(policy, context_length=120)
    assert policy.moving == "dynamic"
    assert policy.hold_still(80)
    torch.testing.assert_close(policy.model(input_ids=ids).logits, plain(input_ids=ids).logits)
    before = policy.model(input_ids=ids[:, :20]).logits
    policy.model(input_ids=torch.cat([ids, ids[:, :30]], dim=1))  # longer texts change nothing
    torch.testing.assert_close(policy.model(input_ids=ids[:, :20]).logits, before, rtol=0, atol=0)
    assert not policy.hold_still(20)
    fresh = transformers.AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(
        policy.model(input_ids=ids[:, :20]).logits, fresh(input_ids=ids[:, :20]).logits
    )


def test_other_models_are_left_alone(make_model: MakeModel) -> None:
    for kind in ("llama", "gpt2", "gemma3_text"):
        policy = load_policy(ModelSettings(name=str(make_model(kind)), dtype="float32", device="cpu"))
        assert policy.moving == ""
        assert not policy.hold_still(200)
        assert not any("held still" in str(getattr(m, "rope_type", "")) for m in policy.model.modules())
