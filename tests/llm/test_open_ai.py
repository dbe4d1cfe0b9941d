"""Calls over real HTTP to a server that misbehaves."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from refine_rl.errors import GuardStop, RefineError, SettingsError
from refine_rl.llm.client import (
    Call,
    CallFailed,
    EndpointDown,
    EndpointRefused,
    Reply,
    Request,
    Schema,
    TooLong,
    Unsupported,
)
from refine_rl.llm.connections import EndpointConnections
from refine_rl.llm.endpoints import Endpoint
from refine_rl.llm.failures import Failure
from refine_rl.llm.ledger import Ledger
from refine_rl.llm.meter import meter
from refine_rl.llm.open_ai import EndpointClient, Line, Pace
from refine_rl.llm.structured import Unusable, ask
from refine_rl.llm.wire import Wire
from refine_rl.randomness import generator
from refine_rl.run.endpoints import connect
from refine_rl.settings import EndpointSettings, PriceSettings, Settings

QUICK = Pace(base=0.002, busy=0.002, longest=0.01, obey=2.0)
KEY = "sk-very-secret"
SCHEMA = Schema(
    name="a verdict", schema={"type": "object", "properties": {"score": {"type": "number"}, "why": {}}}
)
Server = Any
StartServer = Callable[..., Server]


def request(text: str = "Hi there.", **how: Any) -> Request:
    return Request(messages=({"role": "user", "content": text},), purpose="test", **how)


class Bench:
    """Connections to one server, with everything that they leave behind."""

    def __init__(self, server: Server | None, tmp_path: Path, **settings: Any) -> None:
        self.server = server
        self.calls: list[Call] = []
        self.notes: list[str] = []
        dollars = settings.pop("dollars", None)
        pace = settings.pop("pace", QUICK)
        environ = {"KEY": KEY, **settings.pop("environ", {})}
        settings.setdefault("base_url", server.base_url if server else None)
        settings.setdefault("key_env", "KEY")
        settings.setdefault("cache", False)
        self.sent: list[tuple[int, Call]] = []
        self.done: list[int] = []
        self.most_under_way = 0
        self.ledger = Ledger(
            self.calls.append,
            dollars=dollars,
            sent=self._put_down,
            done=self.done.append,
        )
        self.connections = EndpointConnections(
            {"here": EndpointSettings(**settings)},
            self.ledger,
            cache_folder=tmp_path / "cache",
            environ=environ,
            note=self.notes.append,
            pace=pace,
        )

    def _put_down(self, ticket: int, killed: Call) -> None:
        self.sent.append((ticket, killed))
        self.most_under_way = max(self.most_under_way, len(self.sent) - len(self.done))

    @property
    def client(self) -> EndpointClient:
        return self.connections.client("here/org/model")

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def whole() -> Any:
            try:
                return await work
            finally:
                await self.connections.close()

        return asyncio.run(whole())

    def complete(self, asked: Request | None = None) -> Reply:
        reply = self.run(self.client.complete(asked or request()))
        assert isinstance(reply, Reply)
        return reply

    @property
    def outcomes(self) -> list[str]:
        return [call.outcome for call in self.calls]


@pytest.fixture
def bench(llm_server: StartServer, tmp_path: Path) -> Callable[..., Bench]:
    """bench(brain=..., moods=..., hold=..., **settings of the endpoint)."""

    def make(**how: Any) -> Bench:
        of_server = {k: how.pop(k) for k in ("brain", "moods", "hold", "late", "cost") if k in how}
        return Bench(llm_server(**of_server), tmp_path, **how)

    return make


MakeBench = Callable[..., Bench]


class Patience:
    """Time limits that run out when `end` is called with the text that was asked, and not by a clock: an
    answer that comes is in time, however slow the machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._limits: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Timeout]] = {}
        text: ContextVar[str] = ContextVar("text")
        post, limit = Wire.post, asyncio.timeout

        async def posted(wire: Wire, body: dict[str, Any]) -> Any:
            text.set(body["messages"][0]["content"])
            return await post(wire, body)

        def limited(seconds: float) -> asyncio.Timeout:
            made = limit(seconds)
            self._limits[text.get()] = asyncio.get_running_loop(), made
            return made

        monkeypatch.setattr(Wire, "post", posted)
        monkeypatch.setattr("refine_rl.llm.wire.asyncio.timeout", limited)

    def end(self, body: dict[str, Any]) -> None:
        """In any thread: the time of this request is over."""
        loop, made = self._limits[body["messages"][0]["content"]]
        loop.call_soon_threadsafe(lambda: made.reschedule(loop.time()))

    def hurries(self, moods: Callable[[int], str]) -> Callable[[int, dict[str, Any]], str]:
        """`moods` for a server; where one is "late" the time is over."""

        def mood(number: int, body: dict[str, Any]) -> str:
            chosen = moods(number)
            if chosen == "late":
                self.end(body)
            return chosen

        return mood


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    return Patience(monkeypatch)


def opened(event: threading.Event) -> None:
    assert event.wait(60)


async def turns() -> None:
    """Until everything in this event loop that can go on has done so."""
    for _ in range(50):
        await asyncio.sleep(0)


PRICES = {"*": PriceSettings(input=0.5, output=2.2)}


