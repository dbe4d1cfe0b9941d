"""A policy asked over real HTTP, by OpenAI's own client and by hand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from refine_rl.envs.play import sample
from refine_rl.errors import UserError
from refine_rl.pipeline.serve import own as own_module
from refine_rl.pipeline.serve.asked import Names, Refused, read_asked
from refine_rl.pipeline.serve.front import Door, front
from refine_rl.pipeline.serve.own import Own
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose
from refine_rl.settings import ModelSettings
from refine_rl.types import Prompt, Trajectory

MakeModel = Callable[..., Path]
HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
NAMES = Names(base=("base", "some/model"), max_tokens=12)


@pytest.fixture(scope="module")
def policy(make_model: MakeModel) -> Policy:
    """A small model with an adapter that changes its answers."""
    made = load_policy(ModelSettings(name=str(make_model("llama")), rank=4, dtype="float32"))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for name, weight in made.trainable().items():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return made


class At:
    """A server in this process."""

    def __init__(self, policy: Any, names: Names = NAMES, key: str = "", loopback: bool = True) -> None:
        self.done: list[tuple[str, int, int]] = []
        self.own = Own(policy, longest=0, done=lambda *told: self.done.append(told))
        self.server = front("127.0.0.1", 0, self.own, names, Door(loopback=loopback, key=key), created=7)
        self.port = int(self.server.server_address[1])
        self.client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key or "none", max_retries=0, timeout=60
        )
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()
        self.own.close()
        self.client.close()

    def ask(self, **wanted: Any) -> Any:
        return self.client.chat.completions.create(**{"model": "tuned", "messages": HELLO, **wanted})

    def raw(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Content-Type": "application/json", **named})
        reply = connection.getresponse()
        said = reply.read()
        connection.close()
        return reply.status, json.loads(said or b"{}")


@pytest.fixture(scope="module")
def at(policy: Policy) -> Iterator[At]:
    served = At(policy)
    yield served
    served.stop()


def by_hand(policy: Any, members: int = 1, seed: int = 0, **sampling: Any) -> list[Trajectory]:
    """The same answers without a server."""
    prompt = Prompt(id="request", split="held_out", messages=tuple(HELLO))
    (group,) = sample(
        policy,
        [prompt],
        members=members,
        sampling=Sampling(**{"max_tokens": 12, **sampling}),
        purpose=Purpose(seed=seed, step=0, name="serve"),
    )
    return list(group)


def test_tuned_and_base_give_the_policys_own_answers(at: At, policy: Policy) -> None:
    tuned = by_hand(policy, temperature=0.0)[0]
    with policy.reference() as untrained:
        base = by_hand(untrained, temperature=0.0)[0]
    assert tuned.completion != base.completion
    for model, wanted in (("tuned", tuned), ("base", base), ("some/model", base)):
        reply = at.ask(model=model, temperature=0)
        assert reply.choices[0].message.content == wanted.completion
        assert reply.choices[0].finish_reason == wanted.stop_reason
        assert reply.model == model
        assert reply.usage.prompt_tokens == len(wanted.segments[0].token_ids)
        assert reply.usage.completion_tokens == wanted.completion_tokens
    assert [m.id for m in at.client.models.list()] == ["tuned", "base", "some/model"]
    assert at.client.models.retrieve("some/model").created == 7
    assert at.done[-1] == ("some/model", reply.usage.prompt_tokens, reply.usage.completion_tokens)


def test_seeded_answers_with_log_probs_whole_and_streamed(at: At, policy: Policy) -> None:
    wanted = by_hand(policy, members=3, seed=5, temperature=0.8, top_p=0.9)
    asked: dict[str, Any] = {"n": 3, "seed": 5, "temperature": 0.8, "top_p": 0.9, "logprobs": True}
    whole = at.ask(**asked)
    assert len({t.completion for t in wanted}) > 1
    for choice, t in zip(whole.choices, wanted, strict=True):
        assert choice.message.content == t.completion
        assert choice.finish_reason == t.stop_reason
        told = [token.logprob for token in choice.logprobs.content]
        assert told == pytest.approx(t.segments[1].logprobs, abs=1e-6)
    texts, ends, told = [""] * 3, [""] * 3, [0] * 3
    usage = None
    for event in at.ask(**asked, stream=True, stream_options={"include_usage": True}):
        usage = event.usage or usage
        for choice in event.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
            told[choice.index] += len(choice.logprobs.content) if choice.logprobs else 0
    assert texts == [t.completion for t in wanted]
    assert ends == [t.stop_reason for t in wanted]
    assert told == [t.completion_tokens for t in wanted]
    assert usage == whole.usage
    other = at.ask(**{**asked, "seed": 6})
    assert [c.message.content for c in other.choices] != texts


def test_a_stop_is_found_and_left_out(at: At, policy: Policy) -> None:
    text = by_hand(policy, temperature=0.0, max_tokens=40)[0].completion
    stop = text[9:12]
    place = text.index(stop)
    wanted = text[:place]
    whole = at.ask(temperature=0, max_tokens=40, stop=["never in there", stop])
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (wanted, "stop")
    assert whole.usage.completion_tokens < 40
    pieces = [
        c.delta.content or ""
        for e in at.ask(temperature=0, max_tokens=40, stop=stop, stream=True)
        for c in e.choices
    ]
    assert "".join(pieces) == wanted


def test_the_runs_system_message_goes_before_those_without(policy: Policy) -> None:
    system = {"role": "system", "content": "say cat"}
    asked = read_asked(
        {"model": "tuned", "messages": HELLO, "temperature": None}, Names(system=system["content"])
    )
    assert list(asked.messages) == [system, *HELLO]
    other = [
        {"role": "developer", "content": "dog"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]
    kept = read_asked({"model": "tuned", "messages": other}, Names(system="say cat")).messages
    assert list(kept) == [{"role": "system", "content": "dog"}, {"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "gpt-4"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a" * 3000}]}, 400, "messages"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": True}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"n": 129}, 400, "n"),
        ({"seed": 1.5}, 400, "seed"),
        ({"stop": [""]}, 400, "stop"),
        ({"stream": "yes"}, 400, "stream"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"top_logprobs": 3}, 400, "top_logprobs"),
        ({"best_of": 3}, 400, "best_of"),
    ],
)
def test_what_cannot_be_done_is_refused(at: At, change: dict[str, Any], status: int, param: str) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        at.client.post(
            "/chat/completions", body={"model": "tuned", "messages": HELLO, **change}, cast_to=object
        )
    said: Any = error.value.body
    assert (error.value.status_code, said["param"]) == (status, param)
    assert said["type"] == "invalid_request_error"


def test_neutral_fields_are_taken(at: At) -> None:
    neutral = {"user": "me", "presence_penalty": 0, "response_format": {"type": "text"}, "tools": None}
    assert at.ask(temperature=0, extra_body=neutral).choices[0].message.content


def test_a_limit_beyond_the_models_ends_with_it(at: At, policy: Policy) -> None:
    reply = at.ask(temperature=0, max_tokens=100_000)
    used = reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert used == policy.context_length or reply.choices[0].finish_reason == "stop"


def test_only_this_machine_is_answered(at: At) -> None:
    body = json.dumps({"model": "tuned", "messages": HELLO, "max_tokens": 1}).encode()
    path = "/v1/chat/completions"
    assert at.raw("POST", path, body)[0] == 200
    assert at.raw("POST", path, body, Origin=f"http://localhost:{at.port}")[0] == 200
    assert at.raw("POST", path, body, Host="evil.example")[0] == 403
    assert at.raw("POST", path, body, Origin="https://evil.example")[0] == 403
    assert at.raw("POST", path, body, Origin="null")[0] == 403
    assert at.raw("POST", path, body, Content_Type="text/plain")[0] == 415
    assert at.raw("POST", path, b"{")[0] == 400
    assert at.raw("POST", path, b"[" * 100_000)[0] == 400
    assert at.raw("POST", path, Content_Length="99999999999")[0] == 413
    assert at.raw("POST", path, Content_Length="x")[0] == 411
    status, said = at.raw("POST", "/v1/completions", body)
    assert status == 404
    assert "POST /v1/chat/completions" in said["error"]["message"]
    assert at.raw("DELETE", "/v1/models")[0] == 405
    assert at.raw("GET", "/v1/models/nobody")[0] == 404
    assert at.raw("GET", "/health") == (200, {"status": "ok"})


def test_a_key_is_asked_for(policy: Policy) -> None:
    served = At(policy, key="s3cret")
    try:
        assert served.ask(max_tokens=1).choices
        status, said = served.raw("GET", "/v1/models", Authorization="Bearer other")
        assert (status, said["error"]["code"]) == (401, "invalid_api_key")
        assert "s3cret" not in json.dumps(said)
        assert served.raw("GET", "/v1/models")[0] == 401
        assert served.raw("GET", "/health")[0] == 200
    finally:
        served.stop()


def test_a_taken_port_and_an_address_that_is_none(at: At) -> None:
    door = Door(loopback=True)
    with pytest.raises(UserError, match=f"--port {at.port}: it is taken"):
        front("127.0.0.1", at.port, at.own, NAMES, door, created=0)
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1"):
        front("192.0.2.1", 0, at.own, NAMES, door, created=0)


class Held:
    """A policy that reads nothing before it is let go; `read` counts its prompts."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self.go, self.reading, self.read = policy, threading.Event(), threading.Event(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def encode(self, messages: Any) -> Any:
        self.reading.set()
        assert self.go.wait(60)
        self.read += 1
        return self._policy.encode(messages)


