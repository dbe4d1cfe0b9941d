"""The bench: operations counted exactly, completions of exactly the length asked for, honest figures."""

from __future__ import annotations

import asyncio
import dataclasses
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

import make
from refine_rl.bench import machine, steps
from refine_rl.bench.measure import Bench, Measured, measure
from refine_rl.bench.random_model import Shape, write_random_model
from refine_rl.bench.steps import Numbers, RandomReward, random_prompts, take_steps
from refine_rl.errors import SettingsError, UserError
from refine_rl.policy import load
from refine_rl.policy.flops import Costs, Load, costs, seen
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.size import size_of
from refine_rl.settings import ModelSettings, Settings
from refine_rl.settings.file import settings_from_dict
from refine_rl.types import Group, StepMetrics

MakeModel = Callable[..., Path]

LAYER = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64  # weights of a layer of make_model("qwen3")
ADAPTED = 64 + 2 * 48 + 64 + 3 * 96  # inputs and outputs of its linear layers
LITTLE = Bench(
    prompt_tokens=7, completion_tokens=5, prompts=2, group_size=3, steps=2, warm_up=1, dtype="float32"
)


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.SIDE, "cpu", 96)


def policy_of(folder: Path, adapter: str = "none", **model: Any) -> Policy:
    return load_policy(
        ModelSettings(name=str(folder), adapter=adapter, dtype="float32", device="cpu", **model)  # type: ignore[arg-type]
    )


# -- operations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [0, 1, 3, 5, 9, 40])
def test_pairs_that_attention_looks_at(window: int) -> None:
    for first in range(8):
        for count in range(8):
            places = range(first, first + count)
            slowly = sum(1 for i in places for j in range(i + 1) if not window or i - j < window)
            assert seen(first, count, window) == slowly


def slowly(c: Costs, load: Load) -> tuple[int, int]:
    """Operations of sampling and training, token by token."""
    sampling = training = 0
    products, both = 2 * c.body, (6 if c.trained else 4) * c.body + 6 * c.adapter
    head, head_both = 2 * c.head, (6 if c.trained else 4) * c.head

    def attention(place: int) -> int:
        return sum(4 * c.width * (min(place + 1, w) if w else place + 1) for w in c.windows)

    for _ in range(load.prompts):
        for place in range(load.prompt_tokens):
            sampling += products + attention(place)
            training += both + 3 * attention(place)
        sampling, training = sampling + head, training + head_both
        for _ in range(load.members):
            for n in range(load.completion_tokens - 1):
                sampling += products + head + attention(load.prompt_tokens + n)
                training += both + head_both + 3 * attention(load.prompt_tokens + n)
    return sampling, training


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(("prompt", "completion"), [(5, 4), (1, 1), (1, 6), (9, 1)])
def test_operations_of_a_step(trained: bool, prompt: int, completion: int) -> None:
    c = Costs(body=1000, head=70, adapter=0 if trained else 30, trained=trained, width=6, windows=(0, 3))
    load = Load(prompts=2, members=3, prompt_tokens=prompt, completion_tokens=completion)
    assert (c.sampling(load), c.training(load)) == slowly(c, load)


def test_operations_by_hand() -> None:
    c = Costs(body=10, head=100, adapter=0, trained=True, width=1, windows=(0,))
    load = Load(prompts=1, members=2, prompt_tokens=3, completion_tokens=2)
    # Five tokens go through the body, three through the head; 1 + 2 + 3 + 4 + 4 pairs.
    assert c.sampling(load) == 2 * 10 * 5 + 2 * 100 * 3 + 4 * 14
    assert c.training(load) == 3 * c.sampling(load)
    frozen = dataclasses.replace(c, adapter=7, trained=False)
    assert frozen.sampling(load) == c.sampling(load)
    assert frozen.training(load) == 2 * (2 * 10 * 5 + 2 * 100 * 3) + 6 * 7 * 5 + 3 * 4 * 14


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_costs_of_a_model(adapter: str, make_model: MakeModel) -> None:
    policy = policy_of(make_model("qwen3"), adapter, rank=4)
    words = policy.model.get_input_embeddings().weight.shape[0]
    assert costs(policy) == Costs(
        body=2 * LAYER,
        head=32 * words,
        adapter=4 * 2 * ADAPTED if adapter == "lora" else 0,
        trained=adapter == "none",
        width=32,
        windows=(0, 0),
    )


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_operations_against_a_count_of_what_torch_does(
    adapter: str, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "lean_parts", lambda model: 0)  # its sums are products, and would be counted
    policy = policy_of(make_model("qwen3"), adapter, rank=4)
    policy.model.set_attn_implementation("eager")
    c, N = costs(policy), 11
    assert c is not None
    with FlopCounterMode(display=False) as counter:
        logits = policy.model(input_ids=torch.arange(N)[None], use_cache=False, logits_to_keep=3).logits
    forward = counter.get_total_flops()
    attention = 4 * 32 * N * N * 2  # eager attention looks ahead and throws that away
    assert forward == 2 * (c.body + c.adapter) * N + 2 * c.head * 3 + attention
    with FlopCounterMode(display=False) as counter:
        logits.sum().backward()
    backward = counter.get_total_flops()
    if adapter == "none":
        assert backward == 4 * c.body * N + 4 * c.head * 3 + 2 * attention
    else:
        # Nothing before the first layer is trained: its queries, keys and values need no input gradient.
        spared = 2 * (32 * 32 + 2 * 32 * 16) * N + 2 * 4 * (3 * 32) * N
        assert backward == 2 * c.body * N + 4 * c.adapter * N + 2 * c.head * 3 + 2 * attention - spared


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "phi", "gemma3_text"])
def test_weights_of_other_architectures(kind: str, make_model: MakeModel) -> None:
    folder = make_model(kind)
    found = costs(policy_of(folder))
    size = size_of(transformers.AutoConfig.from_pretrained(folder), "all-linear")
    assert found is not None
    assert (found.body, found.head) == (size.linear, size.vocabulary * size.hidden)