def test_a_call(bench: MakeBench) -> None:
    here = bench(brain=lambda body: "Good day to you.", prices=PRICES)
    reply = here.complete(request("one two three", temperature=0.7, max_tokens=55, about="p1"))
    assert (reply.text, reply.finish, reply.tokens_in, reply.tokens_out) == ("Good day to you.", "stop", 3, 4)
    assert reply.cost_usd == (3 * 500 + 4 * 2200) / 1e9
    assert here.server.requests == [
        {
            "model": "org/model",
            "messages": [{"role": "user", "content": "one two three"}],
            "temperature": 0.7,
            "max_tokens": 55,
        }
    ]
    assert here.server.headers[0]["authorization"] == f"Bearer {KEY}"
    (call,) = here.calls
    assert (call.purpose, call.endpoint, call.model, call.outcome, call.about) == (
        "test",
        "here",
        "org/model",
        "ok",
        "p1",
    )
    assert (call.tokens_in, call.tokens_out, call.cost_usd) == (3, 4, reply.cost_usd)


def test_without_a_key_no_header_is_sent(bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "of-openai-only")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: of-openai-only")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    here = bench(key_env=None)
    here.complete()
    assert "authorization" not in here.server.headers[0]
    assert "of-openai-only" not in str(here.server.headers)


@pytest.mark.parametrize(
    ("mood", "outcome"),
    [
        ("busy", "busy"),
        ("busy:0.01", "busy"),
        ("busy-ms:10", "busy"),
        ("500", "server error"),
        ("503:0.01", "server error"),
        ("408", "server error"),
        ("409", "server error"),
        ("529", "server error"),
        ("drop-before", "no connection"),
        ("drop-headers", "no connection"),
        ("drop-body", "no connection"),
        ("late", "timeout"),
        ("no-choice", "empty"),
        ("error-in-200", "server error"),
        ("not-json", "server error"),
        ("html", "server error"),
        ("html-502", "server error"),
    ],
)
def test_what_passes_is_tried_again(bench: MakeBench, patience: Patience, mood: str, outcome: str) -> None:
    moods = patience.hurries(lambda number: mood if number < 2 else "ok")
    here = bench(brain=lambda body: "fine", moods=moods, timeout=60.0)
    assert here.complete().text == "fine"
    assert here.outcomes == [outcome, outcome, "ok"]
    assert len(here.server.requests) == 3


def test_an_endpoint_that_does_not_answer_says_so_at_the_first_retry(bench: MakeBench) -> None:
    here = bench(moods=["500", "drop-before", "503"], brain=lambda body: " ".join(here.notes) or "silence")
    told = here.complete().text
    address = re.escape(here.server.base_url)
    assert re.fullmatch(
        rf"The endpoint `here` \({address}\) gives no reply: The server had an error\. \(HTTP 500\)\. "
        r"Trying again in 0\.0 s \(4 more attempts after that\)\.",
        told,
    )
    assert here.notes == [told]  # once, and before the reply


def test_a_run_hears_of_it(llm_server: StartServer) -> None:
    server = llm_server(moods=["503:0.01"])
    told: list[str] = []
    settings = Settings(task="Be brief.", endpoints={"here": EndpointSettings(base_url=server.base_url)})

    async def work() -> None:
        connections = connect(settings, None, told.append)
        await connections.client("here/m").complete(request())
        await connections.close()

    asyncio.run(work())
    assert len(told) == 1
    assert "gives no reply" in told[0]


def test_many_calls_at_once_tell_it_once(bench: MakeBench) -> None:
    here = bench(moods=["500"] * 8)

    async def work() -> None:
        await asyncio.gather(*(here.client.complete(request(str(n))) for n in range(8)))

    here.run(work())
    assert len(here.notes) == 1


def test_a_rate_that_is_asked_for_is_no_silence_but_a_long_wait_is(bench: MakeBench) -> None:
    here = bench(moods=["busy", "busy:0.01"])
    here.complete()
    assert here.notes == []
    notes: list[str] = []
    line = Line(Endpoint(name="e", base_url="http://e/v1"), notes.append)
    busy = Failure(kind="retry", outcome="busy", text="Slow down", wait=60.0)
    line.repeats(busy, wait=60.0, left=0)
    assert notes == ["The endpoint `e` (http://e/v1) gives no reply: Slow down. Trying again in 60.0 s."]


def test_short_waits_for_a_rate_are_told_once_they_are_a_long_one_together() -> None:
    """An endpoint that says 429 to everything was silent for half a minute."""
    notes: list[float] = []
    now = 0.0
    line = Line(Endpoint(name="e", base_url="http://e/v1"), lambda text: notes.append(now), lambda: now)
    busy = Failure(kind="retry", outcome="busy", text="Slow down")
    for at, wait in ((0.0, 2.0), (2.0, 4.0), (5.9, 4.0), (6.0, 8.0), (14.0, 16.0)):
        now = at
        line.repeats(busy, wait=wait, left=3)
    assert notes == [6.0]
    line.works()
    now = 100.0
    line.repeats(busy, wait=2.0, left=3)
    assert notes == [6.0]


def test_a_long_silence_is_told_ever_more_seldom_and_its_end_too() -> None:
    notes: list[tuple[float, str]] = []
    now = 0.0
    line = Line(
        Endpoint(name="e", base_url="http://e/v1"), lambda text: notes.append((now, text)), lambda: now
    )
    down = Failure(kind="retry", outcome="no connection", text="no connection")
    line.works()
    for second in range(0, 500, 5):
        now = float(second)
        line.repeats(down, wait=5.0, left=1)
    assert [at for at, _ in notes] == [0.0, 60.0, 180.0, 420.0]
    now = 500.0
    line.works()
    line.works()
    assert notes[4:] == [(500.0, "The endpoint `e` answers again, after 500 s.")]
    line.repeats(down, wait=0.5, left=1)
    now = 501.0
    line.works()
    assert len(notes) == 5  # a second is nothing to speak of


