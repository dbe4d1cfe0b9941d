"""docs/memory.md has what the plan's formulas say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "memory.md"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("memory_table", ROOT / "benchmarks" / "memory_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_current(table: ModuleType) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"<!-- table: (\w+) -->", text) == list(table.TABLES)
    assert table.filled(text) == text, "stale: python benchmarks/memory_table.py docs/memory.md"


@pytest.mark.parametrize(("name", "billions"), [("0.5B", 0.494), ("1.5B", 1.544), ("7B", 7.616)])
def test_the_models_are_those_of_the_names(table: ModuleType, name: str, billions: float) -> None:
    """Their published numbers of parameters."""
    size = table.size_of(table.config(name), "all-linear")
    assert size.parameters / 1e9 == pytest.approx(billions, abs=0.001)


def test_a_row_by_hand(table: ModuleType) -> None:
    """0.5B with LoRA up to 2,048 tokens: program, weights in two bytes, 16 bytes a trained weight, and what
    2,048 tokens leave in 24 layers, beside the head's tiles."""
    size = table.size_of(table.config("0.5B"), "all-linear")
    trained = 16 * 24 * (2 * (896 + 896) + 2 * (896 + 128) + 3 * (896 + 4864))
    there = 0.7e9 + 2 * size.parameters + 16 * trained
    moving = 2048 * 24 * 2 * (10 * 896 + 4 * 4864) + 3 * 4 * 2048 * 32768
    assert table.span("LoRA", size, 2048) == pytest.approx(
        ((there + moving) / 1e9, (there + 2 * moving) / 1e9)
    )
