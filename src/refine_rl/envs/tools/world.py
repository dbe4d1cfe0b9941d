"""The world of tools: it runs the calls of each reply and says what came of them."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from refine_rl.envs.tools.calls import BadCall, Call, calls_of
from refine_rl.envs.tools.tool import DATA, CallError, Tool
from refine_rl.foreign.load import nearest

MOST = 16
"""So many calls of one reply are run."""


class ToolWorld:
    """An environment (`envs/base.py`) whose tools are plain functions. A call that cannot be understood, or
    that raises, is answered; it is over with a reply that calls nothing. It pays nothing itself."""

    tools: ClassVar[Mapping[str, Tool]] = {}

    def start(self, data: Mapping[str, Any], seed: int) -> str:
        self._data = data
        return ""

    def step(self, reply: str) -> tuple[str, float, bool]:
        calls = calls_of(reply)
        return _observed(calls, [self._run(call) for call in calls[:MOST]])

    def _run(self, call: Call | BadCall) -> str:
        try:
            ready = self._ready(call)
        except CallError as error:
            return f"Error: {error}"
        try:
            return _shown(ready())
        except Exception as error:
            return _raised(error)

    def _ready(self, call: Call | BadCall) -> Callable[[], Any]:
        """The call, to be made; raises CallError where it cannot be."""
        if isinstance(call, BadCall):
            raise CallError(call.why)
        tool = self.tools.get(call.name)
        if tool is None:
            raise CallError(f"there is no tool `{call.name}`{nearest(call.name, self.tools)}")
        given = tool.arguments(call.arguments)
        if tool.takes_data:
            given[DATA] = copy.deepcopy(self._data)
        return lambda: tool.function(**given)


class AsyncToolWorld(ToolWorld):
    """The same with a tool that is async."""

    async def step(self, reply: str) -> tuple[str, float, bool]:  # type: ignore[override]
        calls = calls_of(reply)
        return _observed(calls, [await self._wait(call) for call in calls[:MOST]])

    async def _wait(self, call: Call | BadCall) -> str:
        try:
            ready = self._ready(call)
        except CallError as error:
            return f"Error: {error}"
        try:
            answer = ready()
            return _shown(await answer if inspect.isawaitable(answer) else answer)
        except Exception as error:
            return _raised(error)


def world_class(tools: Mapping[str, Tool]) -> type[ToolWorld]:
    """The class of environments with these tools."""
    base = AsyncToolWorld if any(tool.is_async for tool in tools.values()) else ToolWorld
    return type("Tools", (base,), {"tools": tools})


def _observed(calls: Sequence[Call | BadCall], results: Sequence[str]) -> tuple[str, float, bool]:
    """What `step` gives back: the result of the only call as it is, several with their numbers."""
    if len(calls) <= 1:
        return "".join(results), 0.0, not calls
    lines = [f"{number}. {result}" for number, result in enumerate(results, 1)]
    if len(calls) > MOST:
        lines.append(f"Error: {len(calls) - MOST} more calls were not run; at most {MOST} are")
    return "\n".join(lines), 0.0, False


def _raised(error: Exception) -> str:
    said = str(error).strip()
    return f"Error: {type(error).__name__}{said and f': {said}'}"


def _shown(value: Any) -> str:
    """A tool's answer as text: a text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if text.strip() else "(nothing)"
