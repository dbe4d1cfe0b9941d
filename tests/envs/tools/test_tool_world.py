"""The world of tools: results, and everything that can be wrong with a call, as words for the policy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from refine_rl.envs.tools.tool import tool_of
from refine_rl.envs.tools.world import MOST, world_class


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def divide(a: int, b: int) -> float:
    """Divide."""
    return a / b


def look(page: str, data: dict[str, Any]) -> str:
    """Read a page."""
    text: str = data["pages"].pop(page)
    return text


def nothing() -> str:
    """Do nothing."""
    return ""


async def slowly(a: int) -> dict[str, int]:
    """Wait."""
    await asyncio.sleep(0)
    return {"a": a}


def world(*functions: Callable[..., Any]) -> Any:
    made = world_class({f.__name__: tool_of(f) for f in functions})()
    assert made.start({"pages": {"one": "It rains."}}, 7) == ""
    return made


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (call("add", a=1, b=2), "3"),
        (call("add", a="1", b=2), "3"),
        (call("nothing"), "(nothing)"),
        (call("ad", a=1, b=2), "Error: there is no tool `ad`; did you mean `add`?"),
        (call("add", a=1), "Error: the argument `b` is missing"),
        (
            call("add", a=1, b=2, c=3),
            "Error: `c` is no argument of add; there are `a`, `b`",
        ),
        (call("divide", a=1, b=0), "Error: ZeroDivisionError: division by zero"),
        (
            '<tool_call>{"name": "add", "argum',
            "Error: its JSON is cut off: close every quote, bracket and brace",
        ),
        (call("add", a=1, b=2) + call("divide", a=1, b=4), "1. 3\n2. 0.25"),
    ],
)
def test_a_call_is_answered(reply: str, answer: str) -> None:
    assert world(add, divide, nothing).step(reply) == (answer, 0.0, False)


def test_a_reply_without_a_call_is_the_end() -> None:
    assert world(add).step("It is 3.") == ("", 0.0, True)


def test_a_tool_reads_the_prompts_data_and_cannot_change_them() -> None:
    made = world(look)
    for _ in range(2):
        assert made.step(call("look", page="one"))[0] == "It rains."
    assert "`data` is no argument of look" in made.step(call("look", page="one", data={}))[0]
    assert "data" not in tool_of(look).schema["function"]["parameters"]["properties"]


def test_async_tools_beside_plain_ones() -> None:
    made = world(add, slowly)
    both = call("slowly", a=1) + call("add", a=1, b=2) + call("slow", a=1)
    said, reward, done = asyncio.run(made.step(both))
    assert said.splitlines()[:2] == ['1. {"a": 1}', "2. 3"]
    assert "did you mean `slowly`" in said
    assert (reward, done) == (0.0, False)


def test_no_reply_runs_more_calls_than_are_allowed() -> None:
    said, _, _ = world(add).step(call("add", a=1, b=2) * (MOST + 3))
    assert said.splitlines()[-2:] == [f"{MOST}. 3", f"Error: 3 more calls were not run; at most {MOST} are"]
