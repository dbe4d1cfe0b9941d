"""The Tinker service of the tests misbehaves as it is told to, and only so."""

from __future__ import annotations

import io
import json
import math
import tarfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import tinker
import torch
import transformers
from safetensors.torch import load_file
from tinker import types

from tinker_server import KEY, TinkerServer
from tinker_server.asking import ADAM, PROMPTS, apart, new, params, sample, some_rows


@pytest.fixture(scope="module")
def training(server: TinkerServer) -> Any:
    return new(server)


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
    server = tinker_server(folder, patience=0.02)
    sampler = new(server).save_weights_and_get_sampling_client().result()
    prompt = types.ModelInput.from_ints(PROMPTS[0])

    free, again = threading.Event(), threading.Event()
    server.service.promises.at_once("in between", lambda: {"waited": free.wait(60)})
    server.hold("retrieve_future", again.set, after=2)
    waiting = sampler.sample(prompt, 1, params())
    assert again.wait(60)  # "try again" twice, and the third question has come
    assert not waiting.future().done()
    free.set()
    assert len(waiting.result(60).sequences) == 1

    came, held = threading.Event(), threading.Event()
    server.hold("asample", lambda: (came.set(), held.wait(60)))
    waiting = sampler.sample(prompt, 1, params())
    assert came.wait(60)
    assert not waiting.future().done()
    held.set()
    assert len(waiting.result(60).sequences) == 1

    server.fail("retrieve_future", status=410)
    before = len(server.asked("asample"))
    assert len(sampler.sample(prompt, 1, params()).result(60).sequences) == 1
    first, second = (body["seq_id"] for body in server.asked("asample")[before:])
    assert first != second  # asked for anew


def test_a_service_that_goes_away(tinker_server: Any, folder: Path) -> None:
    server = tinker_server(folder)
    training = new(server)
    server.vanish()
    data = [some_rows()[0].datum("ppo")]
    waiting = training.forward_backward(data, "ppo")
    with pytest.raises(TimeoutError):
        waiting.result(0.3)
    waiting.future().cancel()
