"""A function as a tool: its schema, its arguments, and what a function must have to be one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from refine_rl.envs.tools.tool import CallError, load_tools, tool_of
from refine_rl.errors import SettingsError


def find(
    query: str, most: int = 3, where: Literal["web", "book"] = "web", tags: list[str] | None = None
) -> str:
    """Search for a text.

    It looks at titles alone.

    Args:
        query: What to look for.
        most: At most so many
            results.
    """
    return f"{query}/{most}/{where}/{tags}"


def test_a_schema_is_made_of_hints_and_docstring() -> None:
    assert tool_of(find).schema == {
        "type": "function",
        "function": {
            "name": "find",
            "description": "Search for a text.\n\nIt looks at titles alone.",
            "parameters": {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "What to look for."},
                    "most": {"type": "integer", "description": "At most so many results.", "default": 3},
                    "where": {"type": "string", "enum": ["web", "book"], "default": "web"},
                    "tags": {"anyOf": [{"items": {"type": "string"}, "type": "array"}, {"type": "null"}]},
                },
                "required": ["query"],
            },
        },
    }


def test_the_same_as_transformers_makes_of_a_plain_function() -> None:
    from transformers.utils import get_json_schema

    def add(a: int, b: float) -> None:
        """Add two numbers.

        Args:
            a: The first.
            b: The second.
        """

    theirs = get_json_schema(add)["function"]
    theirs.pop("return")
    assert tool_of(add).schema["function"] == theirs


def test_arguments_are_read_in_the_type_of_the_hint() -> None:
    tool = tool_of(find)
    assert tool.arguments({"query": "x", "most": "4", "tags": '["a"]'}) == {
        "query": "x",
        "most": 4,
        "tags": ["a"],
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "the argument `query` is missing"),
        ({"query": "x", "mots": 1}, "`mots` is no argument of find; did you mean `most`?"),
        ({"query": 3}, "the argument `query` is wrong: Input should be a valid string, not 3"),
        ({"query": "x", "most": "many"}, "the argument `most` is wrong"),
        ({"query": "x", "where": "sea"}, "Input should be 'web' or 'book', not 'sea'"),
        ({"query": "x", "tags": [1]}, "at [0]: Input should be a valid string, not 1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(CallError) as error:
        tool_of(find).arguments(given)
    assert said in str(error.value)


def bare(a: int) -> int:
    return a


def unhinted(a, b: int) -> int:  # type: ignore[no-untyped-def]
    """Add."""
    return 0


def starred(*numbers: int) -> int:
    """Add."""
    return 0


class Odd: ...


def odd(a: Odd) -> int:
    """Look."""
    return 0


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (bare, "the tool `bare` has no docstring"),
        (unhinted, "the tool `unhinted` has no type hint for `a`"),
        (starred, "the tool `starred` takes `*numbers`"),
        (odd, "for `a` that no schema can say: JSON knows no such type"),
    ],
)
def test_what_a_function_lacks_is_named(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        tool_of(function)
    assert said in str(error.value)


def test_all_that_cannot_be_had_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text(
        'def add(a: int) -> int:\n    """Add."""\n    return a\n\ndef sub(a):\n    """Less."""\n'
    )
    with pytest.raises(SettingsError) as error:
        load_tools(["tools.py:add", "tools.py:ad", "tools.py:sub", "tools.py:add"], tmp_path)
    assert str(error.value).splitlines() == [
        "rollout.tools, entry 2: tools.py has no function `ad`; did you mean `add`?",
        "rollout.tools, entry 3: the tool `sub` has no type hint for `a`, which the schema needs",
        "rollout.tools, entry 4: there is a tool `add` already; give one of them another name",
    ]
