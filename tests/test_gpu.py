"""What only an accelerator can show; run with `pytest -m gpu`."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from make import prompts
from models import FAMILIES, listening_model
from refine_rl.envs.play import sample
from refine_rl.errors import Interrupted
from refine_rl.pipeline.sft import run as run_sft
from refine_rl.pipeline.train import run
from refine_rl.policy import captured, decode_static, decoder_only, flash
from refine_rl.policy.captured import Captured
from refine_rl.policy.decode import SharedPrompts
from refine_rl.policy.decoder_only import DecoderOnly
from refine_rl.policy.draw import Sampling
from refine_rl.policy.head import taken, target_logprobs
from refine_rl.policy.load import load_policy
from refine_rl.policy.logprobs import logprobs
from refine_rl.policy.norm import _in_one_launch, _inverse, _RMSNorm, _scaled
from refine_rl.policy.policy import Policy
from refine_rl.policy.prefix import _blocks, pack
from refine_rl.policy.protocol import Purpose
from refine_rl.policy.size import model_size
from refine_rl.policy.tokens import TokenBatch, token_batch
from refine_rl.run import RunFolder
from refine_rl.settings import ModelSettings, Settings
from refine_rl.settings.file import settings_from_dict
from refine_rl.training.grpo.setup import settled_for
from refine_rl.training.memory import MOST, Place, free_memory, tokens_that_fit
from refine_rl.types import Trajectory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
PROMPTS = prompts("hi", "say something about the cat", "the dog and the cat and the dog")


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "gpt2"])
def test_cuda_agrees_with_the_cpu(make_model: Callable[..., Path], kind: str) -> None:
    name = str(make_model(kind))
    cpu = load_policy(ModelSettings(name=name, dtype="float32", device="cpu"))
    gpu = load_policy(ModelSettings(name=name, dtype="float32", device="cuda"))
    groups = sample(
        gpu,
        PROMPTS,
        members=4,
        sampling=Sampling(max_tokens=16),
        purpose=Purpose(seed=0, step=1, name="rollout"),
    )
    batch = token_batch([t for g in groups for t in g])
    on_gpu = logprobs(gpu, batch).detach().cpu()
    torch.testing.assert_close(on_gpu, logprobs(cpu, batch).detach(), rtol=0, atol=2e-4)
    recorded = torch.tensor([x for g in groups for t in g for x in t.segments[1].logprobs])
    torch.testing.assert_close(on_gpu[batch.trainable], recorded, rtol=0, atol=2e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_is_the_same_to_the_bit(
    make_model: Callable[..., Path], tmp_path: Path, dtype: str
) -> None:
    words = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish"]
    lines = [{"prompt": f"say something about the {a} and a {b}"} for a in words for b in words if a < b]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = settings_from_dict(
        {
            "task": "Be short.",
            "model": {"name": str(make_model("llama")), "device": "cuda", "dtype": dtype},
            "prompts": {"source": "file:prompts.jsonl", "validation": 2, "held_out": 4},
            "reward": {"rules": [{"rule": "chars", "max": 12}]},
            "rollout": {"group_size": 4, "max_tokens": 10},
            "grpo": {"steps": 6, "prompts_per_step": 3, "all_cut_patience": 99},
            "evaluate": {"samples": 2},
        },
        tmp_path,
    )
    weights = []
    for name, at in (("whole", 10**9), ("stopped", 70)):
        left = at

        def pause() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Interrupted("stop")

        folder = RunFolder.create(tmp_path / name, settings)
        try:
            run(folder, pause=pause)
        except Interrupted:
            run(folder)
        weights.append((folder.checkpoint(6) / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_as_many_tokens_at_once_as_the_card_s_memory_holds(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found at the start, by what is free without the run's own model; a resume keeps it."""
    settings = settings_from_dict(
        {"task": "x", "model": {"name": str(make_model("llama")), "device": "cuda"}}, tmp_path
    )
    policy = load_policy(settings.model)
    free = free_memory("cuda")
    assert 0 < free <= torch.cuda.get_device_properties(0).total_memory
    size = model_size(settings.model)
    place = Place(device="cuda", dtype=str(policy.compute_dtype).removeprefix("torch."))
    found = settled_for(settings, policy)
    assert found.grpo.at_once == min(MOST, tokens_that_fit(settings.model, size, place, free))
    monkeypatch.setattr("refine_rl.training.grpo.setup.free_memory", lambda device: 1e9)
    assert settled_for(settings, policy).grpo.at_once < found.grpo.at_once
    assert settled_for(found, policy) == found