def test_retry_after_is_obeyed(bench: MakeBench) -> None:
    here = bench(moods=["busy:0.3", "busy-ms:200", "busy-date:2"])
    here.complete()
    first, second, third, fourth = here.server.times
    assert second - first >= 0.3
    assert third - second >= 0.2
    assert fourth - third >= 0.9  # a date has whole seconds only
    assert fourth - first < 10


def test_a_wait_that_is_too_long_is_named(bench: MakeBench) -> None:
    here = bench(moods="busy:3600")
    with pytest.raises(EndpointRefused, match="wait 3600 s"):
        here.complete()
    assert len(here.server.requests) == 1


def test_backoff_grows_and_is_bounded(bench: MakeBench) -> None:
    client = bench(pace=Pace(base=0.5, busy=2.0, longest=30.0)).client
    for outcome, first in (("server error", 0.5), ("busy", 2.0)):
        failure = Failure(kind="retry", outcome=outcome, text="")
        waits = [client._wait(request(), failure, n) for n in range(8)]
        middles = [min(30.0, first * 2**n) for n in range(8)]
        assert all(0.75 * m <= wait <= 1.25 * m for wait, m in zip(waits, middles, strict=True))
        assert len({wait / m for wait, m in zip(waits, middles, strict=True)}) == 8  # jitter
        assert client._wait(request("other"), failure, 0) != waits[0]
        assert client._wait(request(), failure, 0) == waits[0]
    asked = Failure(kind="retry", outcome="busy", text="", wait=50.0)
    assert 50.0 <= client._wait(request(), asked, 0) <= 50.125


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        ("401", "environment variable KEY"),
        ("402", "no money"),
        ("403", "may not"),
        ("404", r"does not exist.*Check the model's name \(`org/model`\)"),
        ("quota", "no money or quota"),
    ],
)
def test_refusals_end_at_once(bench: MakeBench, mood: str, words: str) -> None:
    here = bench(moods=mood)
    with pytest.raises(EndpointRefused, match=words) as error:
        here.complete()
    assert error.value.exit_code == 4
    assert here.outcomes == ["refused"]
    assert len(here.server.requests) == 1


def test_a_quota_of_the_minute_is_waited_for(bench: MakeBench) -> None:
    brain_moods = iter(["busy:0.01", "ok"])
    here = bench(moods=lambda number, body: next(brain_moods))
    assert here.complete().text == "ok"


def test_no_error_and_no_line_shows_the_key(bench: MakeBench, tmp_path: Path) -> None:
    for mood in ["401", "402", "403", "404", "quota", "400", "500", "busy:9999", "too-long", "html-502"]:
        here = bench(moods=mood, retries=0)
        with pytest.raises((RefineError, CallFailed)) as error:
            here.complete()
        seen = f"{error.value} {error.value!r} {here.calls} {here.client.__dict__}"
        assert KEY not in seen
        assert KEY in str(here.server.headers)
        assert here.calls[0].extra["error"]
    echoed = bench(moods="401")
    with pytest.raises(EndpointRefused, match=r"Incorrect API key provided: \*\*\*"):
        echoed.complete()


@pytest.mark.parametrize("mood", ["400", "418"])
def test_other_mistakes_fail_the_call_alone(bench: MakeBench, mood: str) -> None:
    here = bench(moods=[mood])
    with pytest.raises(CallFailed, match=rf"Something is wrong\. \(HTTP {mood}\)"):
        here.complete()
    assert here.outcomes == ["rejected"]
    assert here.complete().text == "ok"


def test_a_context_that_is_too_short(bench: MakeBench) -> None:
    here = bench(moods="too-long")
    with pytest.raises(TooLong, match="maximum context length"):
        here.complete()
    assert here.outcomes == ["too long"]


def test_an_address_where_something_else_answers(llm_server: StartServer, tmp_path: Path) -> None:
    here = Bench(llm_server(moods="not-json"), tmp_path, prices=PRICES)
    with pytest.raises(EndpointDown, match=r"6 attempts\)\. Is it an OpenAI-compat") as error:
        here.complete()
    assert error.value.unreached == "here"


