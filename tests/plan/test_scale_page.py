"""docs/scale.md has what the plan's formulas say, of models that have their published sizes."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scale.md"


@pytest.fixture(scope="module")
def table() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("scale_table", ROOT / "benchmarks" / "scale_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale_table"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["scale_table"]


def test_the_tables_are_current(table: ModuleType) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"<!-- table: (\w+) -->", text) == list(table.TABLES)
    assert table.filled(text) == text, "stale: python benchmarks/scale_table.py docs/scale.md"


@pytest.mark.parametrize(("name", "billions"), [("8B", 8.191), ("70B", 70.554)])
def test_the_models_are_those_of_the_names(table: ModuleType, name: str, billions: float) -> None:
    """Their published numbers of parameters."""
    size = table.size_of(table.MODELS[name], "all-linear")
    assert size.parameters / 1e9 == pytest.approx(billions, abs=0.001)


def test_the_page_names_the_prices_that_were_taken(table: ModuleType) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for price in table.TINKER.values():
        assert f"{price:.2f}" in text or f"{price:.3f}" in text
    assert f"at {table.AN_HOUR:.0f} dollars" in " ".join(text.split())


def test_dollars_by_hand(table: ModuleType) -> None:
    """100 steps of 128 answers: every row of 512 + 512 tokens is read twice, once with a gradient."""
    (row,) = [line for line in table.by_tokens() if line.startswith("| training ")]
    rows = 100 * 128
    read, said = 100 * 16 * 512 + rows * 1024, rows * 512
    dollars = (read * 0.195 + said * 0.60 + rows * 1024 * 0.44) / 1e6
    assert row.endswith(f"\u2013{dollars:.0f} |")