def tokens_and_logprobs(groups: list[tuple[Trajectory, ...]]) -> tuple[list[tuple[int, ...]], torch.Tensor]:
    segments = [t.segments[1] for g in groups for t in g]
    return [s.token_ids for s in segments], torch.tensor([x for s in segments for x in s.logprobs])


@pytest.mark.parametrize("looked_at", [3, 256])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma3_text", "gpt2"])
def test_a_recorded_step_is_the_plain_step(
    make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, kind: str, looked_at: int
) -> None:
    monkeypatch.setattr(decode_static, "LOOKED_AT", looked_at)
    name = str(make_model(kind, **({"sliding_window": 6} if kind == "mistral" else {})))
    policy = load_policy(ModelSettings(name=name, dtype="float32", device="cuda"))
    assert isinstance(policy, DecoderOnly)
    policy.stop_ids = frozenset(range(0, policy.vocabulary, 20))

    def speak() -> tuple[list[tuple[int, ...]], torch.Tensor]:
        purpose = Purpose(seed=0, step=1, name="rollout")
        groups = sample(policy, PROMPTS, members=6, sampling=Sampling(max_tokens=30), purpose=purpose)
        return tokens_and_logprobs(groups)

    recorded, values = speak()
    assert policy.why_uncaptured == ""
    again, same = speak()
    assert again == recorded
    assert torch.equal(same, values)
    monkeypatch.setattr(decoder_only, "StaticPrompts", SharedPrompts)
    plain, others = speak()
    assert recorded == plain
    torch.testing.assert_close(values, others, rtol=0, atol=2e-4)