def test_an_unreachable_endpoint(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Bench(None, tmp_path, base_url=f"http://127.0.0.1:{port}/v1", prices=PRICES)
    with pytest.raises(EndpointDown, match=r"here.*6 attempts.*Is the server running\?") as error:
        here.complete()
    assert error.value.exit_code == 4
    assert error.value.unreached == "here"
    assert here.outcomes == ["no connection"] * 6
    assert [call.cost_usd for call in here.calls] == [0.0] * 6


def by_proxy(server: Server, scheme: str = "http") -> dict[str, Any]:
    """An endpoint outside, reached by a server that plays the proxy and all behind it."""
    url = server.base_url.removesuffix("/v1").replace("http://", "http://me:sk-proxy@")
    return {
        "base_url": f"{scheme}://api.example/v1",
        "environ": {f"{scheme.upper()}_PROXY": url},
        "prices": PRICES,
    }


def test_an_endpoint_outside_is_reached_by_its_proxy(llm_server: StartServer, tmp_path: Path) -> None:
    server = llm_server()
    here = Bench(server, tmp_path, **by_proxy(server))
    assert here.complete().text == "ok"
    assert server.headers[0]["host"] == "api.example"
    assert server.headers[0]["proxy-authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("scheme", "mood", "error", "words"),
    [
        ("http", "503", EndpointDown, r"overloaded\. \(HTTP 503\), through PROXY \(2 attempts\)"),
        ("http", "drop-before", EndpointDown, r"connection broke: .*, through PROXY.*Is HTTP_PROXY right"),
        ("http", "407", EndpointRefused, r"HTTP 407\), through PROXY\. Check the name and the pass.*HTTP_"),
        ("https", "ok", EndpointDown, r"no connection: 501 .*, through PROXY.*NO_PROXY"),
    ],
)  # fmt: skip
def test_an_error_behind_a_proxy_names_the_proxy(
    llm_server: StartServer, tmp_path: Path, scheme: str, mood: str, error: type[Exception], words: str
) -> None:
    server = llm_server(moods=mood)
    proxied = by_proxy(server, scheme)
    here = Bench(server, tmp_path, retries=1, **proxied)
    address = server.base_url.removesuffix("/v1")
    with pytest.raises(
        error, match=words.replace("PROXY", rf"the proxy {address} \({scheme.upper()}_PROXY\)", 1)
    ):
        here.complete()
    assert "sk-proxy" not in str(here.calls)


def test_a_dead_proxy_is_named(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://me:sk-proxy@127.0.0.1:{free.getsockname()[1]}"
    here = Bench(None, tmp_path, base_url="https://api.example/v1", environ={"ALL_PROXY": url}, retries=0)
    with pytest.raises(EndpointDown, match=r"through the proxy http://127\S+ \(ALL_PROXY\)") as error:
        here.complete()
    assert "sk-proxy" not in f"{error.value}{here.calls}"


def test_the_default_pace_gives_an_unreachable_endpoint_up_within_a_minute() -> None:
    pace = Pace()
    retries = EndpointSettings().retries
    assert sum(min(pace.longest, pace.base * 2**n) * 1.25 for n in range(retries)) < 60


def test_an_endpoint_that_never_answers_in_time_is_given_up_early(
    bench: MakeBench, patience: Patience
) -> None:
    here = bench(moods=patience.hurries(lambda number: "late"), timeout=60.5)
    with pytest.raises(EndpointDown, match=r"no answer within 60\.5 s \(3 attempts\)"):
        here.complete()


def test_one_lost_call_is_not_the_end_but_three_are(bench: MakeBench) -> None:
    here = bench(moods=["ok", *["500"] * 4, "ok", *["500"] * 6], retries=1)
    here.complete()
    for _ in range(2):
        with pytest.raises(CallFailed):
            here.complete()
    here.complete()
    for _ in range(2):
        with pytest.raises(CallFailed):
            here.complete()
    with pytest.raises(EndpointDown, match="Try again later"):
        here.complete()
    assert here.complete().text == "ok"


def test_answers_without_a_choice_never_bring_the_endpoint_down(bench: MakeBench) -> None:
    here = bench(moods="no-choice", retries=1, prices=PRICES)
    for _ in range(4):
        with pytest.raises(CallFailed, match="no choice"):
            here.complete()
    assert {call.cost_usd for call in here.calls} == {(2 * 500 + 2200) / 1e9}


@pytest.mark.parametrize(
    ("mood", "finish", "text"),
    [
        ("cut", "length", "four"),
        ("refusal", "refusal", "I cannot help with that."),
        ("filtered", "refusal", "fourfour"),
    ],
)
def test_how_a_reply_ended(bench: MakeBench, mood: str, finish: str, text: str) -> None:
    here = bench(brain=lambda body: "fourfour", moods=mood)
    reply = here.complete()
    assert (reply.finish, reply.text) == (finish, text)
    assert here.outcomes == ["cut" if mood == "cut" else "refusal"]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None}, ""),
        ({"content": None, "reasoning_content": "hm"}, ""),
        ({"content": "yes", "reasoning_content": "hm", "refusal": None}, "yes"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "x"}]}, "ab"),
        ({}, ""),
    ],
)
def test_contents(bench: MakeBench, message: dict[str, Any], text: str) -> None:
    assert bench(brain=lambda body: {"role": "assistant", **message}).complete().text == text


@pytest.mark.parametrize(
    ("choice", "usage", "words"),
    [
        ({"content": None}, {}, r'its content is null \(finish_reason "stop"\)'),
        ({"content": ""}, {}, "its content is empty"),
        ({"content": " \n"}, {}, "its content is empty"),
        ({"content": None, "reasoning_content": "Hm."}, {}, "a thought came, and no answer behind it"),
        ({"content": "", "reasoning": "Hm."}, {"reasoning_tokens": 7}, "a thought of 7 tokens came, and no"),
        ({"content": [{"type": "thinking", "thinking": "Hm."}]}, {}, "a thought came"),
        ({"content": [{"type": "reasoning", "text": '{"score": 1}'}]}, {}, "a thought came"),
        ({"tool_calls": [{"function": {"name": "search"}}]}, {}, r"called a tool \(`search`\)"),
        ({"content": None, "function_call": {"name": "search"}}, {}, r"called a tool \(`search`\)"),
        ({"content": None, "tool_calls": ["odd"]}, {}, r"called a tool \(without a name\)"),
    ],
)  # fmt: skip
def test_an_empty_reply_says_what_came_instead(
    bench: MakeBench, choice: dict[str, Any], usage: dict[str, Any], words: str
) -> None:
    here = bench(brain=lambda body: answer_of(choice, "stop", usage))
    reply = here.complete()
    assert reply.text.strip() == ""
    assert re.search(words, reply.instead)
    assert here.outcomes == ["empty"]
    assert re.search(words, str(here.calls[0].extra["error"]))
    with pytest.raises(CallFailed, match=f"The reply is empty: .*{words}"):
        here.run(ask(here.client, request(schema=SCHEMA, form="schema"), score, corrections=0))


