"""The fast paths against their plain twins: values and gradients, on several architectures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import linear

import make
from refine_rl.envs.play import sample
from refine_rl.policy import attention, head, lora
from refine_rl.policy.draw import Sampling
from refine_rl.policy.fast import gather
from refine_rl.policy.head import LEAST, exponentials, target_logprobs
from refine_rl.policy.load import load_policy
from refine_rl.policy.logprobs import logprobs, plain_logprobs
from refine_rl.policy.lora import at_rest
from refine_rl.policy.policy import Policy
from refine_rl.policy.prefix import pack
from refine_rl.policy.protocol import Purpose
from refine_rl.policy.scripted import scripted
from refine_rl.policy.tokens import token_batch
from refine_rl.settings import ModelSettings
from refine_rl.types import Segment, Trajectory

MakeModel = Callable[..., Path]
FAST = [
    *("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "gpt2", "gpt_neox", "phi", "phi3", "olmo2"),
    *("granite", "opt"),
]
WINDOW = {"mistral": {"sliding_window": 6}, "gemma3_text": {"sliding_window": 6}}
TIED = {"qwen2": {"tie_word_embeddings": True}}


def policy_of(make_model: MakeModel, kind: str, adapter: str = "lora", dtype: str = "float32") -> Policy:
    folder = make_model(kind, **WINDOW.get(kind, {}), **TIED.get(kind, {}))
    policy = load_policy(
        ModelSettings(name=str(folder), dtype=dtype, device="cpu", adapter=adapter, rank=4)  # type: ignore[arg-type]
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return policy


def trajectories(turns: bool = False) -> list[Trajectory]:
    """Groups with a prompt of one token, a completion of one token, prompts and completions of every
    length, and the same prompt again later; with `turns`, an environment's words in the middle."""
    generator = torch.Generator().manual_seed(0)

    def some(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(5, 290, (n,), generator=generator).tolist())

    made = []
    again = some(9)
    for p, (prompt, lengths) in enumerate([(some(1), [4, 1]), (again, [3, 3, 3]), (some(23), [8, 1, 2, 11])]):
        for m, n in enumerate([*lengths, 2]):
            made.append(_trajectory(f"p{p}", m, prompt, some(n), some(3) if turns else ()))
    made.append(_trajectory("p1", 9, again, some(5), ()))
    return made


def _trajectory(
    name: str, member: int, prompt: Sequence[int], said: Sequence[int], heard: Sequence[int]
) -> Trajectory:
    segments = [Segment(token_ids=tuple(prompt), trainable=False)]
    for ids, trainable in ((said, True), (heard, False), (said if heard else (), True)):
        if ids:
            logs = (-1.0,) * len(ids) if trainable else ()
            segments.append(Segment(token_ids=tuple(ids), trainable=trainable, logprobs=logs))
    return make.trajectory(name, member=member, segments=segments, stop="length")


@pytest.mark.parametrize("turns", [False, True], ids=["", "turns"])
@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("kind", FAST)
def test_packed_is_plain_in_values_and_gradients(
    make_model: MakeModel, kind: str, adapter: str, turns: bool
) -> None:
    policy = policy_of(make_model, kind, adapter)
    assert policy.fast is not None, policy.why_plain
    batch = token_batch(trajectories(turns))
    weights = torch.randn(batch.ids.shape, generator=torch.Generator().manual_seed(2))
    found = []
    for function in (logprobs, plain_logprobs):
        values = function(policy, batch, temperature=0.7)
        (values * weights).sum().backward()
        found.append((values.detach(), {n: p.grad for n, p in policy.trainable().items()}))
        for parameter in policy.trainable().values():
            parameter.grad = None
    (fast, fast_gradients), (plain, plain_gradients) = found
    assert not fast[~batch.trainable].any()
    assert (fast - plain).abs().max() < 2e-5
    largest = max(float(g.abs().max()) for g in plain_gradients.values() if g is not None)
    for name, gradient in plain_gradients.items():
        mine = fast_gradients[name]
        if gradient is None or mine is None:
            assert gradient is mine is None, name
            continue
        assert (mine - gradient).abs().max() < 2e-5 * largest, name


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2", "gemma3_text"])
def test_shared_decoding_is_plain_decoding(make_model: MakeModel, kind: str) -> None:
    policy = policy_of(make_model, kind)
    policy.stop_ids = frozenset(range(5, 45))  # rows leave at different times, or their moving is not seen
    lengths = set()
    prompts = make.prompts("hi", "say something about the cat", "the dog " * 7, "dog")
    purpose = Purpose(seed=1, step=1, name="rollout")
    for temperature, members in itertools.product((0.9, 0.0), (1, 5)):
        sampling = Sampling(max_tokens=14, temperature=temperature)
        policy.use_fast = True
        fast = sample(policy, prompts, members=members, sampling=sampling, purpose=purpose)
        policy.use_fast = False
        plain = sample(policy, prompts, members=members, sampling=sampling, purpose=purpose)
        for a, b in zip(itertools.chain(*fast), itertools.chain(*plain), strict=True):
            assert a.segments[1].token_ids == b.segments[1].token_ids
            assert a.segments[1].logprobs == pytest.approx(b.segments[1].logprobs, abs=2e-5)
            assert a.stop_reason == b.stop_reason
            lengths.add(a.completion_tokens)
    assert len(lengths) > 5


