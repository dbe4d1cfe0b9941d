"""The Tinker service of the tests, asked by the real SDK: its numbers are a plain model's, faults happen."""

from __future__ import annotations

import io
import json
import math
import tarfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import tinker
import torch
import transformers
from safetensors.torch import load_file
from tinker import types
from torch import Tensor

from tinker_server import KEY, TinkerServer

PROMPTS = ([7, 30, 31, 9], [12, 80, 5])
ADAM = types.AdamParams(learning_rate=0.02, beta2=0.999, eps=1e-8)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prompt, a completion, its log-probs when it was sampled, and what to make of each token."""

    prompt: list[int]
    tokens: list[int]
    old: list[float]
    each: list[float]

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.tokens]

    def datum(self, loss: str) -> types.Datum:
        """As a service is given it: nothing is asked of the prompt's positions."""
        given = lambda values: [0.0] * (len(self.prompt) - 1) + values  # noqa: E731
        inputs: dict[str, Any] = {"target_tokens": self.ids[1:]}
        if loss == "cross_entropy":
            inputs["weights"] = given(self.each)
        else:
            inputs |= {"logprobs": given(self.old), "advantages": given(self.each)}
        return types.Datum(model_input=types.ModelInput.from_ints(self.ids[:-1]), loss_fn_inputs=inputs)