def test_a_reply_that_its_limit_ate_says_so(bench: MakeBench) -> None:
    for thought, words in (
        ({}, "no word came before that"),
        ({"reasoning": "Hm"}, "a thought took all of it"),
    ):
        message = {"content": None, **thought}
        here = bench(brain=lambda body, message=message: answer_of(message, "length", {}))
        reply = here.complete(request(max_tokens=64))
        assert reply.instead == f"it was cut by max_tokens (64), and {words}; allow more"
        assert (reply.finish, here.outcomes) == ("length", ["cut"])


@pytest.mark.parametrize(
    "message",
    [{"content": None, "refusal": "Not that."}, {"content": [{"type": "refusal", "refusal": "Not that."}]}],
)
def test_a_refusal_is_told_in_the_models_words(bench: MakeBench, message: dict[str, Any]) -> None:
    here = bench(brain=lambda body: {"role": "assistant", **message})
    with pytest.raises(CallFailed, match=r'You declined to answer \("Not that\."\)'):
        here.run(ask(here.client, request(schema=SCHEMA, form="schema"), score, corrections=0))
    assert (here.outcomes, here.calls[0].extra) == (["refusal"], {"error": "Not that."})


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        *(("length", "length"), ("MAX_TOKENS", "length"), ("model_length", "length"), ("SAFETY", "refusal")),
        *(("stop", "stop"), ("end_turn", "stop"), (None, "stop"), (7, "stop")),
    ],
)  # fmt: skip
def test_reasons_by_other_names(bench: MakeBench, reason: Any, finish: str) -> None:
    here = bench(brain=lambda body: answer_of({"content": "so"}, reason, {}))
    assert here.complete().finish == finish


def test_a_filter_is_named(bench: MakeBench) -> None:
    here = bench(brain=lambda body: answer_of({"content": None}, "content_filter", {}))
    with pytest.raises(CallFailed, match="a filter of the endpoint held it back"):
        here.run(ask(here.client, request(schema=SCHEMA, form="schema"), score, corrections=0))


@pytest.mark.parametrize(
    ("body", "outcome", "words"),
    [
        (b'data: {"choices": []}\n\ndata: [DONE]\n\n', "server error", "a stream of events"),
        (b"<!doctype html><title>Sign in</title>", "server error", r"a web page \(Sign in\)"),
        (b"", "server error", "an empty body"),
        (b"[" * 50_000, "server error", r"no completion came back but this: \[\[\["),
        (b'{"choices": [], "message": "No provider is up."}', "empty", r"no choice: No provider is up\."),
        (b'{"choices": null, "detail": "asleep"}', "empty", "no choice: asleep"),
        (b'{"choices": [{"text": "old"}]}', "empty", "no choice"),
        (b'{"error": {"code": "500", "message": "x"}, "choices": []}', "server error", "x"),
        (b'{"choices": [{"error": {"code": "429", "message": "slow"}}]}', "busy", "slow"),
    ],
)
def test_bodies_that_are_no_completion_name_the_cause(
    bench: MakeBench, body: bytes, outcome: str, words: str
) -> None:
    here = bench(brain=lambda asked: body, retries=1)
    with pytest.raises((CallFailed, EndpointDown), match=words):
        here.complete()
    assert here.outcomes == [outcome] * 2


def test_a_byte_order_mark_does_no_harm(bench: MakeBench) -> None:
    answer = answer_of({"content": "\ufeff yes"}, "stop", {})
    assert bench(brain=lambda body: b"\xef\xbb\xbf" + answer).complete().text == "\ufeff yes"


def answer_of(message: dict[str, Any], finish: Any, details: dict[str, Any]) -> bytes:
    usage = {"prompt_tokens": 1, "completion_tokens": 8, "completion_tokens_details": details}
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode()


def test_usage_that_is_not_told_is_unknown(bench: MakeBench) -> None:
    here = bench(moods="no-usage", prices=PRICES)
    reply = here.complete()
    assert (reply.tokens_in, reply.tokens_out, reply.cost_usd) == (None, None, None)
    assert here.ledger.unknown_calls == 1


def test_quirks_are_learnt_once(bench: MakeBench) -> None:
    def moods(number: int, body: dict[str, Any]) -> str:
        return "no-temperature" if "temperature" in body else "new-max-tokens"

    here = bench(moods=moods)
    here.complete(request(max_tokens=7))
    assert [sorted(set(r) - {"model", "messages"}) for r in here.server.requests] == [
        ["max_tokens", "temperature"],
        ["max_tokens"],
        ["max_completion_tokens"],
    ]
    here.complete()
    assert len(here.server.requests) == 4


def test_a_quirk_that_does_not_help_is_a_failure(bench: MakeBench) -> None:
    here = bench(moods="never-temperature")
    with pytest.raises(CallFailed, match="must be warmer"):
        here.complete()
    assert len(here.server.requests) == 2


def test_quirks_learnt_by_several_calls_at_once(bench: MakeBench) -> None:
    meet = threading.Barrier(4, timeout=60)
    here = bench(moods="no-temperature", hold=lambda number: number < 4 and meet.wait())

    async def work() -> list[Reply]:
        return await asyncio.gather(*(here.client.complete(request(str(n))) for n in range(4)))

    assert [reply.text for reply in here.run(work())] == ["ok"] * 4
    assert ["temperature" in body for body in here.server.requests] == [True] * 4 + [False] * 4


