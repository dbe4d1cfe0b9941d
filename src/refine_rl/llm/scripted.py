"""An LLM that answers by a script: for tests, for examples, and for trying a task without any endpoint."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence

from typing_extensions import TypeIs

from refine_rl.errors import SettingsError
from refine_rl.llm.client import Client, Reply, Request
from refine_rl.llm.meter import count

Said = str | Reply | Exception
Brain = Callable[[Request], Said | Awaitable[Said]]
"""What answers: a function of the request. An exception that it gives back is raised."""


class Scripted:
    """A Client that plays queued replies in their order, or asks a function.

    >>> client = Scripted(["Good day.", "Good night."])
    >>> async def talk() -> str:
    ...     hello = Request(messages=({"role": "user", "content": "Hi."},), purpose="greeting")
    ...     return (await client.complete(hello)).text
    >>> asyncio.run(talk()), asyncio.run(talk())
    ('Good day.', 'Good night.')
    >>> len(client.requests)
    2
    """

    def __init__(self, replies: Sequence[Said] | Brain, model: str = "scripted/model") -> None:
        self._replies = replies
        self.model = model
        self._played = 0
        self._lock = threading.Lock()
        self.requests: list[Request] = []

    async def complete(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            said = self._replies(request) if callable(self._replies) else self._next(self._replies)
        if inspect.isawaitable(said):
            said = await said
        else:
            await asyncio.sleep(0)
        if isinstance(said, Exception):
            raise said
        reply = Reply(text=said) if isinstance(said, str) else said
        count(
            calls=0 if reply.cached else 1,
            cost_usd=0.0 if reply.cached else reply.cost_usd,
            unusable=int(request.fault is not None and bool(request.fault(reply))),
        )
        return reply

    def _next(self, replies: Sequence[Said]) -> Said:
        if self._played == len(replies):
            raise RuntimeError(f"the script of {self.model} has only {len(replies)} replies")
        self._played += 1
        return replies[self._played - 1]


def _is_script(answers: Client | Sequence[Said] | Brain) -> TypeIs[Sequence[Said] | Brain]:
    return not hasattr(answers, "complete")


class ScriptedConnections:
    """Connections to scripted models only: {"scripted/judge": function or client}.

    >>> connections = ScriptedConnections({"scripted/judge": lambda request: "Good."})
    >>> connections.client("scripted/judge").model
    'scripted/judge'
    """

    def __init__(self, models: Mapping[str, Client | Sequence[Said] | Brain]) -> None:
        self._clients: dict[str, Client] = {
            name: Scripted(answers, model=name) if _is_script(answers) else answers
            for name, answers in models.items()
        }

    def client(self, model: str) -> Client:
        if model not in self._clients:
            known = ", ".join(self._clients) or "none"
            raise SettingsError(f"there is no scripted model `{model}`; there are: {known}")
        return self._clients[model]

    async def close(self) -> None:
        """Nothing is open."""