def test_weights_that_autocast_rounds_are_rounded_in_each_recorded_step(
    make_model: Callable[..., Path],
) -> None:
    policy = load_policy(
        ModelSettings(name=str(make_model("qwen3")), dtype="bfloat16", device="cuda", adapter="none")
    )
    assert isinstance(policy, DecoderOnly)
    for step in (1, 2):
        purpose = Purpose(seed=0, step=step, name="rollout")
        groups = sample(policy, PROMPTS, members=4, sampling=Sampling(max_tokens=16), purpose=purpose)
        assert policy.why_uncaptured == ""
        batch = token_batch([t for g in groups for t in g])
        new = logprobs(policy, batch).detach().cpu()[batch.trainable]
        assert (new - tokens_and_logprobs(groups)[1]).abs().mean() < 0.05
        with torch.no_grad():  # the next record must not know the old weights
            for parameter in policy.trainable().values():
                parameter.mul_(1.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_decoders_agree_with_the_cpu(tmp_path: Path, family: str) -> None:
    name = str(listening_model(tmp_path, family))
    cpu = load_policy(ModelSettings(name=name, dtype="float32", device="cpu", rank=4))
    gpu = load_policy(ModelSettings(name=name, dtype="float32", device="cuda", rank=4))
    purpose = Purpose(seed=0, step=1, name="rollout")
    groups = sample(gpu, PROMPTS, members=4, sampling=Sampling(max_tokens=12), purpose=purpose)
    batch = token_batch([t for g in groups for t in g])
    on_gpu = logprobs_of(gpu, batch)
    torch.testing.assert_close(on_gpu, logprobs_of(cpu, batch), rtol=0, atol=5e-4)
    torch.testing.assert_close(on_gpu, tokens_and_logprobs(groups)[1], rtol=0, atol=5e-4)


def logprobs_of(policy: Policy, batch: TokenBatch) -> torch.Tensor:
    return policy.logprobs(batch).detach().cpu()[batch.trainable]


def sft_settings(folder: Path, name: Path, device: str, dtype: str, adapter: str) -> Settings:
    words = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish", "bird", "road"]
    lines = [{"prompt": f"say {a} and {b}", "answer": f"{a} {a}"} for a in words for b in words]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sft = {"data": "file:pairs.jsonl", "steps": 8, "batch_tokens": 200}
    sft["learning_rate"] = 0.02 if adapter == "lora" else 0.002
    return settings_from_dict(
        {
            "task": "Twice.",
            "model": {"name": str(name), "device": device, "dtype": dtype, "adapter": adapter},
            "sft": {**sft, "checkpoint_every": 3, "validate_every": 4, "examples": 2},
            "rollout": {"max_tokens": 8},
        },
        folder,
    )


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fine_tuning_agrees_with_the_cpu_and_resumes_to_the_bit(
    make_model: Callable[..., Path], tmp_path: Path, dtype: str, adapter: str
) -> None:
    runs = {}
    for name, device in (("cpu", "cpu"), ("whole", "cuda"), ("stopped", "cuda")):
        settings = sft_settings(tmp_path, make_model("llama"), device, dtype, adapter)
        runs[name] = RunFolder.create(tmp_path / name, settings, kind="sft")
        left = 25 if name == "stopped" else 10**9

        def pause() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Interrupted("stop")

        try:
            run_sft(runs[name], pause=pause)
            assert name != "stopped"
        except Interrupted:
            run_sft(runs[name])
    weights = [(runs[n].checkpoint(8) / "weights.safetensors").read_bytes() for n in ("whole", "stopped")]
    assert weights[0] == weights[1]
    losses = {n: [m["loss"] for m in runs[n].metrics()] for n in ("cpu", "whole")}
    assert losses["whole"][-1] < losses["whole"][0] - 0.5
    same = 8 if adapter == "none" else 1  # a fresh adapter is drawn by the device's own generator
    tolerance = 2e-3 if dtype == "float32" else 0.05
    assert losses["whole"][:same] == pytest.approx(losses["cpu"][:same], abs=tolerance)


def test_loading_sets_what_keeps_kernels_the_same(make_model: Callable[..., Path]) -> None:
    load_policy(ModelSettings(name=str(make_model("llama")), dtype="float32", device="cuda"))
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert not torch.backends.cuda.mem_efficient_sdp_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


def test_a_row_that_is_taken_often_gets_its_gradient_in_one_order(make_model: Callable[..., Path]) -> None:
    load_policy(ModelSettings(name=str(make_model("llama")), dtype="float32", device="cuda"))
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(0, 5, (4000,), generator=generator).cuda()
    slopes = torch.randn(4000, 64, generator=generator).cuda()
    found = torch.randn(9, 64, generator=generator).cuda().requires_grad_()
    grads = [torch.autograd.grad((taken(found, places) * slopes).sum(), found)[0] for _ in range(5)]
    assert all(torch.equal(g, grads[0]) for g in grads)
    exact = torch.zeros(9, 64, dtype=torch.float64).index_add_(0, places.cpu(), slopes.double().cpu())
    torch.testing.assert_close(grads[0].cpu().double(), exact, rtol=0, atol=1e-4)


def test_logits_never_stand_whole_in_the_card_s_memory() -> None:
    tokens, vocabulary = 8192, 131_072
    hidden = torch.randn(tokens, 64, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight = torch.randn(vocabulary, 64, device="cuda", dtype=torch.bfloat16)
    targets = torch.randint(0, vocabulary, (tokens,), device="cuda")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    target_logprobs(hidden, weight, None, targets).sum().backward()
    assert torch.cuda.max_memory_allocated() - before < tokens * vocabulary * 4 / 4


def test_after_a_recording_that_failed_all_goes_on() -> None:
    """Looking at a number while it is recorded is not possible; the device's memory and generator, and the
    next record, do not feel it."""
    device = torch.device("cuda", 0)
    x = torch.arange(4.0, device=device)
    torch.cuda.manual_seed(5)
    expected = [torch.rand(3, device=device) for _ in range(2)]
    torch.cuda.manual_seed(5)
    recorded = Captured(device)
    doubled = recorded(lambda: (x * 2,))[0]
    assert recorded.why_not == ""
    for _ in range(2):
        looking = Captured(device)
        (found,) = looking(lambda: (x * float(x.sum()),))
        assert found.tolist() == [0, 6, 12, 18]
        assert looking.why_not
        assert torch.equal(looking(lambda: (x + 1,))[0], x + 1)
    assert torch.equal(torch.rand(3, device=device), expected[0])
    another = Captured(device)
    assert another(lambda: (x * 3,))[0].tolist() == [0, 3, 6, 9]
    assert another.why_not == ""
    x += 1
    recorded(lambda: (x * 2,))
    another(lambda: (x * 3,))
    assert doubled.tolist() == [2, 4, 6, 8]
    assert torch.equal(torch.rand(3, device=device), expected[1])


def test_a_record_that_is_garbage_does_not_break_the_next() -> None:
    device = torch.device("cuda", 0)
    x = torch.arange(4.0, device=device)
    old = Captured(device)
    old(lambda: (x * 2,))
    ring: list[object] = [old]
    ring.append(ring)
    captured._LAST.clear()
    del old, ring

    def work() -> tuple[torch.Tensor, ...]:
        [[] for _ in range(5000)]  # would call the collector
        return (x * 3,)

    threshold = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        new = Captured(device)
        new(work)
    finally:
        gc.set_threshold(*threshold)
    assert new.why_not == ""
    assert gc.isenabled()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("prompts", "suffixes"),
    [
        ([100, 37], [[60, 60], [130, 1, 70]]),
        ([40, 60], [[5, 5], []]),
        ([300, 200, 20], [[], [], []]),
    ],
)
def test_flash_attention_of_a_packed_row_is_attention(
    prompts: list[int], suffixes: list[list[int]], dtype: str
) -> None:
    packed = pack([[0] * n for n in prompts], [[[0] * n for n in some] for some in suffixes]).packed
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(heads, packed.tokens, 64, generator=generator).to(getattr(torch, dtype))
        for heads in (14, 2, 2)
    ]
    slopes = torch.randn(packed.tokens, 14, 64, generator=generator)
    exact = [x.double().requires_grad_() for x in parts]
    want = _blocks(*exact, packed, 0.125, 0)[0]
    wanted = torch.autograd.grad((want * slopes).sum(), exact)
    here = [x.cuda().requires_grad_() for x in parts]
    assert flash.able(here[0], here[2])
    got = flash.flash(*here, packed.layout(here[0].device), scale=0.125)
    torch.testing.assert_close(got.double().cpu(), want, rtol=0, atol=0.02)

    def gradients() -> tuple[torch.Tensor, ...]:
        out = flash.flash(*here, packed.layout(here[0].device), scale=0.125)
        return torch.autograd.grad((out * slopes.cuda()).sum(), here)

    found = gradients()
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            mine.double().cpu(), other, rtol=0.02, atol=0.02 * float(other.abs().max())
        )
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(gradients(), found, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_in_one_launch_is_the_norm(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, slopes = (torch.randn(300, 896, generator=generator).to("cuda", dtype) for _ in range(2))
    weight = torch.randn(896, generator=generator).to("cuda", dtype)
    assert _in_one_launch(x, weight)
    x.requires_grad_()
    got = torch.nn.functional.rms_norm(x, (896,), weight, 1e-6)
    near = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(got, _scaled(x, weight, _inverse(x, 1e-6)), rtol=near, atol=near)
    want = _RMSNorm.apply(x, weight, 1e-6)  # type: ignore[no-untyped-call]
    (mine,), (other,) = (torch.autograd.grad((y * slopes).sum(), x) for y in (got, want))
    torch.testing.assert_close(mine, other, rtol=near, atol=2 * near)
