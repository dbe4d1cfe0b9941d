"""Calls to OpenAI-compatible endpoints: slots, retries, the cache, a line in the ledger for every attempt."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from refine_rl.llm.cache import Cache, cache_key
from refine_rl.llm.client import (
    Call,
    CallFailed,
    EndpointDown,
    EndpointRefused,
    Form,
    Reply,
    Request,
    TooLong,
    Unsupported,
)
from refine_rl.llm.completion import Quirks, body_of, read_completion
from refine_rl.llm.endpoints import Endpoint, parse_model
from refine_rl.llm.failures import Failure, failure_of_status
from refine_rl.llm.ledger import ESTIMATE, Ledger
from refine_rl.llm.meter import NANO
from refine_rl.llm.prices import Price
from refine_rl.llm.wire import Answered, Wire, open_wire
from refine_rl.randomness import generator
from refine_rl.settings.toml_write import toml_key
from refine_rl.types import Message, count_of

_FAILED_IN_A_ROW = 3  # calls without any success between them, after which an endpoint is given up
_SILENT_RETRIES = 2  # further attempts at an endpoint that has never answered and does not in time
_NOTICED = 10.0  # seconds of silence, or of a wait that is asked for, that a person notices
_QUIET = (60.0, 3600.0)  # seconds between two notes on one endpoint: at first, doubled each time up to
_SHOWN = 300  # characters of a refusal that the ledger keeps
_CHARS_PER_TOKEN = 3  # fewer than is usual, so that an estimate is rather too high


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How long to wait before trying again, in seconds: `base` doubles with each retry (`busy` after a 429),
    up to `longest`. A wait that the endpoint asks for is obeyed up to `obey`; then the call is given up."""

    base: float = 0.5
    busy: float = 2.0
    longest: float = 30.0
    obey: float = 120.0