def test_windows_of_attention(make_model: MakeModel) -> None:
    def windows(kind: str, **changes: Any) -> tuple[int, ...] | None:
        found = costs(policy_of(make_model(kind, **changes)))
        return None if found is None else found.windows

    assert windows("mistral", sliding_window=7) == (7, 7)
    assert windows("mistral", sliding_window=None) == (0, 0)
    layers = ["sliding_attention", "full_attention"]
    assert windows("gemma3_text", sliding_window=5, layer_types=layers) == (5, 0)
    assert windows("qwen3", sliding_window=5, use_sliding_window=False) == (0, 0)


def test_a_mixture_of_experts_is_not_known(make_model: MakeModel) -> None:
    folder = make_model("mixtral", num_local_experts=2)
    assert costs(policy_of(folder)) is None
    m = measure(dataclasses.replace(LITTLE, model=str(folder), adapter="none", steps=1, warm_up=0))
    assert (m.share_of_matmul_rate, m.share, m.model_gflop_per_step, m.model_gflop) == (None,) * 4
    assert m.seconds_per_step > 0


# -- the machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("there", [True, False])
def test_the_matrix_rate_is_that_of_the_faster_product_in_the_number_format(
    dtype: torch.dtype, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own product takes half a second here, oneDNN's a quarter."""
    clock, seen = [0.0], []
    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock[0])

    def taking(seconds: float, product: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def timed(a: torch.Tensor, b: torch.Tensor, *rest: object, **how: Any) -> torch.Tensor:
            seen.append((seconds, a.dtype, b.shape))
            clock[0] += seconds
            return product(a, b, *rest, **how)

        return timed

    monkeypatch.setattr(torch, "mm", taking(0.5, torch.mm))
    monkeypatch.setattr(machine.onednn, "linear", taking(0.25, torch.nn.functional.linear))
    monkeypatch.setattr(machine.onednn, "at_hand", lambda *of: there)
    rates = machine.matmul_rates(torch.device("cpu"), dtype, times=3, side=10)
    assert rates == [2 * 10**3 / (0.25 if there else 0.5)] * 3
    assert seen == [(0.5, dtype, (10, 10))] * 5 + [(0.25, dtype, (10, 10))] * (5 if there else 0)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_peak_memory_is_what_was_held() -> None:
    now = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
    before = machine.peak_rss_mb()
    assert before >= 0.99 * now
    size = int(before - now + 200) * 1_000_000  # to 200 MB above the peak
    with mmap.mmap(-1, size) as room:  # pages of its own: torch would get back what its heap still holds
        for page in range(0, size, mmap.PAGESIZE):
            room[page] = 1
    assert before + 100 < machine.peak_rss_mb() < before + 300


# -- the random model -----------------------------------------------------------------------------


def test_the_random_model(tmp_path: Path) -> None:
    write_random_model(tmp_path / "a", Shape(vocabulary=300, hidden=128, layers=1), context=40)
    policy = policy_of(tmp_path / "a")
    layer = 128 * 128 + 2 * 128 * 64 + 128 * 128 + 3 * 128 * 384
    norms = 3 * 128 + 2 * 64
    assert sum(p.numel() for p in policy.model.parameters()) == 300 * 128 + layer + norms
    assert policy.context_length == 40
    assert policy.tokenizer("17 4 299 0 17")["input_ids"] == [17, 4, 299, 0, 17]
    assert policy.encode([{"role": "user", "content": "17 4 299 17"}]) == (17, 4, 299, 17)
    assert policy.decode([17, 4, 299]) == "17 4 299"
    torch.rand(1)  # the weights depend on nothing that was drawn before
    write_random_model(tmp_path / "b", Shape(vocabulary=300, hidden=128, layers=1), context=40)
    again = policy_of(tmp_path / "b")
    for p, q in zip(policy.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_default_shape_is_the_bundled_models(tmp_path: Path) -> None:
    write_random_model(tmp_path, Shape(), context=1024)
    mine = transformers.AutoConfig.from_pretrained(tmp_path)
    tiny = transformers.AutoConfig.from_pretrained(Path(machine.__file__).parents[1] / "assets" / "tiny")
    assert size_of(mine, "all-linear") == size_of(tiny, "all-linear")


# -- steps ----------------------------------------------------------------------------------------


def little_settings(folder: Path, adapter: str = "lora", steps: int = 2) -> Settings:
    return settings_from_dict(
        {
            "task": "x",
            "model": {"name": str(folder), "adapter": adapter, "dtype": "float32", "rank": 4},
            "rollout": {"group_size": 3, "max_tokens": 5},
            "grpo": {"steps": steps, "prompts_per_step": 2},
        },
        Path(),
    )


def test_completions_are_never_stopped_and_all_are_trained_on(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = little_settings(make_model("qwen3"))
    policy = load_policy(settings.model)
    words = policy.model.get_input_embeddings().weight.shape[0]
    policy.stop_ids = frozenset(range(words))  # it would stop at its first token
    before = {n: p.detach().clone() for n, p in policy.trainable().items()}
    groups: list[Group] = []
    monkeypatch.setattr(steps, "_require_whole", lambda some, tokens: groups.extend(some))
    told: list[StepMetrics] = []
    taken = take_steps(policy, random_prompts(4, 7, words, 0), settings, told.append)
    assert taken == told
    assert [m.step for m in taken] == [1, 2]
    assert len(groups) == 4
    assert len({g.prompt.id for g in groups}) == 4
    for group in groups:
        numbers = tuple(map(int, group.prompt.text.split()))
        for t in group.trajectories:
            assert t.segments[0].token_ids == numbers
            assert [len(s.token_ids) for s in t.segments] == [7, 5]
            assert t.stop_reason == "length"
        assert all(group.advantages)
    for m in taken:
        assert m.mismatch_mean is not None
        assert m.seconds["total"] >= m.seconds["sample"] + m.seconds["score"] + m.seconds["train"]
    assert any(not torch.equal(p, before[n]) for n, p in policy.trainable().items())


def test_a_completion_of_another_length_is_refused() -> None:
    prompt = make.prompt("p")
    answer = make.trajectory(prompt, tokens=(4, 5))
    scores = tuple(asyncio.run(RandomReward(0).score_group(prompt, [answer])))
    group = make.group(prompt, *scores, trajectories=[answer], advantages=[0.0])
    steps._require_whole([group], 2)
    with pytest.raises(RuntimeError, match=r"\[2\] tokens where 3"):
        steps._require_whole([group], 3)


def test_random_prompts_and_rewards() -> None:
    prompts = random_prompts(20, 9, 50, seed=1)
    ids = [Numbers(transformers.PreTrainedTokenizerFast).__call__(p.text)["input_ids"] for p in prompts]
    assert {len(i) for i in ids} == {9}
    assert len({tuple(i) for i in ids}) == 20
    assert 0 <= min(map(min, ids)) < 5
    assert 45 <= max(map(max, ids)) < 50
    assert random_prompts(20, 9, 50, seed=1) == prompts
    assert random_prompts(20, 9, 50, seed=2) != prompts
    nobody: Any = [None] * 8
    values = [[s.value for s in asyncio.run(RandomReward(1).score_group(p, nobody))] for p in prompts]
    assert len({v for some in values for v in some}) == 20 * 8


# -- the whole ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(make_model: MakeModel) -> Measured:
    machine.SIDE["cpu"], before = 96, machine.SIDE["cpu"]
    try:
        return measure(dataclasses.replace(LITTLE, model=str(make_model("qwen3"))))
    finally:
        machine.SIDE["cpu"] = before


def test_the_figures_agree_with_each_other(measured: Measured, make_model: MakeModel) -> None:
    m = measured
    assert len(m.each_step) == m.steps == 2
    assert m.seconds_per_step == sum(m.each_step) / 2
    assert list(m.seconds) == ["sample", "score", "train"]
    assert 0 < sum(m.seconds.values()) <= m.seconds_per_step  # medians of two are means
    assert m.tokens_per_second * m.seconds_per_step == pytest.approx(2 * 3 * 5)
    c = costs(policy_of(make_model("qwen3"), "lora"))
    assert c is not None
    load = Load(prompts=2, members=3, prompt_tokens=7, completion_tokens=5)
    assert m.model_gflop == {"sample": c.sampling(load) / 1e9, "train": c.training(load) / 1e9}
    assert m.model_gflop_per_step == pytest.approx(sum(m.model_gflop.values()))
    rate = m.matmul_gflops
    assert m.share_of_matmul_rate == pytest.approx(m.model_gflop_per_step / m.seconds_per_step / rate)
    assert m.share == {n: pytest.approx(x / m.seconds[n] / rate) for n, x in m.model_gflop.items()}
    assert m.peak_device_mb is None
    assert 0 <= m.mismatch_mean <= m.mismatch_max < 1e-4  # type: ignore[operator]
    assert m.threads == torch.get_num_threads()
    assert (m.device, m.dtype, m.adapter, m.trained) == ("cpu", "float32", "lora", 16 * 2 * ADAPTED)


def test_number_format_and_adapter_are_those_asked_for(make_model: MakeModel) -> None:
    told: list[str] = []
    asked = dataclasses.replace(
        LITTLE,
        model=str(make_model("qwen3")),
        dtype="bfloat16",
        adapter="none",
        steps=1,
        overrides=("model.device=cpu",),
    )
    m = measure(asked, told.append)
    assert (m.dtype, m.adapter) == ("bfloat16", "none")
    assert m.trained == m.parameters
    assert m.model_gflop["train"] == pytest.approx(3 * m.model_gflop["sample"])  # type: ignore[index]
    assert [line.split()[:2] for line in told] == [["step", "1/2"], ["step", "2/2"]]
    assert [line.endswith("(warm-up)") for line in told] == [True, False]


def test_settings_reach_the_step(make_model: MakeModel) -> None:
    asked = dataclasses.replace(LITTLE, model=str(make_model("qwen3")), steps=1, warm_up=0)
    m = measure(dataclasses.replace(asked, overrides=("model.rank=2", "grpo.updates_per_step=3")))
    once = measure(dataclasses.replace(asked, overrides=("model.rank=2",)))
    assert m.trained == 2 * 2 * ADAPTED
    assert m.model_gflop["train"] == pytest.approx(3 * once.model_gflop["train"])  # type: ignore[index]
    assert m.model_gflop["sample"] == once.model_gflop["sample"]  # type: ignore[index]


@pytest.mark.parametrize(("prompt", "completion"), [(1, 4), (4, 1)])
def test_one_token_is_enough(prompt: int, completion: int) -> None:
    shape = Shape(vocabulary=50, hidden=128, layers=1)
    m = measure(
        dataclasses.replace(
            LITTLE, shape=shape, prompt_tokens=prompt, completion_tokens=completion, steps=1, warm_up=0
        )
    )
    assert m.tokens_per_second * m.seconds_per_step == pytest.approx(2 * 3 * completion)
    assert m.model == "random (vocabulary 50, hidden 128, layers 1)"


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"steps": 0}, UserError, "at least one step"),
        ({"prompt_tokens": 252}, UserError, "sees 256 tokens.* have 257"),
        ({"overrides": ("grpo.steps=7",)}, UserError, "--set grpo.steps"),
        ({"overrides": ("rollout.group_size=4",)}, UserError, "--set rollout.group_size"),
        ({"overrides": ("grpo.stepz=7",)}, SettingsError, "did you mean `grpo.steps`"),
        ({"group_size": 1}, SettingsError, "rollout.group_size"),
        ({"model": "/no/model"}, UserError, "there is no such folder"),
    ],
)
def test_what_cannot_be_measured(
    changes: dict[str, Any], error: type[Exception], text: str, make_model: MakeModel
) -> None:
    with pytest.raises(error, match=text):
        measure(dataclasses.replace(LITTLE, **{"model": str(make_model("qwen3")), **changes}))


@pytest.mark.parametrize("shape", [{"hidden": 192}, {"hidden": 0}, {"vocabulary": 1}, {"layers": 0}])
def test_impossible_shapes(shape: dict[str, int]) -> None:
    with pytest.raises(UserError, match="--" + next(iter(shape))):
        Shape(**shape)