def score(value: Any) -> float:
    return float(value["score"])


@pytest.mark.parametrize(
    ("mood", "forms"),
    [
        ("ok", ["json_schema"]),
        ("no-schema", ["json_schema", "json_object"]),
        ("no-forms", ["json_schema", "json_object", None]),
    ],
)
def test_forms_step_down(bench: MakeBench, mood: str, forms: list[str | None]) -> None:
    here = bench(brain=lambda body: '{"score": 0.5}', moods=mood)
    for _ in range(2):
        answer = here.run(ask(here.client, request(schema=SCHEMA, form="schema"), score))
        assert answer == 0.5
    sent = [r.get("response_format", {}).get("type") for r in here.server.requests]
    assert sent == [*forms, forms[-1]]
    assert here.outcomes == ["unsupported"] * (len(forms) - 1) + ["ok", "ok"]


def test_a_form_may_be_refused_without_a_word_about_it(bench: MakeBench) -> None:
    def moods(number: int, body: dict[str, Any]) -> str:
        return "400" if "response_format" in body else "ok"

    here = bench(brain=lambda body: '{"score": 0.5}', moods=moods)
    assert here.run(ask(here.client, request(schema=SCHEMA, form="schema"), score)) == 0.5
    plain = bench(brain=lambda body: '{"score": 0.5}', moods=["ok", "400"])
    plain.run(ask(plain.client, request(schema=SCHEMA, form="schema"), score))
    with pytest.raises(CallFailed) as error:
        plain.run(ask(plain.client, request(schema=SCHEMA, form="schema"), score))
    assert not isinstance(error.value, Unsupported)


def test_the_schema_goes_out_strict(bench: MakeBench) -> None:
    here = bench(brain=lambda body: '{"score": 0.5}')
    here.complete(request(schema=SCHEMA, form="schema"))
    assert here.server.requests[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {
            "name": "a_verdict",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"score": {"type": "number"}, "why": {}},
                "additionalProperties": False,
                "required": ["score", "why"],
            },
        },
    }


def test_concurrency_is_bounded_and_shared_by_the_models(bench: MakeBench) -> None:
    """Requests are answered five at a time, so that there are five; a sixth is not even put down."""
    meet = threading.Barrier(5, timeout=60)
    here = bench(concurrency=5, hold=lambda number: meet.wait())
    clients = [here.client, here.connections.client("here/other")]

    async def work() -> None:
        await asyncio.gather(*(clients[n % 2].complete(request(str(n))) for n in range(40)))

    here.run(work())
    assert here.most_under_way == 5
    assert len(here.server.requests) == 40
    assert here.server.most_at_once == 5
    assert here.server.connections == 5  # they are used again


def test_a_reply_that_trickles_in_has_the_same_time_limit(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = Bench(
            None,
            tmp_path,
            base_url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1",
            timeout=0.3,
            retries=0,
        )

        async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            try:
                while True:
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.05)  # the whole would take a minute
            except (ConnectionError, asyncio.CancelledError):
                pass
            finally:
                writer.close()

        async def work() -> None:
            server = await asyncio.start_server(trickle, sock=listening)
            async with server:
                try:
                    await here.client.complete(request())
                finally:
                    await here.connections.close()

        with pytest.raises(EndpointDown, match=r"no answer within 0\.3 s"):
            here.run(work())
    assert here.outcomes == ["timeout"]


def test_several_event_loops_one_after_the_other(bench: MakeBench) -> None:
    here = bench()
    for _ in range(3):
        assert here.complete().text == "ok"
    assert here.server.connections == 3


def test_a_loop_that_ends_without_close_leaves_nothing_open(bench: MakeBench) -> None:
    here = bench()
    assert asyncio.run(here.client.complete(request())).text == "ok"  # an open socket would be an error here
    assert here.complete().text == "ok"


def test_a_cancelled_call_leaves_a_line(bench: MakeBench) -> None:
    free = threading.Event()
    here = bench(hold=lambda number: opened(free), prices=PRICES)

    async def work() -> None:
        task = asyncio.create_task(here.client.complete(request("a b c", max_tokens=10)))
        while not here.server.requests:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        free.set()

    here.run(work())
    (call,) = here.calls
    assert here.done == [1]
    assert (call.outcome, call.cost_usd) == ("cancelled", None)
    assert call.extra["estimated_usd"] == (2 * 500 + 10 * 2200) / 1e9


@pytest.mark.parametrize("mood", ["ok", "500", "drop-body", "no-choice", "busy:0.01"])
def test_every_attempt_is_put_down_before_it_is_sent(bench: MakeBench, mood: str) -> None:
    here = bench(moods=[mood], prices=PRICES, cache=True, brain=lambda body: f"{len(here.sent)} sent")
    reply = here.complete(request("a b c", max_tokens=10))
    here.complete(request("a b c", max_tokens=10))  # from the cache
    attempts = 1 if mood == "ok" else 2
    assert reply.text == f"{attempts} sent"
    assert [ticket for ticket, _ in here.sent] == here.done == [1, 2][:attempts]
    killed = here.sent[0][1]
    assert (killed.outcome, killed.cost_usd, killed.tokens_in, killed.purpose) == (
        "killed",
        None,
        None,
        "test",
    )
    assert killed.extra == {"estimated_usd": (2 * 500 + 10 * 2200) / 1e9}


