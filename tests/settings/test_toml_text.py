"""The line locator and the TOML writer, against tomllib."""

from __future__ import annotations

import math
import tomllib
from datetime import date, datetime, time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refine_rl.settings.toml_lines import KeyPath, key_lines
from refine_rl.settings.toml_write import dump_toml, toml_value

TRICKY = '''# [not.a.table]
task = """
[fake]
name = "no" # no comment
\\""" still inside
two quotes at the end"""""
raw = \'\'\'
[[also.fake]]
\'\'\'\'
"quoted \\"key\\" = [" = 1   # = [ {
when = 1979-05-27 07:32:00
empty = {}

  [ reward . "over long" ]
rules = [  # a comment with ]
  {rule = "words", max = 3}, [1, 2
  ],

  {rule = "}", list = ["]", \'{\']},  ]
a.b.c = 5
a.b."d e" = {f = {g = "="}, h.i = true}

[[step]]
n = 1
[step.inner]
x = 1
[[step.part]]
[[step.part]]
y = 2
[[step]]
[[step.part]]
y = 3'''

TRICKY_LINES: dict[KeyPath, int] = {
    ("task",): 2,
    ("raw",): 7,
    ('quoted "key" = [',): 10,
    ("when",): 11,
    ("empty",): 12,
    ("reward",): 14,
    ("reward", "over long"): 14,
    ("reward", "over long", "rules"): 15,
    ("reward", "over long", "rules", 0): 16,
    ("reward", "over long", "rules", 0, "rule"): 16,
    ("reward", "over long", "rules", 0, "max"): 16,
    ("reward", "over long", "rules", 1): 16,
    ("reward", "over long", "rules", 1, 0): 16,
    ("reward", "over long", "rules", 1, 1): 16,
    ("reward", "over long", "rules", 2): 19,
    ("reward", "over long", "rules", 2, "rule"): 19,
    ("reward", "over long", "rules", 2, "list"): 19,
    ("reward", "over long", "rules", 2, "list", 0): 19,
    ("reward", "over long", "rules", 2, "list", 1): 19,
    ("reward", "over long", "a"): 20,
    ("reward", "over long", "a", "b"): 20,
    ("reward", "over long", "a", "b", "c"): 20,
    ("reward", "over long", "a", "b", "d e"): 21,
    ("reward", "over long", "a", "b", "d e", "f"): 21,
    ("reward", "over long", "a", "b", "d e", "f", "g"): 21,
    ("reward", "over long", "a", "b", "d e", "h"): 21,
    ("reward", "over long", "a", "b", "d e", "h", "i"): 21,
    ("step",): 23,
    ("step", 0): 23,
    ("step", 0, "n"): 24,
    ("step", 0, "inner"): 25,
    ("step", 0, "inner", "x"): 26,
    ("step", 0, "part"): 27,
    ("step", 0, "part", 0): 27,
    ("step", 0, "part", 1): 28,
    ("step", 0, "part", 1, "y"): 29,
    ("step", 1): 30,
    ("step", 1, "part"): 31,
    ("step", 1, "part", 0): 31,
    ("step", 1, "part", 0, "y"): 32,
}


def paths(value: Any, at: KeyPath = ()) -> set[KeyPath]:
    """Every path in parsed TOML."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {at, *(path for key, inner in items for path in paths(inner, (*at, key)))} - {()}


def test_every_line_of_a_tricky_text() -> None:
    assert paths(tomllib.loads(TRICKY)) == set(TRICKY_LINES)
    assert key_lines(TRICKY) == TRICKY_LINES


def test_windows_line_ends_give_the_same_lines() -> None:
    text = TRICKY.replace("\n", "\r\n")
    tomllib.loads(text)
    assert key_lines(text) == TRICKY_LINES


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.text(
    'a"\n\t\r\\#[]{}=.,\x00\x7f', max_size=12
)
SCALARS = (
    TEXTS
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.dates()
    | st.datetimes()
    | st.times()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(st.dictionaries(TEXTS, VALUES, max_size=5))
def test_what_is_written_is_read_back_exactly(data: dict[str, Any]) -> None:
    text = dump_toml(data)
    assert tomllib.loads(text) == data
    assert set(key_lines(text)) == paths(data)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(SCALARS)
def test_types_survive(value: Any) -> None:
    back = tomllib.loads(f"value = {toml_value(value)}")["value"]
    assert (type(back), back) == (type(value), value)


def test_special_floats_and_dates() -> None:
    assert math.isnan(tomllib.loads(f"x = {toml_value(math.nan)}")["x"])
    assert toml_value([date(2024, 2, 29), time(1, 2), datetime(2024, 1, 1)]) == (
        "[2024-02-29, 01:02:00, 2024-01-01T00:00:00]"
    )


def test_texts_and_lists_of_tables_are_laid_out_for_a_reader() -> None:
    data = {
        "task": "One.\nTwo \\ three.",
        "reward": {"rules": [{"rule": "words"}], "none": None, "n": [1, 2]},
    }
    assert dump_toml(data) == (
        'task = """\nOne.\nTwo \\\\ three."""\n\n[reward]\nrules = [\n  {rule = "words"},\n]\nn = [1, 2]\n'
    )


@pytest.mark.parametrize("value", [None, object(), {1, 2}, [None]])
def test_what_toml_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="TOML has no value"):
        toml_value(value)