@pytest.fixture(scope="module")
def folder(make_model: Callable[..., Path]) -> Path:
    """Embeddings and head share a weight, as in small models; the head's adapter moves the head alone."""
    return make_model("qwen3", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinkerServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_TELEMETRY", "0")
        server = TinkerServer(folder, store=tmp_path_factory.mktemp("store"))
        yield server
        server.stop()


@pytest.fixture(scope="module")
def training(server: TinkerServer) -> Any:
    """A client whose adapter has been moved away from no change."""
    made = new(server)
    made.forward_backward([row.datum("cross_entropy") for row in some_rows()], "cross_entropy")
    made.optim_step(ADAM).result()
    return made


@pytest.fixture(scope="module")
def state(training: Any) -> str:
    return str(training.save_state("moved").result().path)


@pytest.fixture(scope="module")
def plain(server: TinkerServer, training: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same model and adapter as peft loads them from the service's files."""
    path = training.save_weights_external("plain").result().path
    urls = tinker.RestClient(base_url=server.url, api_key=KEY).get_external_weights_urls(path).result().urls
    adapter = tmp_path_factory.mktemp("adapter")
    for name, url in urls.items():
        (adapter / name).write_bytes(urllib.request.urlopen(url).read())
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with pytest.warns(UserWarning, match="a tied layer is part of the adapter"):  # as it is meant to be
        return peft.PeftModel.from_pretrained(model, adapter, is_trainable=True).eval()


def new(server: TinkerServer, **how: Any) -> Any:
    client = server.client()
    return client.create_lora_training_client(server.manners.name, **{"rank": 4, "seed": 3, **how}).result()


def some_rows() -> list[Row]:
    """Log-probs from elsewhere, so that ratios leave the region on both sides."""
    rows = [
        ([7, 30, 31, 9], [40, 2, 77], [-3.0, -5.5, -6.5], [1.0, -0.5, 0.75]),
        ([12, 80, 5], [9, 9, 61, 4, 18], [-6.0, -2.0, -5.5, -7.0, -5.0], [-1.0, 0.5, 2.0, 1.0, -0.25]),
        ([20, 21], [22, 0], [-5.0, -4.0], [0.5, 0.5]),
    ]
    return [Row(prompt=p, tokens=t, old=o, each=e) for p, t, o, e in rows]


def forward(model: Any, ids: Sequence[int]) -> Tensor:
    """log p of each id but the first, given those before it, one call a row."""
    logprobs_T_V = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return torch.stack([logprobs_T_V[t, token] for t, token in enumerate(ids[1:])])


def plain_loss(loss: str, model: Any, rows: Sequence[Row]) -> Tensor:
    """The sum of the formula over the tokens, one at a time."""
    total = torch.zeros(())
    for row in rows:
        new_T = forward(model, row.ids)[len(row.prompt) - 1 :]
        for logp, old, each in zip(new_T, row.old, row.each, strict=True):
            ratio = torch.exp(logp - old)
            near = min(max(float(ratio.detach()), 0.8), 1.3)  # CLIPS
            if loss == "cross_entropy":
                total = total - each * logp
            elif loss == "importance_sampling":
                total = total - ratio * each
            elif loss == "ppo":
                total = total - min(ratio * each, torch.tensor(near * each))
            else:
                total = total - near * each * logp
    return total


CLIPS = {"clip_low_threshold": 0.8, "clip_high_threshold": 1.3}


def gradient(model: Any) -> dict[str, Tensor]:
    return {n.replace(".default", ""): p.grad for n, p in model.named_parameters() if p.grad is not None}


def apart(one: dict[str, Tensor], other: dict[str, Tensor], times: float = 1.0) -> float:
    """|one - times * other| / |one|, over all weights."""
    assert one.keys() == other.keys()
    difference = sum(float((one[name] - times * other[name]).square().sum()) for name in one)
    return math.sqrt(difference / sum(float(value.square().sum()) for value in one.values()))


# Gradients


@pytest.mark.parametrize("loss", ["cross_entropy", "importance_sampling", "ppo", "cispo"])
def test_a_gradient_is_autograds(server: TinkerServer, state: str, plain: Any, loss: str) -> None:
    training = server.client().create_training_client_from_state(state).result()
    rows = some_rows()
    config = CLIPS if loss in ("ppo", "cispo") else None
    out = training.forward_backward([row.datum(loss) for row in rows], loss, config).result()
    plain.zero_grad(set_to_none=True)
    expected = plain_loss(loss, plain, rows)
    expected.backward()
    assert out.metrics == {"loss:sum": pytest.approx(float(expected.detach()), rel=1e-5)}
    theirs = gradient(plain)
    assert "base_model.model.lm_head.lora_A.weight" in theirs
    assert len(theirs) == 2 * (7 * 2 + 1)
    assert apart(theirs, server.gradients(training.model_id)) < 1e-5
    for row, found in zip(rows, out.loss_fn_outputs, strict=True):
        torch.testing.assert_close(
            torch.tensor(found["logprobs"].data), forward(plain, row.ids).detach(), atol=1e-5, rtol=1e-5
        )


def test_a_forward_alone_leaves_no_gradient_and_several_backwards_add_up(
    server: TinkerServer, state: str
) -> None:
    rows = some_rows()
    once, twice = (server.client().create_training_client_from_state(state).result() for _ in range(2))
    once.forward_backward([row.datum("ppo") for row in rows], "ppo").result()
    twice.forward([row.datum("ppo") for row in rows], "ppo")
    for row in rows:
        out = twice.forward_backward([row.datum("ppo")], "ppo")
    out.result()
    assert apart(server.gradients(once.model_id), server.gradients(twice.model_id)) < 1e-6


def test_the_mean_divides_by_positions_and_rows(tinker_server: Any, folder: Path) -> None:
    sums, means = tinker_server(folder), tinker_server(folder, reduction="mean")
    row = some_rows()[1]
    for loss, times in (
        ("importance_sampling", 2 * (len(row.ids) - 1)),
        ("cross_entropy", 2 * sum(row.each)),
    ):
        one, other = new(sums), new(means)
        for each in (one, other):
            each.forward_backward([row.datum(loss), row.datum(loss)], loss).result()
        found = means.gradients(other.model_id)
        assert apart(sums.gradients(one.model_id), found, times) < 1e-5


def test_chunks_in_any_order_compressed_are_one_call(
    tinker_server: Any, server: TinkerServer, folder: Path
) -> None:
    chunked = tinker_server(folder, config={"fwdbwd_max_chunk_len": 1, "proto_compress_fwdbwd": True})
    gradients = []
    for where in (chunked, server):
        training = new(where)
        out = training.forward_backward([row.datum("ppo") for row in some_rows()], "ppo").result()
        assert [len(each["logprobs"].data) for each in out.loss_fn_outputs] == [6, 7, 3]
        gradients.append(where.gradients(training.model_id))
    assert apart(*gradients) < 1e-6
    sent = chunked.asked("forward_backward")
    assert [each["seq_id"] for each in sent][-1] == 1  # the first comes last
    assert sorted(each["seq_id"] for each in sent) == [1, 2, 3]


# Steps


@pytest.mark.parametrize("clips", [True, False])
def test_a_step_is_adamw_and_clips(tinker_server: Any, folder: Path, clips: bool) -> None:
    server = tinker_server(folder, clips=clips)
    training = new(server)
    before = server.state(training.model_id)
    weights = {name: torch.nn.Parameter(value) for name, value in before.items()}
    plain = torch.optim.AdamW(weights.values(), lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    params = types.AdamParams(
        learning_rate=0.01, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.1, grad_clip_norm=0.5
    )
    for _ in range(2):
        training.forward_backward(
            [row.datum("cross_entropy") for row in some_rows()], "cross_entropy"
        ).result()
        for name, value in server.gradients(training.model_id).items():
            weights[name].grad = value
        norm = float(torch.nn.utils.clip_grad_norm_(weights.values(), 0.5 if clips else math.inf))
        plain.step()
        metrics = training.optim_step(params).result().metrics
        assert norm > 0.5
        assert metrics["grad_norm:unclipped"] == pytest.approx(norm, rel=1e-5)
    for name, value in server.state(training.model_id).items():
        torch.testing.assert_close(value, weights[name].detach(), rtol=1e-6, atol=1e-7)


def test_a_saved_state_goes_on_exactly_in_a_service_started_anew(
    tinker_server: Any, folder: Path, tmp_path: Path
) -> None:
    first, data = tinker_server(folder), [row.datum("ppo") for row in some_rows()]
    training = new(first)

    def step(training: Any) -> None:
        training.forward_backward(data, "ppo")
        training.optim_step(ADAM).result()

    step(training)
    path = training.save_state("one").result().path
    step(training)
    expected = first.state(training.model_id)
    first.stop()
    second = tinker_server(folder)
    resumed = second.client().create_training_client_from_state_with_optimizer(path).result()
    step(resumed)
    fresh = second.client().create_training_client_from_state(path).result()
    step(fresh)
    found, without = second.state(resumed.model_id), second.state(fresh.model_id)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not all(torch.equal(without[name], value) for name, value in expected.items())


# Sampling


def params(**how: Any) -> types.SamplingParams:
    return types.SamplingParams(**{"max_tokens": 12, "temperature": 1.0, "seed": 5, "stop": [], **how})


def sample(sampler: Any, prompt: Sequence[int] = PROMPTS[0], number: int = 3, **how: Any) -> list[Any]:
    asked = sampler.sample(types.ModelInput.from_ints(prompt), number, params(**how))
    return list(asked.result().sequences)


def test_samples_have_the_log_probs_of_a_plain_forward(training: Any, plain: Any) -> None:
    sampler = training.save_weights_and_get_sampling_client().result()
    for prompt in PROMPTS:
        for found in sample(sampler, prompt):
            assert len(found.tokens) == 12
            assert found.stop_reason == "length"
            with torch.no_grad():
                expected = forward(plain, [*prompt, *found.tokens])[len(prompt) - 1 :]
            torch.testing.assert_close(torch.tensor(found.logprobs), expected, atol=1e-5, rtol=1e-5)


def test_prompts_have_the_log_probs_of_a_plain_forward(
    server: TinkerServer, training: Any, plain: Any
) -> None:
    ids = some_rows()[1].ids
    tuned = training.save_weights_and_get_sampling_client().result()
    base = server.client().create_sampling_client(base_model=server.manners.name).result()
    with torch.no_grad():
        expected = [forward(plain, ids)]
        with plain.disable_adapter():
            expected.append(forward(plain, ids))
    for sampler, wanted in zip((tuned, base), expected, strict=True):
        first, *rest = sampler.compute_logprobs(types.ModelInput.from_ints(ids)).result()
        assert first is None
        torch.testing.assert_close(torch.tensor(rest), wanted, atol=1e-5, rtol=1e-5)
    last = tuned.sample(
        types.ModelInput.from_ints(ids), 1, params(), include_prompt_logprobs=True, prompt_logprobs_last_n=2
    )
    assert last.result().prompt_logprobs[:-2] == [None] * (len(ids) - 2)
    assert last.result().prompt_logprobs[-2:] == pytest.approx(expected[0][-2:].tolist(), abs=1e-5)


def test_seeds_reproduce_and_neighbours_share_draws(training: Any) -> None:
    sampler = training.save_weights_and_get_sampling_client().result()
    first = [each.tokens for each in sample(sampler)]
    assert len({tuple(tokens) for tokens in first}) == 3
    assert [each.tokens for each in sample(sampler)] == first
    assert [each.tokens for each in sample(sampler, number=2)] == first[:2]
    assert [each.tokens for each in sample(sampler, seed=6)][:2] == first[1:]
    free = [sample(sampler, number=1, seed=None)[0].tokens for _ in range(2)]
    assert free[0] != free[1]


def test_greedy_narrow_and_stopped(server: TinkerServer, training: Any, plain: Any) -> None:
    sampler = training.save_weights_and_get_sampling_client().result()
    (greedy,) = sample(sampler, number=1, temperature=0.0)
    ids = list(PROMPTS[0])
    with torch.no_grad():
        for _ in range(12):
            ids.append(int(plain(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert greedy.tokens == ids[len(PROMPTS[0]) :]
    for how in ({"top_k": 1}, {"top_p": 1e-6}):
        assert sample(sampler, number=1, **how)[0].tokens == greedy.tokens
    (free,) = sample(sampler, number=1)
    third = free.tokens[2]
    (stopped,) = sample(sampler, number=1, stop=[third])
    cut = free.tokens.index(third) + 1
    assert stopped.tokens == free.tokens[:cut]
    assert stopped.logprobs == pytest.approx(free.logprobs[:cut], abs=1e-6)
    assert stopped.stop_reason == "stop"
    (end,) = server.service.base.stops
    many = sample(sampler, number=64, stop=None, max_tokens=40)
    assert any(each.tokens[-1] == end for each in many)
    assert all((each.stop_reason == "stop") == (each.tokens[-1] == end) for each in many)
    assert all(end not in each.tokens[:-1] for each in many)


# Habits


@pytest.mark.parametrize("habit", ["stale", "base", "other"])
def test_a_sampler_of_other_weights(tinker_server: Any, folder: Path, habit: str) -> None:
    server = tinker_server(folder, sampler=habit)
    training = new(server)
    ids = types.ModelInput.from_ints(some_rows()[0].ids)
    base = server.client().create_sampling_client(base_model=server.manners.name).result()
    seen = [training.save_weights_and_get_sampling_client().result().compute_logprobs(ids).result()[1:]]
    training.forward_backward([row.datum("cross_entropy") for row in some_rows()], "cross_entropy")
    training.optim_step(ADAM).result()
    seen.append(training.save_weights_and_get_sampling_client().result().compute_logprobs(ids).result()[1:])
    server.manners.sampler = "current"
    right = training.save_weights_and_get_sampling_client().result().compute_logprobs(ids).result()[1:]
    untouched = base.compute_logprobs(ids).result()[1:]
    assert seen[0] == seen[1]
    assert max(abs(a - b) for a, b in zip(seen[1], right, strict=True)) > 0.01
    assert (seen[1] == pytest.approx(untouched, abs=1e-6)) == (habit != "other")


def test_text_in_place_of_ids(tinker_server: Any, folder: Path) -> None:
    server = tinker_server(folder)
    sampler = new(server).save_weights_and_get_sampling_client().result()
    before = sample(sampler, number=8)
    server.manners.through_text = True
    after = sample(sampler, number=8)
    assert [each.tokens for each in before] != [each.tokens for each in after]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    same = [each for each in after if tokenizer.encode(tokenizer.decode(each.tokens)) == each.tokens]
    assert same == after
    assert all(len(each.tokens) == len(each.logprobs) for each in after)


def test_files_as_other_servers_hand_them_out(tinker_server: Any, folder: Path, tmp_path: Path) -> None:
    server = tinker_server(folder, external=False, modules_named=False)
    training = new(server, train_unembed=False, train_attn=False)
    with pytest.raises(tinker.NotFoundError):
        training.save_weights_external("one").result()
    path = training.save_weights_for_sampler("two").result().path
    address = f"{server.url}/api/v1/training_runs/{training.model_id}/checkpoints/two/archive"
    request = urllib.request.Request(address, headers={"X-API-Key": KEY})
    with tarfile.open(fileobj=io.BytesIO(urllib.request.urlopen(request).read())) as archive:
        archive.extractall(tmp_path / "there", filter="data")
    config = json.loads((tmp_path / "there" / "adapter_config.json").read_text())
    assert config["target_modules"] is None
    assert (config["r"], config["lora_alpha"]) == (4, 32)
    found, expected = (
        load_file(tmp_path / "there" / "adapter_model.safetensors"),
        server.state(training.model_id),
    )
    assert apart(expected, found) == 0
    assert {name.split(".")[-3] for name in found} == {"gate_proj", "up_proj", "down_proj"}
    rest = tinker.RestClient(base_url=server.url, api_key=KEY)
    (listed,) = rest.list_checkpoints(training.model_id).result().checkpoints
    assert (listed.tinker_path, listed.checkpoint_type) == (path, "sampler")
    about = rest.get_weights_info_by_tinker_path(path).result()
    assert (about.base_model, about.lora_rank, about.train_attn) == (str(folder), 4, False)


def test_another_model_behind_the_address(tinker_server: Any, folder: Path, make_model: Any) -> None:
    right, wrong = tinker_server(folder, name="ours"), tinker_server(make_model("llama"), name="ours")
    ids, found = types.ModelInput.from_ints(some_rows()[0].ids), []
    for server in (right, wrong):
        rest = tinker.RestClient(base_url=server.url, api_key=KEY)
        (offered,) = rest.get_server_capabilities().result().supported_models
        assert (offered.model_name, offered.max_context_length) == ("ours", 256)
        sampler = server.client().create_sampling_client(base_model="ours").result()
        found.append(sampler.compute_logprobs(ids).result()[1:])
    assert found[0] != pytest.approx(found[1], abs=0.1)
    with pytest.raises(tinker.BadRequestError, match="base model 'theirs' is not offered here; 'ours' is"):
        right.client().create_lora_training_client("theirs").result()
    with pytest.raises(tinker.BadRequestError, match="'theirs' is not offered"):
        right.client().create_sampling_client(base_model="theirs").result()


def test_a_wrong_key_and_a_refused_loss(tinker_server: Any) -> None:
    server = tinker_server(keys=(KEY,), losses=("cross_entropy",))
    with pytest.raises(tinker.AuthenticationError, match="Invalid API key: tml-wrong"):
        server.client("tml-wrong").create_lora_training_client(server.manners.name)
    training = new(server)
    with pytest.raises(tinker.RequestFailedError, match="'ppo' is not among cross_entropy") as caught:
        training.forward_backward([some_rows()[0].datum("ppo")], "ppo").result()
    assert caught.value.category == "user"
    data = [some_rows()[0].datum("cross_entropy")]
    assert training.forward_backward(data, "cross_entropy").result().metrics  # the line goes on


@pytest.mark.parametrize(
    ("ids", "inputs", "words"),
    [
        ([7, 8], {"target_tokens": [8, 9]}, r"data\[0\]: ppo needs loss_fn_inputs\['logprobs'\]"),
        ([7, 8], {"target_tokens": [8]}, r"data\[0\]: \w+ has the shape \[1\] for 2 tokens"),
        ([7, 999], {"target_tokens": [8, 9]}, "no token 999 among 297"),
        ([7] * 257, {"target_tokens": [8] * 257}, "257 tokens; the context is 256"),
        (
            [7, 8],
            {"target_tokens": [8, 9], "advantages": [0.0, math.inf]},
            "advantages has a number that is not",
        ),
    ],
)
def test_data_that_cannot_be(
    server: TinkerServer, training: Any, ids: list[int], inputs: dict[str, Any], words: str
) -> None:
    whole = {name: [0.0] * len(inputs["target_tokens"]) for name in ("logprobs", "advantages")} | inputs
    if "needs" in words:
        whole.pop("logprobs")
    datum = types.Datum(model_input=types.ModelInput.from_ints(ids), loss_fn_inputs=whole)
    with pytest.raises(tinker.RequestFailedError, match=words):
        training.forward_backward([datum], "ppo").result()


def test_a_path_of_nothing_and_a_prompt_too_long(server: TinkerServer, training: Any) -> None:
    with pytest.raises(tinker.RequestFailedError, match="no checkpoint tinker://gone/weights/one"):
        server.client().create_training_client_from_state("tinker://gone/weights/one").result()
    with pytest.raises(tinker.NotFoundError, match="no checkpoint"):
        server.client().create_sampling_client(model_path="tinker://gone/sampler_weights/one").result()
    training.save_state("same").result()
    with pytest.raises(tinker.RequestFailedError, match="there is a checkpoint"):
        training.save_state("same").result()
    training.save_state("same", overwrite=True).result()
    sampler = training.save_weights_and_get_sampling_client().result()
    with pytest.raises(
        tinker.RequestFailedError, match="250 tokens of the prompt and 12 more; the context is 256"
    ):
        sample(sampler, [7] * 250)
    with pytest.raises(tinker.RequestFailedError, match="stop is taken as token ids"):
        sample(sampler, stop=["."])


# Faults


@pytest.mark.parametrize("fault", ["before", "after", 503, 429])
def test_a_repeated_request_has_the_same_promise(tinker_server: Any, folder: Path, fault: Any) -> None:
    """The SDK asks again by itself; nothing is carried out twice."""
    server = tinker_server(folder)
    smooth, rough = new(server), new(server)
    for training in (smooth, rough):
        if training is rough and isinstance(fault, int):
            server.fail("forward_backward", status=fault)
            server.fail("optim_step", status=fault, after=1)
        elif training is rough:
            server.cut("forward_backward", when=fault)
            server.cut("optim_step", when=fault, after=1)
        for _ in range(2):
            training.forward_backward([row.datum("ppo") for row in some_rows()], "ppo").result()
            training.optim_step(ADAM).result()
    one, other = server.state(smooth.model_id), server.state(rough.model_id)
    assert all(torch.equal(one[name], value) for name, value in other.items())
    sent = [body["seq_id"] for body in server.asked("forward_backward") if body["model_id"] == rough.model_id]
    assert sent == [1, 1, 3]
    sent = [body["seq_id"] for body in server.asked("optim_step") if body["model_id"] == rough.model_id]
    assert sent == [2, 4, 4]


def test_errors_that_are_not_asked_again(tinker_server: Any, folder: Path) -> None:
    server = tinker_server(folder)
    training, data = new(server), [some_rows()[0].datum("ppo")]
    server.break_promise("optim_step", "no memory")
    with pytest.raises(tinker.RequestFailedError, match="RuntimeError: no memory") as caught:
        training.optim_step(ADAM).result()
    assert caught.value.category == "server"
    training.forward_backward(data, "ppo").result()
    training.optim_step(ADAM).result()
    server.fail("save_weights", status=400, text="no more room")
    with pytest.raises(tinker.BadRequestError, match="no more room"):
        training.save_state("one").result()
    sampler = new(server).save_weights_and_get_sampling_client().result()
    server.break_promise("asample", "no memory")
    with pytest.raises(tinker.RequestFailedError, match="no memory"):
        sample(sampler)
    assert len(sample(sampler)) == 3
    server.break_promise("create_model", "no card is free")
    with pytest.raises(tinker.RequestFailedError, match="no card is free"):
        new(server)


def test_a_slow_answer_and_a_lost_promise(tinker_server: Any, folder: Path) -> None:
    server = tinker_server(folder, patience=0.05)
    training, free = new(server), threading.Event()
    sampler = training.save_weights_and_get_sampling_client().result()
    before = len(server.asked("retrieve_future"))
    server.service.promises.at_once("in between", lambda: {"waited": free.wait(60)})
    waiting = sampler.sample(types.ModelInput.from_ints(PROMPTS[0]), 1, params())
    with pytest.raises(TimeoutError):
        waiting.result(0.5)
    free.set()
    waiting = sampler.sample(types.ModelInput.from_ints(PROMPTS[0]), 1, params())
    assert len(waiting.result(60).sequences) == 1
    assert len(server.asked("retrieve_future")) > before + 2  # try again, try again
    held = threading.Event()
    server.hold("asample", lambda: held.wait(60))
    waiting = sampler.sample(types.ModelInput.from_ints(PROMPTS[0]), 1, params())
    with pytest.raises(TimeoutError):
        waiting.result(0.2)
    held.set()
    server.fail("retrieve_future", status=410)  # a sample is asked for anew, with another number
    numbers = [body["seq_id"] for body in server.asked("asample")]
    assert len(sample(sampler)) == 3
    again = [body["seq_id"] for body in server.asked("asample")][len(numbers) :]
    assert len(again) == len(set(again)) >= 2


def test_a_service_that_goes_away(tinker_server: Any, folder: Path) -> None:
    server = tinker_server(folder)
    training = new(server)
    server.vanish()
    data = [some_rows()[0].datum("ppo")]
    waiting = training.forward_backward(data, "ppo")
    with pytest.raises(TimeoutError):
        waiting.result(1.0)
    waiting.future().cancel()