class Line:
    """An endpoint with its health, shared by the clients of all its models. `note` hears when it does not
    answer: at the first attempt that is repeated, and then ever more seldom."""

    def __init__(
        self,
        endpoint: Endpoint,
        note: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        self.answered = False  # anything usable, ever
        self._failed = 0
        self._note = note
        self._clock = clock
        self._since: float | None = None  # when it was first told of that it does not answer
        self._waits: float | None = None  # when an attempt was repeated, and none has succeeded since
        self._quiet_until = -math.inf
        self._quiet = _QUIET[0]
        self._lock = threading.Lock()
        self._wires: dict[asyncio.AbstractEventLoop, Wire] = {}

    async def wire(self) -> Wire:
        """The running loop's own wire."""
        loop = asyncio.get_running_loop()
        with self._lock:
            for other in [one for one in self._wires if one.is_closed()]:
                del self._wires[other]
            wire = self._wires.get(loop)
        if wire is None:
            wire = await open_wire(self.endpoint)
            with self._lock:
                self._wires[loop] = wire
        return wire

    async def close(self) -> None:
        """Closes what is open in the running loop."""
        with self._lock:
            wire = self._wires.pop(asyncio.get_running_loop(), None)
        if wire is not None:
            await wire.close()

    def works(self) -> None:
        self.answered, self._failed = True, 0
        with self._lock:
            since, self._since = self._since, None
            self._waits = None
        if since is not None and (silent := self._clock() - since) >= _NOTICED:
            self._note(f"The endpoint `{self.endpoint.name}` answers again, after {silent:.0f} s.")

    def repeats(self, failure: Failure, *, wait: float, left: int) -> None:
        """Tells that an attempt is repeated after `wait` seconds, and that `left` more may follow."""
        now = self._clock()
        with self._lock:
            self._waits = now if self._waits is None else self._waits
            if failure.outcome == "busy" and now - self._waits + wait < _NOTICED:
                return  # every endpoint has its rate, and this is how one learns of it
            self._since = now if self._since is None else self._since
            if now < self._quiet_until:
                return
            self._quiet_until = now + self._quiet
            self._quiet = min(2 * self._quiet, _QUIET[1])
        more = f" ({left} more {'attempt' if left == 1 else 'attempts'} after that)" if left else ""
        self._note(
            f"The endpoint `{self.endpoint.name}` ({self.endpoint.base_url}) gives no reply: {failure.text}. "
            f"Trying again in {wait:.1f} s{more}."
        )

    def fails(self) -> bool:
        """Counts a call that failed for good; whether the endpoint is to be given up."""
        self._failed += 1
        return not self.answered or self._failed >= _FAILED_IN_A_ROW


class EndpointClient:
    """One model of one endpoint."""

    def __init__(
        self,
        model: str,
        line: Line,
        ledger: Ledger,
        *,
        price: Price | None = None,
        cache: Cache | None = None,
        pace: Pace = Pace(),
    ) -> None:
        self.model = model
        self._name = parse_model(model)[1]
        self._line = line
        self._ledger = ledger
        self._price = price
        self._priced = price is not None
        self._cache = cache
        self._pace = pace
        self._quirks = Quirks()
        self._forms: set[Form] = set()  # in which a reply has come

    async def complete(self, request: Request) -> Reply:
        """As the protocol says. Equal requests under way at the same time share one call."""
        if self._cache is None:
            return await self._call(await self._line.wire(), request)
        key = self._key(request)
        while True:
            if kept := self._cache.get(key):
                return self._free(request, kept)
            wire = await self._line.wire()
            if key not in wire.in_flight:
                return await self._shared_call(wire, key, request, self._cache)
            reply = await asyncio.shield(wire.in_flight[key])
            if reply is not None:
                return self._free(request, reply)

    def keep(self, request: Request, reply: Reply) -> None:
        """`reply` answers `request` the next time. One to a request with a schema is kept only so: whoever
        asked knows whether it could be used."""
        if self._cache is not None:
            self._cache.put(self._key(request), reply)

    def forget(self, request: Request) -> bool:
        """The reply to `request` is not to be given again; whether there was one."""
        return self._cache is not None and self._cache.forget(self._key(request))

    def _key(self, request: Request) -> str:
        return cache_key(self._line.endpoint.base_url, self._name, request)

    def _free(self, request: Request, reply: Reply) -> Reply:
        free = replace(reply, tokens_in=0, tokens_out=0, cost_usd=0.0, seconds=0.0, cached=True)
        self._replied(request, "cached", free)
        return free

    async def _shared_call(self, wire: Wire, key: str, request: Request, cache: Cache) -> Reply:
        """The call that others with the same request wait for; they ask themselves where it fails."""
        shared: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        wire.in_flight[key] = shared
        reply = None
        try:
            reply = await self._call(wire, request)
            if request.schema is None:
                cache.put(key, reply)
            return reply
        finally:
            del wire.in_flight[key]
            shared.set_result(reply)

    async def _call(self, wire: Wire, request: Request) -> Reply:
        async with wire.slots:
            retries = 0
            while True:
                self._ledger.check()
                quirks = self._quirks
                done = await self._attempt(wire, request, quirks)
                if isinstance(done, Reply):
                    self._line.works()
                    self._forms.add(request.form)
                    return done
                if self._adapts(done, quirks):
                    continue
                if done.kind != "retry":
                    self._raise(request, done)
                silent = done.outcome == "timeout" and not self._line.answered
                if retries >= (min(_SILENT_RETRIES, self._retries) if silent else self._retries):
                    self._give_up(done, retries + 1)
                wait = self._wait(request, done, retries)
                retries += 1
                self._line.repeats(done, wait=wait, left=self._retries - retries)
                await asyncio.sleep(wait)

    @property
    def _retries(self) -> int:
        return self._line.endpoint.settings.retries

    async def _attempt(self, wire: Wire, request: Request, quirks: Quirks) -> Reply | Failure:
        """One request over the wire, written down before and after."""
        reply = Reply(text="")
        ticket = self._ledger.send(self._entry(request, "killed", reply))
        began = time.perf_counter()
        try:
            answer = await wire.post(body_of(self._name, request, quirks))
        except asyncio.CancelledError:
            entry = self._entry(request, "cancelled", replace(reply, seconds=time.perf_counter() - began))
            self._ledger.record(entry, ticket, request=self._shown(request))
            raise
        seconds = time.perf_counter() - began
        failure: Failure | None
        if isinstance(answer, Answered) and answer.status < 300:
            reply, failure = read_completion(answer.body, request)
        elif isinstance(answer, Answered):
            failure = failure_of_status(answer.status, answer.headers, answer.body, request.form)
            if self._line.endpoint.base_url.startswith("http://"):  # then the proxy itself may say so
                failure = replace(failure, text=f"{failure.text}{wire.through}")
        else:
            failure = answer
        reply = replace(reply, cost_usd=self._cost(reply, failure), seconds=seconds)
        if failure is not None:
            failure = replace(failure, text=self._line.endpoint.mask(failure.text))
            entry = self._entry(request, failure.outcome, reply, error=failure.text)
            self._ledger.record(entry, ticket, request=self._shown(request))
            return failure
        outcome = {"stop": "ok", "length": "cut", "refusal": "refusal"}[reply.finish]
        self._replied(request, outcome, reply, ticket)
        return reply

    def _replied(self, request: Request, outcome: str, reply: Reply, ticket: int | None = None) -> None:
        """Puts down a reply, and whether it can be used."""
        mask = self._line.endpoint.mask
        fault = _fault(request, reply)
        if outcome == "ok" and not reply.text.strip():
            outcome = "empty"
        elif outcome == "ok" and fault:
            outcome = "unusable"
        declined = " ".join(reply.text.split())[:_SHOWN] if reply.finish == "refusal" else ""
        error = mask(reply.instead or declined or fault)
        entry = self._entry(request, outcome, reply, error=error)
        self._ledger.record(entry, ticket, request=self._shown(request), reply=mask(reply.text))

    def _shown(self, request: Request) -> Request | None:
        """The request as it may be kept: without a key; None where nothing is to be kept of it."""
        endpoint = self._line.endpoint
        if not endpoint.settings.record:
            return None
        masked = tuple(Message(role=m["role"], content=endpoint.mask(m["content"])) for m in request.messages)
        return replace(request, messages=masked)

    def _cost(self, reply: Reply, failure: Failure | None) -> float | None:
        """In dollars; None where the price or what was used is unknown."""
        used_in, used_out = reply.tokens_in, reply.tokens_out
        if reply.cost_usd is not None and self._line.endpoint.price(self._name) is None:
            self._priced = True
            return round(reply.cost_usd * NANO) / NANO
        if self._price is not None and used_in is not None and used_out is not None:
            return self._price(used_in, used_out) / NANO
        unpaid = failure is not None and not failure.lost and failure.outcome != "empty"
        return 0.0 if unpaid and self._priced else None

    def _entry(self, request: Request, outcome: str, reply: Reply, *, error: str = "") -> Call:
        """The ledger's line."""
        extra: dict[str, object] = {"error": error} if error else {}
        if reply.cost_usd is None and self._price is not None:
            chars = sum(len(m["content"]) for m in request.messages)
            if request.schema is not None:
                chars += len(repr(request.schema.schema))
            extra[ESTIMATE] = self._price(chars // _CHARS_PER_TOKEN + 1, request.max_tokens) / NANO
        return Call(
            purpose=request.purpose,
            endpoint=self._line.endpoint.name,
            model=self._name,
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            cost_usd=reply.cost_usd,
            seconds=round(reply.seconds, 3),
            outcome=outcome,
            about=request.about,
            extra=extra,
        )

    def _adapts(self, failure: Failure, sent: Quirks) -> bool:
        """Whether the same request may go through when it is put otherwise; remembered for the model."""
        if failure.kind == "no temperature":
            self._quirks = replace(self._quirks, temperature=False)
            return sent.temperature
        if failure.kind == "new max_tokens":
            self._quirks = replace(self._quirks, max_tokens="max_completion_tokens")
            return sent.max_tokens != "max_completion_tokens"
        return False

    def _raise(self, request: Request, failure: Failure) -> NoReturn:
        text = f"{self.model}: {failure.text}"
        if failure.kind == "refused":
            endpoint = self._line.endpoint
            keyless = endpoint.name if failure.status == 401 and not endpoint.key_env else ""
            raise EndpointRefused(f"{text}. {self._advice(failure)}", keyless=keyless)
        if failure.kind == "too long":
            raise TooLong(f"{text}. The request and its max_tokens ({request.max_tokens}) must fit together.")
        # Some endpoints do not say that it is the form which they refuse.
        untried = request.form != "text" and request.form not in self._forms
        if failure.kind == "unsupported" or (untried and failure.status in (400, 422)):
            raise Unsupported(text)
        raise CallFailed(text)

    def _give_up(self, failure: Failure, attempts: int) -> NoReturn:
        endpoint = self._line.endpoint
        tried = f"{failure.text} ({count_of(attempts, 'attempt')})"
        if failure.outcome != "empty" and self._line.fails():
            advice = (
                "Is the server running?" if endpoint.local else "Is the address right, and the network up?"
            )
            if endpoint.proxy is not None:
                advice = (
                    f"Is {endpoint.proxy.variable} right, and the network up? A host that NO_PROXY names is "
                    "reached without it."
                )
            if failure.outcome == "server error":  # something answered, and no completion came
                advice = (
                    "Is it an OpenAI-compatible API (the address often ends in /v1)? Then try again later."
                )
            if "/v1" in failure.text:  # a web page: what may be wrong with the address stands there
                advice = "Where neither is so, try again later."
            if failure.status is not None:
                advice = "Try again later, or with a smaller `concurrency`."
            raise EndpointDown(
                f"the endpoint `{endpoint.name}` ({endpoint.base_url}) gives no reply: {tried}. {advice}",
                unreached=endpoint.name if failure.status is None else "",
            )
        raise CallFailed(f"{self.model}: {tried}")

    def _wait(self, request: Request, failure: Failure, retries: int) -> float:
        pace = self._pace
        jitter = float(generator("retry", self._key(request), request.about, retries).random())
        if failure.wait is not None:
            if failure.wait > pace.obey:
                raise EndpointRefused(
                    f"{self.model}: {failure.text}. It asks to wait {failure.wait:.0f} s, which is too long "
                    "to sit out; go on later."
                )
            return failure.wait + jitter * pace.base / 4
        first = pace.busy if failure.outcome == "busy" else pace.base
        return min(pace.longest, first * 2.0**retries) * (0.75 + jitter / 2)

    def _advice(self, failure: Failure) -> str:
        endpoint = self._line.endpoint
        if failure.status == 401:
            if endpoint.key_env:
                return f"Check the key in the environment variable {endpoint.key_env}."
            table = f"[endpoints.{toml_key(endpoint.name)}]"
            return f'If it needs a key, name the variable that holds it: key_env = "NAME" in {table}.'
        if failure.status == 407 and endpoint.proxy is not None:
            return f"Check the name and the password of the proxy in {endpoint.proxy.variable}."
        if failure.status in (402, 429):
            return "The account has no money or quota left."
        if failure.status == 404:
            return f"Check the model's name (`{self._name}`) and the address ({endpoint.base_url})."
        return "The account may not use this model, or the key may not do this."


def _fault(request: Request, reply: Reply) -> str:
    """What is wrong with a reply; a defect of whoever reads it is not for the ledger, and shows there."""
    try:
        return request.fault(reply) if request.fault is not None else ""
    except Exception:
        return ""