def test_nothing_is_lost_in_a_storm(bench: MakeBench, patience: Patience) -> None:
    kinds = ["busy", "500", "drop-before", "drop-body", "late", "no-choice", "not-json", "busy-ms:5", "cut"]
    kinds += ["ok"] * 6

    def moods(number: int) -> str:
        if number < len(kinds):
            return kinds[number - 1]  # each of them at least once, "ok" first
        return kinds[generator("mood", number).integers(len(kinds))]

    def brain(body: dict[str, Any]) -> str:
        return json.dumps({"score": float(body["messages"][0]["content"].split()[1])})

    here = bench(brain=brain, moods=patience.hurries(moods), timeout=60.0, retries=30)

    async def work() -> list[Any]:
        asked = [request(f"score {n}", schema=SCHEMA, form="schema") for n in range(25)]
        return await asyncio.gather(*(ask(here.client, one, score, corrections=8) for one in asked))

    assert here.run(work()) == [float(n) for n in range(25)]
    assert {"busy", "server error", "no connection", "timeout", "empty", "cut"} < set(here.outcomes)
    assert len(here.calls) == len(here.server.requests)


# Money


def test_the_ledger_is_right_to_the_nano_dollar_whatever_the_moods(bench: MakeBench) -> None:
    moods = ["ok", "500", "cut", "busy", "no-choice", "refusal", "503:0.001", "ok", "error-in-200", "400"] * 4
    here = bench(brain=lambda body: "some words of an answer", moods=moods, prices=PRICES)
    lost = 0

    async def one(number: int) -> None:
        nonlocal lost
        try:
            await here.client.complete(request("word " * number))
        except CallFailed:
            lost += 1

    async def work() -> None:
        await asyncio.gather(*(one(n) for n in range(1, 25)))

    with meter() as counted:
        here.run(work())
    tokens_in, tokens_out = here.server.billed_tokens
    bill = tokens_in * 500 + tokens_out * 2200
    assert round(here.ledger.known_usd * 1e9) == bill
    assert round(sum(call.cost_usd or 0.0 for call in here.calls) * 1e9) == bill
    assert round((counted.cost_usd or 0.0) * 1e9) == bill
    assert counted.calls == len(here.calls) == len(here.server.requests)
    assert here.ledger.unknown_calls == 0
    assert lost == 4


def test_the_price_that_the_endpoint_reports(bench: MakeBench) -> None:
    assert bench(cost=0.00123).complete().cost_usd == 0.00123
    assert bench(cost=0.00123, prices=PRICES).complete().cost_usd == (2 * 500 + 2200) / 1e9
    here = bench()
    assert here.complete().cost_usd is None
    assert here.calls[0].cost_usd is None
    assert here.ledger.unknown_calls == 1


def test_the_cap_stops_before_the_next_call(bench: MakeBench) -> None:
    one = (2 * 500 + 2200) / 1e9
    here = bench(prices=PRICES, dollars=3 * one)
    for _ in range(3):
        here.complete()
    with pytest.raises(GuardStop, match=r"budget\.dollars") as error:
        here.complete()
    assert (error.value.guard, error.value.exit_code) == ("budget", 3)
    assert "--resume" in error.value.advice
    assert len(here.server.requests) == 3


def test_the_cap_is_overrun_by_no_more_than_the_calls_in_flight(bench: MakeBench) -> None:
    one = (2 * 500 + 2200) / 1e9
    here = bench(prices=PRICES, dollars=10 * one, concurrency=4)

    async def work() -> list[Any]:
        calls = (here.client.complete(request(f"{n} x")) for n in range(40))
        return await asyncio.gather(*calls, return_exceptions=True)

    results = here.run(work())
    assert 10 <= len(here.server.requests) <= 13
    assert sum(isinstance(r, GuardStop) for r in results) == 40 - len(here.server.requests)


def test_calls_lost_on_the_way_count_for_the_cap_with_an_estimate(bench: MakeBench) -> None:
    here = bench(moods="drop-body", prices=PRICES, dollars=1e-4, retries=5)
    with pytest.raises(GuardStop, match="lost on the way"):
        here.complete(request("x" * 300, max_tokens=20))
    estimate = 101 * 500 + 20 * 2200
    assert [call.cost_usd for call in here.calls] == [None, None]  # 2 * 94,500 nano-dollars reach 100,000
    assert [round(call.extra["estimated_usd"] * 1e9) for call in here.calls] == [estimate, estimate]
    assert here.ledger.known_usd == 0.0


def test_a_cap_needs_prices(tmp_path: Path, bench: MakeBench) -> None:
    here = bench(dollars=1.0)
    with pytest.raises(SettingsError, match=r'\[endpoints\.here\.prices\]\n"org/model" = '):
        _ = here.client
    free = bench(dollars=1.0, prices={"org/model": PriceSettings(input=0, output=0)})
    assert free.complete().cost_usd == 0.0


# The cache


def test_a_reply_is_kept_and_costs_nothing_again(bench: MakeBench) -> None:
    here = bench(cache=True, prices=PRICES)
    first = here.complete()
    with meter() as counted:
        again = here.complete()
    assert (again.text, again.cached, again.cost_usd, again.seconds) == (first.text, True, 0.0, 0.0)
    assert len(here.server.requests) == 1
    assert here.outcomes == ["ok", "cached"]
    assert (counted.calls, counted.cost_usd) == (0, 0.0)


