"""The HTTP side of an endpoint: one SDK client and one set of slots for each event loop that uses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from refine_rl.errors import UserError
from refine_rl.llm.client import Reply
from refine_rl.llm.endpoints import Endpoint
from refine_rl.llm.failures import Failure

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_CONNECT = 10.0  # seconds for a connection to stand
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """An HTTP answer, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: str


@dataclass(kw_only=True, slots=True)
class Wire:
    """An endpoint's client in one event loop. `through` says which proxy is between ("" without one);
    `in_flight` holds the requests under way by cache key."""

    sdk: AsyncOpenAI
    closer: AsyncGenerator[None]
    slots: asyncio.Semaphore
    timeout: float
    headers: Mapping[str, Any]
    through: str = ""
    in_flight: dict[str, asyncio.Future[Reply | None]] = field(default_factory=dict)

    async def post(self, body: Mapping[str, Any]) -> Answered | Failure:
        """Sends a chat completion's body once."""

        async def create() -> Answered:
            raw = await self.sdk.chat.completions.with_raw_response.create(**body, extra_headers=self.headers)
            return Answered(status=raw.status_code, headers=raw.headers, body=raw.text)

        return await self._answer(create)

    async def send(self, path: str, body: Mapping[str, Any] | None = None) -> Answered | Failure:
        """Posts a body once, or (None) gets what is there. `path` is one below the endpoint's address, or a
        whole address."""

        async def ask() -> Answered:
            # Its type for the options of a request is none that a type checker can be told.
            options: Any = {"headers": self.headers}
            if body is None:
                text = await self.sdk.get(path, cast_to=str, options=options)
            else:
                text = await self.sdk.post(path, cast_to=str, body=body, options=options)
            return Answered(status=200, headers={}, body=text)

        return await self._answer(ask)

    async def _answer(self, ask: Callable[[], Awaitable[Answered]]) -> Answered | Failure:
        """What came of asking, in the endpoint's time."""
        import openai

        try:
            # The SDK's own limit is for each read, not for the whole.
            async with asyncio.timeout(self.timeout):
                return await ask()
        except openai.APIStatusError as error:
            response = error.response
            return Answered(status=response.status_code, headers=response.headers, body=response.text)
        except (TimeoutError, openai.APITimeoutError) as error:
            if type(error.__cause__).__name__ in _NEVER_SENT:
                return self._no_connection("no connection in time", lost=False)
            text = f"no answer within {self.timeout:g} s{self.through}"
            return Failure(kind="retry", outcome="timeout", text=text, lost=True)
        except openai.APIConnectionError as error:
            cause = error.__cause__
            text = str(cause) or type(cause).__name__
            if type(cause).__name__ == "ProxyError" and text.startswith("407"):
                text = f"{text}{self.through}"
                return Failure(kind="refused", outcome="refused", text=text, status=407)
            return self._no_connection(text, lost=type(cause).__name__ not in _NEVER_SENT)

    def _no_connection(self, text: str, *, lost: bool) -> Failure:
        what = "the connection broke" if lost else "no connection"
        text = f"{what}: {text.rstrip('.')}{self.through}"  # it goes on behind it
        return Failure(kind="retry", outcome="no connection", text=text, lost=lost)

    async def close(self) -> None:
        """Closes the connections; a second time does nothing."""
        await self.closer.aclose()


async def open_wire(endpoint: Endpoint) -> Wire:
    """A wire for the running loop. Raises UserError for a proxy that cannot be used."""
    import openai

    timeout = endpoint.settings.timeout
    connect = openai.Timeout(timeout, connect=min(_CONNECT, timeout))
    http = openai.DefaultAsyncHttpxClient(transport=_transport(endpoint), timeout=connect)
    sdk = openai.AsyncOpenAI(
        api_key=endpoint.key or "none",
        base_url=endpoint.base_url,
        timeout=connect,
        max_retries=0,  # ours are counted and written down
        http_client=http,
    )
    if endpoint.name != "openai":
        # The SDK takes these from OPENAI_* variables; they are nobody else's business.
        sdk.organization = sdk.project = None
        sdk._custom_headers = {}
    closer = _closing(sdk)
    await anext(closer)
    return Wire(
        sdk=sdk,
        closer=closer,
        slots=asyncio.Semaphore(endpoint.settings.concurrency),
        timeout=timeout,
        headers={} if endpoint.key else {"Authorization": openai.Omit()},
        through=f", through {endpoint.proxy.shown}" if endpoint.proxy else "",
    )


def _transport(endpoint: Endpoint) -> Any:
    """How requests travel: through the endpoint's proxy and no other. The environment's certificates count
    for the outside."""
    import openai

    # That HTTP library on which this version of the SDK stands.
    bases = (base.__module__.partition(".")[0] for base in openai.DefaultAsyncHttpxClient.__mro__)
    httpx = import_module(next(name for name in bases if name != "openai"))
    try:
        return httpx.AsyncHTTPTransport(
            proxy=endpoint.proxy.url if endpoint.proxy else None,
            trust_env=not endpoint.local,
            limits=openai.DEFAULT_CONNECTION_LIMITS,
        )
    except (ImportError, ValueError, httpx.InvalidURL) as problem:
        if endpoint.proxy is None:
            raise
        raise UserError(f"{endpoint.proxy.shown} cannot be used: {endpoint.mask(str(problem))}") from None


async def _closing(sdk: AsyncOpenAI) -> AsyncGenerator[None]:
    """Closes the client at the latest when its loop ends: a loop finishes the generators begun in it."""
    try:
        yield
    finally:
        await sdk.close()
