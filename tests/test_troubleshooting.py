"""docs/troubleshooting.md names every guard, warning and exit code that the code has."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from refine_rl import errors
from refine_rl.evaluate.metrics.names import CONTROLS
from refine_rl.evaluate.rivals import NAMES

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "refine_rl"
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
FOUND = ("training/guards.py", "evaluate/verdict.py", "evaluate/audit.py")
"""Where names are keys of a dict: found["name"] = text."""
FILLED = {
    "control_": [f"control_{name}" for name in CONTROLS],
    "beside_": ["beside_sft"],
    "first look ": ["first look MODEL"],
    "missing_beside_": ["missing_beside_NAME"],
    "rises_with_": ["rises_with_NAME"],
    "rival_": [f"rival_{name}" for name in NAMES],
    "missing_": [f"missing_{name}" for name in NAMES],
    "missing_in_win_rate": ["missing_in_win_rate"],
    "tracker_": ["tracker_NAME"],
}
"""Names that are put together: the beginning, and what the page is to have."""


@cache
def parsed() -> list[tuple[str, ast.Call | ast.Assign]]:
    """The calls and assignments of all files. Kept, for each process of pytest collects all tests."""
    trees = {
        path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(SOURCE.rglob("*.py"))
    }
    return [
        (name, node)
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call | ast.Assign)
    ]


def called(node: ast.AST) -> str:
    """The name of what a node calls; "" where it is no call."""
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def beginning(node: ast.AST) -> str | None:
    """A text, or of one that is put together the part before what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        first = node.values[0]
        return first.value if isinstance(first, ast.Constant) else None
    return None


def guards() -> set[str]:
    calls = [node for _, node in parsed() if called(node) == "GuardStop" and isinstance(node, ast.Call)]
    return {name for call in calls if (name := beginning(call.args[0])) is not None}


def warnings() -> set[str]:
    """The first text of each warning(NAME, TEXT) and warning(STEP, NAME, TEXT), and the keys of FOUND."""
    names: set[str] = set()
    for path, node in parsed():
        if called(node) == "warning" and isinstance(node, ast.Call) and len(node.args) > 1:
            texts = [text for argument in node.args[:-1] if (text := beginning(argument)) is not None]
            names |= set(texts[:1])
        if path in FOUND and isinstance(node, ast.Assign):
            keys = [each.slice for each in node.targets if isinstance(each, ast.Subscript)]
            names |= {text for key in keys if (text := beginning(key)) is not None}
    return names


def test_the_code_is_read() -> None:
    assert guards() >= {"mismatch", "all_cut", "budget", "judge", "missing", "no_thoughts"}
    assert warnings() >= {"length_growth", "no_start", "validation_missing", "greedy", "few_prompts"}
    assert {"first look ", "missing_in_win_rate"} <= warnings()


@pytest.mark.parametrize("guard", sorted(guards()))
def test_every_guard_is_on_the_page(guard: str) -> None:
    assert re.search(rf"(?m)^\|.*guard.*`{guard}`", PAGE)


@pytest.mark.parametrize(
    "warning", sorted({*warnings(), "same_greedy", "success", "component:NAME", "control_"})
)
def test_every_warning_is_on_the_page(warning: str) -> None:
    for name in FILLED.get(warning, [warning]):
        assert re.search(rf"(?m)^\|[^|]*`{name}`", PAGE), name


def test_every_exit_code_is_on_the_page() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    codes = {each.exit_code for each in kinds if issubclass(each, errors.RefineError)}
    assert codes == {2, 3, 4, 130}
    for code in (0, *codes):
        assert re.search(rf"(?m)^\| {code} \|", PAGE), code