def test_equal_requests_under_way_share_one_call(bench: MakeBench) -> None:
    free = threading.Event()
    here = bench(cache=True, hold=lambda number: opened(free))

    async def work() -> list[Reply]:
        asked = asyncio.gather(*(here.client.complete(request()) for _ in range(6)))
        await turns()
        free.set()
        return await asked

    replies = here.run(work())
    assert len(here.server.requests) == 1
    assert sorted(reply.cached for reply in replies) == [False, *[True] * 5]
    assert sorted(here.outcomes) == [*["cached"] * 5, "ok"]


def test_sharers_of_a_call_that_is_cancelled_ask_themselves(bench: MakeBench) -> None:
    free = threading.Event()
    here = bench(cache=True, hold=lambda number: opened(free))

    async def work() -> Reply:
        first = asyncio.create_task(here.client.complete(request()))
        while not here.server.requests:
            await asyncio.sleep(0.005)
        second = asyncio.create_task(here.client.complete(request()))
        await turns()
        first.cancel()
        await turns()
        free.set()
        return await second

    assert here.run(work()).text == "ok"
    assert len(here.server.requests) == 2


def test_a_sharer_that_is_cancelled_takes_nobody_along(bench: MakeBench) -> None:
    free = threading.Event()
    here = bench(cache=True, hold=lambda number: opened(free))

    async def work() -> list[Reply]:
        first = asyncio.create_task(here.client.complete(request()))
        while not here.server.requests:
            await asyncio.sleep(0.005)
        second, third = (asyncio.create_task(here.client.complete(request())) for _ in range(2))
        await turns()
        second.cancel()
        await turns()
        free.set()
        return [await first, await third]

    assert [reply.text for reply in here.run(work())] == ["ok", "ok"]
    assert len(here.server.requests) == 1


@pytest.mark.parametrize("mood", ["cut", "refusal"])
def test_only_whole_replies_are_kept(bench: MakeBench, mood: str) -> None:
    here = bench(cache=True, moods=[mood], brain=lambda body: "whole")
    here.complete()
    assert here.complete().text == "whole"
    assert len(here.server.requests) == 2


def test_what_stayed_unusable_is_not_kept_for_ever(bench: MakeBench) -> None:
    texts = iter(['{"score": "x"}', '{"score": "y"}', '{"score": 0.25}'])
    here = bench(cache=True, brain=lambda body: next(texts))
    asked = request(schema=SCHEMA, form="schema")

    def read(value: Any) -> float:
        if isinstance(value["score"], str):
            raise Unusable("no number")
        return score(value)

    with pytest.raises(CallFailed, match="no number"):
        here.run(ask(here.client, asked, read, corrections=1))
    assert here.run(ask(here.client, asked, read, corrections=1)) == 0.25


def test_a_dialogue_with_corrections_comes_from_the_cache_whole(bench: MakeBench) -> None:
    texts = iter(["no", "no", '{"score": 0.25}'])
    here = bench(cache=True, brain=lambda body: next(texts))
    asked = request(schema=SCHEMA, form="schema")
    for _ in range(2):
        assert here.run(ask(here.client, asked, score)) == 0.25
    assert len(here.server.requests) == 3


def test_only_what_could_be_used_reaches_the_folder(bench: MakeBench, tmp_path: Path) -> None:
    texts = iter(["no", '{"score": "x"}', '{"score": 0.25}'])
    here = bench(cache=True, brain=lambda body: next(texts))

    def read(value: Any) -> float:
        if isinstance(value["score"], str):
            raise Unusable("no number")
        return score(value)

    assert here.run(ask(here.client, request(schema=SCHEMA, form="schema"), read)) == 0.25
    kept = [json.loads(path.read_text())["text"] for path in (tmp_path / "cache").rglob("*.json")]
    assert kept == ['{"score": 0.25}'] * 2  # of the first request and of the last correction


def test_a_model_that_repeats_itself_is_asked_every_time(bench: MakeBench) -> None:
    here = bench(cache=True, brain=lambda body: "no")
    with pytest.raises(CallFailed, match="no JSON"):
        here.run(ask(here.client, request(schema=SCHEMA, form="text"), score, corrections=4))
    bodies = [json.dumps(body) for body in here.server.requests]
    assert len(bodies) == len(set(bodies)) >= 5
    assert "cached" not in here.outcomes


def test_equal_questions_under_way_share_their_corrections_too(bench: MakeBench) -> None:
    def brain(body: dict[str, Any]) -> str:
        return "no" if len(body["messages"]) == 1 else '{"score": 0.25}'

    free = threading.Event()
    here = bench(cache=True, brain=brain, hold=lambda number: opened(free))

    async def work() -> list[Any]:
        asked = request(schema=SCHEMA, form="schema")
        asking = asyncio.gather(*(ask(here.client, asked, score) for _ in range(5)))
        await turns()
        free.set()
        return await asking

    assert here.run(work()) == [0.25] * 5
    assert len(here.server.requests) == 2


def test_a_folder_that_cannot_be_written_is_noted_once(bench: MakeBench, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    here = bench(cache=True)
    for _ in range(2):
        assert here.complete().text == "ok"
    assert len(here.server.requests) == 2
    assert len(here.notes) == 1
    assert "cannot be kept" in here.notes[0]


def test_the_body_is_sent_also_with_half_a_surrogate(bench: MakeBench) -> None:
    here = bench()
    here.complete(request("half \ud83d"))
    assert here.server.requests[0]["messages"][0]["content"] == "half ?"
    assert json.dumps(here.server.requests)