@pytest.mark.parametrize(
    ("kind", "why"), [("bloom", ""), ("gemma2", "softcap"), ("gpt_neo", ""), ("gpt_oss", "s_aux")]
)
def test_what_cannot_be_packed_takes_the_plain_path(make_model: MakeModel, kind: str, why: str) -> None:
    changes = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8} if kind == "gpt_oss" else {}
    if kind == "gpt_neo":
        pytest.importorskip("transformers.models.gpt_neo")
        changes = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]}
    policy = policy_of_kind(make_model, kind, changes)
    assert policy.fast is None
    assert policy.why_plain
    assert why in policy.why_plain
    batch = token_batch(trajectories())
    assert torch.equal(logprobs(policy, batch), plain_logprobs(policy, batch))


def policy_of_kind(make_model: MakeModel, kind: str, changes: dict[str, object]) -> Policy:
    return load_policy(
        ModelSettings(name=str(make_model(kind, **changes)), dtype="bfloat16", device="cpu", adapter="none")
    )


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_parts_of_a_group_are_the_whole(
    make_model: MakeModel, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(make_model, kind, "none")
    batch = token_batch(trajectories())
    whole = logprobs(policy, batch)
    monkeypatch.setattr(attention, "SCORES", 1)
    assert (logprobs(policy, batch) - whole).abs().max() < 1e-5


def test_a_prompt_stands_once() -> None:
    row = pack([[7, 8], [9]], [[[1], [2, 3]], [[4]]])
    assert row.ids.tolist() == [[7, 8, 1, 2, 3, 9, 4]]
    assert row.positions.tolist() == [[0, 1, 2, 2, 3, 0, 1]]
    assert [(b.start, b.length, b.end) for b in row.packed.blocks] == [(0, 2, 5), (5, 1, 7)]


@pytest.mark.parametrize("cap", [0.0, 2.0])
@pytest.mark.parametrize("bias", [False, True])
def test_the_tiled_head_is_a_log_softmax(cap: float, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "TILE", 7)
    monkeypatch.setattr(head, "ROWS", 5)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = [normal(13, 6), normal(30, 6), *([normal(30)] if bias else [])]
    targets = torch.tensor([0, 29, 6, 7, 8, 13, 14, 20, 21, 28, 1, 2, 3])
    weights = normal(13)
    found = []
    for tiled in (True, False):
        leaves = [x.clone().requires_grad_() for x in inputs]
        hidden, weight, own_bias = (*leaves, None)[:3]
        assert hidden is not None
        assert weight is not None
        if tiled:
            values = target_logprobs(hidden, weight, own_bias, targets, scale=1 / 0.7, cap=cap)
        else:
            logits = linear(hidden.double(), weight.double(), None if own_bias is None else own_bias.double())
            logits = torch.tanh(logits / cap) * cap if cap else logits
            values = (logits / 0.7).log_softmax(-1).gather(1, targets[:, None])[:, 0]
        (values * weights).sum().backward()
        found.append(
            [values.detach().double(), *[leaf.grad.double() for leaf in leaves if leaf.grad is not None]]
        )
    assert len(found[0]) == len(inputs) + 1
    for mine, exact in zip(*found, strict=True):
        assert (mine - exact).abs().max() < 5e-6


def test_exponentials_are_those_of_a_calculator() -> None:
    x = torch.linspace(LEAST, 0, 4001)
    exact = x.double().exp()
    found = exponentials(x.clone()).double()
    assert (found - exact).abs().max() < 6e-8  # beside the 1 of the likeliest token
    assert (found / exact - 1).abs().max() < 5e-6
    # The likeliest token's is 1 to the bit, and nothing is 0, nor a number that a processor is slow with.
    ends = exponentials(torch.tensor([0.0, -0.0, -88.0, -1e9, float("-inf")])).tolist()
    assert ends[:2] == [1.0, 1.0]
    assert len(set(ends[2:])) == 1
    assert torch.finfo().tiny <= ends[2] < 2e-38
    program = scripted(exponentials)
    assert program is not None
    assert torch.equal(program(x.clone()).double(), found)


def test_the_lean_adapter_is_peft_s(make_model: MakeModel) -> None:
    ids = torch.randint(5, 290, (2, 17), generator=torch.Generator().manual_seed(0))
    for dtype, close in (("float32", 2e-5), ("bfloat16", 0.2)):
        policy = policy_of(make_model, "qwen3", dtype=dtype)
        layers = [m for m in policy.model.modules() if hasattr(m, "whole")]
        assert len(layers) == 14  # q, k, v, o, gate, up, down of two layers
        lean = policy.model(input_ids=ids).logits
        for layer in layers:
            del layer.forward
        plain = policy.model(input_ids=ids).logits
        assert (lean - plain).abs().max() < close
        if dtype == "float32":
            with policy.model.disable_adapter():
                assert (policy.model(input_ids=ids).logits - plain).abs().max() > 0.01


def counted(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The weights that LoRA layers multiply by, in order."""
    weights: list[torch.Tensor] = []

    def counting(x: torch.Tensor, weight: torch.Tensor, *rest: Any) -> torch.Tensor:
        weights.append(weight)
        return linear(x, weight, *rest)

    monkeypatch.setattr(lora, "linear", counting)
    return weights


IDS = torch.randint(5, 290, (2, 17), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_while_sampling_the_adapter_is_part_of_the_weights(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(make_model, "qwen3")
    assert policy.fast is not None
    untouched = {n: p.clone() for n, p in policy.model.state_dict().items()}
    weights = counted(monkeypatch)
    apart = policy.model(input_ids=IDS).logits
    assert len(weights) == 2 * 14
    weights.clear()
    with at_rest(policy.model):
        together = policy.model(input_ids=IDS).logits
        assert len(weights) == 14
        with policy.reference() as reference:
            base = reference.model(input_ids=IDS).logits
    assert 0 < (together - apart).abs().max() < 2e-5 < 0.01 < (base - apart).abs().max()
    with pytest.raises(ZeroDivisionError), at_rest(policy.model):
        raise ZeroDivisionError
    assert torch.equal(policy.model(input_ids=IDS).logits, apart)
    assert policy.model.state_dict().keys() == untouched.keys()
    assert all(torch.equal(p, untouched[n]) for n, p in policy.model.state_dict().items())
    prompt = make.prompt("p", "hi")
    weights.clear()
    purpose = Purpose(seed=0, step=0, name="x")
    sample(policy, [prompt], members=2, sampling=Sampling(max_tokens=3), purpose=purpose)
    assert weights
    assert all(min(weight.shape) > 4 for weight in weights)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_not_merged_is_the_same_to_the_bit(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """In bfloat16 a small update would be rounded away; large weights are not copied."""
    policy = policy_of(make_model, "qwen3", dtype=dtype)
    if dtype == "float32":
        monkeypatch.setattr(lora, "MERGED_BYTES", 1000)
    weights = counted(monkeypatch)
    apart = policy.model(input_ids=IDS).logits
    weights.clear()
    with at_rest(policy.model):
        again = policy.model(input_ids=IDS).logits
        assert torch.equal(again, apart)
        assert len(weights) == 2 * 14
        policy.model(input_ids=IDS)
        assert all(
            a is b for a, b in zip(weights[:28], weights[28:], strict=True)
        )  # made once, not once a pass
    with at_rest(policy_of(make_model, "qwen3", adapter="none").model):
        pass


def test_the_reference_is_without_the_adapter_on_the_fast_path_too(make_model: MakeModel) -> None:
    policy = policy_of(make_model, "qwen3")
    batch = token_batch(trajectories())
    with torch.no_grad(), policy.reference() as reference:
        fast, plain = logprobs(reference, batch), plain_logprobs(reference, batch)
    assert (fast - plain).abs().max() < 2e-5
    assert (fast - logprobs(policy, batch)).abs().max() > 0.01


@pytest.mark.usefixtures("two_threads")
def test_what_suffixes_take_from_one_token_is_added_up_in_one_order(make_model: MakeModel) -> None:
    """Two threads add to one place: the gradient is the same to the bit each time all the same."""
    policy = policy_of(make_model, "llama")
    assert policy.fast is not None
    row, sources, targets = gather([[7, 8, 9]], [[[5 + n % 90, 6] for n in range(700)]], policy.device)
    found = []
    for _ in range(6):
        taken = policy.fast.logprobs(row, sources, targets, 1.0)
        assert taken.numel() * policy.fast.head.in_features >= 1 << 15  # fewer are added by one thread
        gradients = torch.autograd.grad(taken.sum(), list(policy.trainable().values()))
        found.append(torch.cat([g.flatten() for g in gradients]))
    assert all(torch.equal(found[0], again) for again in found[1:])
