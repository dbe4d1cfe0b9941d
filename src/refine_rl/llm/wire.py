"""The HTTP side of an endpoint: one SDK client and one set of slots for each event loop that uses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
    """An endpoint's client in one event loop. `in_flight` holds the requests under way by cache key."""

    sdk: AsyncOpenAI
    closer: AsyncGenerator[None]
    slots: asyncio.Semaphore
    timeout: float
    headers: Mapping[str, Any]
    in_flight: dict[str, asyncio.Future[Reply | None]] = field(default_factory=dict)

    async def post(self, body: Mapping[str, Any]) -> Answered | Failure:
        """Sends a chat completion's body once."""
        import openai

        try:
            # The SDK's own limit is for each read, not for the whole.
            async with asyncio.timeout(self.timeout):
                create = self.sdk.chat.completions.with_raw_response.create
                raw = await create(**body, extra_headers=self.headers)
            return Answered(status=raw.status_code, headers=raw.headers, body=raw.text)
        except openai.APIStatusError as error:
            response = error.response
            return Answered(status=response.status_code, headers=response.headers, body=response.text)
        except (TimeoutError, openai.APITimeoutError) as error:
            if type(error.__cause__).__name__ in _NEVER_SENT:
                return _no_connection("no connection in time", lost=False)
            text = f"no answer within {self.timeout:g} s"
            return Failure(kind="retry", outcome="timeout", text=text, lost=True)
        except openai.APIConnectionError as error:
            cause = error.__cause__
            text = str(cause) or type(cause).__name__
            return _no_connection(text, lost=type(cause).__name__ not in _NEVER_SENT)

    async def close(self) -> None:
        """Closes the connections; a second time does nothing."""
        await self.closer.aclose()


def _no_connection(text: str, *, lost: bool) -> Failure:
    what = "the connection broke" if lost else "no connection"
    return Failure(kind="retry", outcome="no connection", text=f"{what}: {text}", lost=lost)


async def open_wire(endpoint: Endpoint) -> Wire:
    """A wire for the running loop."""
    import openai

    timeout = endpoint.settings.timeout
    connect = openai.Timeout(timeout, connect=min(_CONNECT, timeout))
    # A proxy from the environment is for the outside, not for a server on this machine.
    http = openai.DefaultAsyncHttpxClient(trust_env=not endpoint.local, timeout=connect)
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
    )


async def _closing(sdk: AsyncOpenAI) -> AsyncGenerator[None]:
    """Closes the client at the latest when its loop ends: a loop finishes the generators begun in it."""
    try:
        yield
    finally:
        await sdk.close()