def test_who_leaves_is_not_answered_and_who_is_too_many_is_told(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_module, "MOST_WAITING", 1)
    monkeypatch.setattr(own_module, "_LOOK", 0.01)
    held = Held(policy)
    served = At(held)
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(served.ask(temperature=0)))
    first.start()
    try:
        assert held.reading.wait(60)
        impatient = served.client.with_options(timeout=0.2)
        with pytest.raises(openai.APITimeoutError):
            impatient.chat.completions.create(model="tuned", messages=HELLO)
        with pytest.raises(openai.RateLimitError, match="1 requests are waiting already"):
            served.ask()
        (waiting,) = served.own._jobs.queue
        assert waiting is not None
        assert waiting.gone.wait(60)
    finally:
        held.go.set()
        first.join()
        served.stop()
    assert answers[0].choices[0].message.content
    assert held.read == 1


def test_closing_ends_what_is_being_answered(policy: Policy) -> None:
    held = Held(policy)
    own = Own(held, longest=0)  # type: ignore[arg-type]
    refused: list[Refused] = []

    def ask() -> None:
        asked = read_asked({"model": "tuned", "messages": HELLO}, NAMES)
        with pytest.raises(Refused) as error:
            list(own.chat(asked, lambda: True).parts)
        refused.append(error.value)

    asking = threading.Thread(target=ask)
    asking.start()
    assert held.reading.wait(60)
    closing = threading.Thread(target=own.close)
    closing.start()
    while not own._closing.is_set():
        time.sleep(0.001)
    held.go.set()
    closing.join()
    asking.join()
    ask()  # nobody is there any more
    assert [r.status for r in refused] == [503, 503]
