"""The Tinker service of the tests, asked by the real SDK: its numbers are a plain model's, faults happen."""

from __future__ import annotations

import math
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import tinker
import torch
import transformers
from tinker import types
from torch import Tensor

from tinker_server import KEY, TinkerServer
from tinker_server.asking import ADAM, PROMPTS, Row, apart, new, params, sample, some_rows


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


def forward(model: Any, ids: Sequence[int]) -> Tensor:
    """log p of each id but the first, given those before it, one call a row."""
    logprobs_T_V = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return torch.stack([logprobs_T_V[t, token] for t, token in enumerate(ids[1:])])


LOW, HIGH = 0.8, 1.3


def plain_loss(loss: str, model: Any, rows: Sequence[Row]) -> Tensor:
    """The sum of the formula over the tokens, one at a time."""
    total = torch.zeros(())
    for row in rows:
        new_T = forward(model, row.ids)[len(row.prompt) - 1 :]
        for logp, old, each in zip(new_T, row.old, row.each, strict=True):
            ratio = torch.exp(logp - old)
            near = min(max(float(ratio.detach()), LOW), HIGH)
            if loss == "cross_entropy":
                total = total - each * logp
            elif loss == "importance_sampling":
                total = total - ratio * each
            elif loss == "ppo":
                total = total - min(ratio * each, torch.tensor(near * each))
            else:
                total = total - near * each * logp
    return total


def gradient(model: Any) -> dict[str, Tensor]:
    return {n.replace(".default", ""): p.grad for n, p in model.named_parameters() if p.grad is not None}


# Gradients


@pytest.mark.parametrize("loss", ["cross_entropy", "importance_sampling", "ppo", "cispo"])
def test_a_gradient_is_autograds(server: TinkerServer, state: str, plain: Any, loss: str) -> None:
    training = server.client().create_training_client_from_state(state).result()
    rows = some_rows()
    clips = {"clip_low_threshold": LOW, "clip_high_threshold": HIGH}
    config = clips if loss in ("ppo", "cispo") else None
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


def test_the_rows_are_clipped_on_both_sides(plain: Any) -> None:
    """Otherwise the gradients above would say little."""
    seen = set()
    for row in some_rows():
        with torch.no_grad():
            new_T = forward(plain, row.ids)[len(row.prompt) - 1 :]
        ratios = torch.exp(new_T - torch.tensor(row.old)).tolist()
        seen |= {
            (r > HIGH) - (r < LOW) for r, each in zip(ratios, row.each, strict=True) if (r > 1) == (each > 0)
        }
    assert seen == {-1, 0, 1}


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
