"""Each rule by a table of cases with exact values, and what holds for all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import make
from refine_rl.errors import SettingsError, UserError
from refine_rl.rewards.rules.table import RULES, rule_reward, rules_table_markdown
from refine_rl.settings import RuleSettings
from refine_rl.types import Prompt, Score

MESSAGE = "Please shorten this: the server is down, so nobody can log in to work remotely today."
PROMPT = make.prompt(
    1,
    MESSAGE,
    system="Answer as a helpful pirate would do.",
    answer="Paris",
    answers=["Paris", "the city of Paris"],
    number=42,
    huge=10**400,
    power="10^6",
    solution="Half of 84 is #### 42",
    none=[],
    source="The cats were sleeping on two sofas.",
    nested={"a": 1},
    code="def join_names(names, sep):\n    if not sep: raise ValueError\n    return sep.join(names)",
)


def score_with(table: dict[str, Any], *completions: str, prompt: Prompt = PROMPT) -> list[Score]:
    reward = rule_reward(RuleSettings.model_validate(table), where="here")
    reward.check_prompt(prompt)
    return make.scored(reward, prompt, *completions)


CASES: list[tuple[dict[str, Any], str, float]] = [
    # windows: inside 1, below 2 n / min - 1, above 2 - n / max
    ({"rule": "words", "min": 2, "max": 4}, "one two", 1.0),
    ({"rule": "words", "min": 2, "max": 4}, "one two three four five", 0.75),
    ({"rule": "words", "min": 4}, "one two three", 0.5),
    ({"rule": "words", "min": 4}, "one two", 0.0),
    ({"rule": "words", "max": 4}, "a b c d e f g h", 0.0),
    ({"rule": "words", "max": 4, "strict": True}, "a b c d e", 0.0),
    ({"rule": "chars", "max": 10}, "  123456789012 ", 0.8),
    ({"rule": "sentences", "min": 2, "max": 2}, "Dr. No left. He was tired.", 1.0),
    ({"rule": "sentences", "max": 2}, "One. Two. Three!", 0.5),
    ({"rule": "lines", "min": 3, "max": 3}, "a\n\nb\nc", 1.0),
    ({"rule": "lines", "min": 4}, "a\nb\nc", 0.5),
    # the soft window: below n / min, above 1 - (n - max) / max down to the floor
    ({"rule": "length", "min": 4, "max": 8}, " abc ", 0.75),
    ({"rule": "length", "min": 4, "max": 8}, "abcdefgh", 1.0),
    ({"rule": "length", "min": 4, "max": 8}, "abcdefghij", 0.75),
    ({"rule": "length", "min": 4, "max": 8}, "abcdefgh" * 9, 0.3),
    ({"rule": "length", "min": 4, "max": 8, "floor": 0}, "abcdefgh" * 2, 0.0),
    ({"rule": "length", "min": 4, "max": 4, "unit": "words"}, "one two three four five", 0.75),
    ({"rule": "length"}, "x" * 25, 0.5),
    ({"rule": "length"}, "x" * 850, 0.3),
    ({"rule": "regex", "pattern": r"\d{2}"}, "no. 42!", 1.0),
    ({"rule": "regex", "pattern": r"\d{2}"}, "no. 4", 0.0),
    ({"rule": "regex", "pattern": r"\d{2}", "full": True}, " 42\n", 1.0),
    ({"rule": "regex", "pattern": r"\d{2}", "full": True}, "no. 42!", 0.0),
    ({"rule": "valid_json"}, ' {"a": [1, null]} ', 1.0),
    ({"rule": "valid_json"}, "[NaN]", 0.0),
    ({"rule": "valid_json"}, "[" * 100_000, 0.0),
    ({"rule": "valid_json"}, '```json\n{"a": 1}\n```', 0.0),
    ({"rule": "valid_json", "fenced": True}, '```json\n{"a": 1}\n```', 1.0),
    ({"rule": "json_schema", "schema": {"type": "object", "required": ["a"]}}, '{"a": 1}', 1.0),
    ({"rule": "json_schema", "schema": {"type": "object", "required": ["a"]}}, '{"b": 1}', 0.5),
    ({"rule": "json_schema", "schema": {"type": "object", "required": ["a"]}}, "a: 1", 0.0),
    ({"rule": "syllables"}, "An old silent pond\nA frog jumps into the pond\nSplash! Silence again", 1.0),
    ({"rule": "syllables"}, "An old silent pond / A frog jumps into the pond / Splash! Silence again", 1.0),
    ({"rule": "syllables"}, "An old silent pond\nA frog jumps into the pond", 2 / 3),
    (
        {"rule": "syllables"},
        "An old pond\nA frog jumps into the pond\nSplash! Silence again",
        (3 / 5 + 2) / 3,
    ),
    (
        {"rule": "syllables", "tolerance": 2},
        "An old pond\nA frog jumps into the pond\nSplash! Silence again",
        1.0,
    ),
    ({"rule": "syllables", "pattern": [1]}, "cat\ndog", 0.5),
    ({"rule": "no_repetition"}, "Yo ho ho!", 1.0),
    ({"rule": "no_repetition"}, "Yo ho ho, and a bottle of rum! Yo ho ho!", 1.0),
    ({"rule": "no_repetition"}, "yo ho ho yo ho ho", 0.75 / 0.9),
    ({"rule": "no_repetition", "allowed": 0}, "ha ha ha ha ha ha ha ha", 1 / 6),
    ({"rule": "no_repetition", "n": 1, "allowed": 0}, "ha ha", 0.5),
    # 6 words, 1 sentence, 6 syllables: 206.835 - 6.09 - 84.6 = 116.145
    ({"rule": "readability", "min": 60}, "The cat sat on the mat.", 1.0),
    ({"rule": "readability", "max": 100}, "The cat sat on the mat.", 1 - 16.145 / 30),
    ({"rule": "readability", "max": 60}, "The cat sat on the mat.", 0.0),
    ({"rule": "readability", "min": 60}, "!?", 0.0),
    ({"rule": "contains", "text": "sorry"}, "So SORRY!", 1.0),
    ({"rule": "contains", "text": "sorry", "case": True}, "So SORRY!", 0.0),
    ({"rule": "contains", "text": ["ahoy", "matey"]}, "Ahoy there", 0.5),
    ({"rule": "contains", "text": ["ahoy", "matey"], "need": "any"}, "Ahoy there", 1.0),
    ({"rule": "contains", "text": ["ahoy", "matey"], "need": "any"}, "Hello", 0.0),
    ({"rule": "contains", "text": "art"}, "a party", 1.0),
    ({"rule": "contains", "text": "art", "whole": True}, "a party", 0.0),
    ({"rule": "contains", "text": "don't"}, "I don’t", 1.0),
    ({"rule": "contains", "data": "answers"}, "In Paris.", 0.5),
    ({"rule": "contains", "data": "none"}, "In Paris.", 1.0),
    ({"rule": "excludes", "text": ["bad", "worse"]}, "It is Worse.", 0.0),
    ({"rule": "excludes", "text": ["bad", "worse"]}, "It is good.", 1.0),
    ({"rule": "excludes", "text": "bad", "whole": True}, "a badge", 1.0),
    ({"rule": "starts_with", "text": "ahoy"}, "\nAhoy!", 1.0),
    ({"rule": "starts_with", "text": ["ahoy", "arr"]}, "Arr!", 1.0),
    ({"rule": "starts_with", "text": "ahoy"}, "Say ahoy", 0.0),
    ({"rule": "ends_with", "text": "?"}, "Is it? ", 1.0),
    ({"rule": "ends_with", "text": "Over.", "case": True}, "over.", 0.0),
    # of "cat sleep two sofa": cat, sleep and sofa survive
    ({"rule": "keeps", "of": "source"}, "A cat sleeps on a sofa.", 0.75),
    ({"rule": "keeps", "of": "source", "enough": 0.75}, "A cat sleeps on a sofa.", 1.0),
    ({"rule": "keeps", "of": "source"}, "Nothing of it.", 0.0),
    ({"rule": "keeps"}, MESSAGE, 1.0),
    # 7 words, 4 4-grams, 3 of them within "so nobody can log in to"
    ({"rule": "not_copy"}, "so nobody can log in to play", 1 - 3 / 4),
    ({"rule": "not_copy", "allowed": 0.5}, "so nobody can log in to play", 0.5),
    ({"rule": "not_copy"}, "Aye, I be a helpful pirate!", 1.0),
    ({"rule": "not_copy"}, "answer as a helpful pirate", 0.0),
    ({"rule": "not_copy"}, "the server", 1.0),
    ({"rule": "not_copy", "of": "answer"}, "Paris!", 0.0),
    ({"rule": "one_of", "options": ["yes", "no"]}, "Yes.", 1.0),
    ({"rule": "one_of", "options": ["yes", "no"]}, "Yes, no.", 0.0),
    ({"rule": "one_of", "data": "answers"}, "paris", 1.0),
    ({"rule": "equals", "data": "answer"}, "Paris.", 1.0),
    ({"rule": "equals", "data": "answer", "ignore": ["case"]}, "Paris.", 0.0),
    ({"rule": "equals", "data": "number"}, "42", 1.0),
    ({"rule": "equals", "text": "The end", "ignore": ["articles", "case"]}, "end", 1.0),
    ({"rule": "equals", "text": "-5"}, "5", 0.0),
    ({"rule": "number_equals", "value": 42}, "40 + 2 = 42.0", 1.0),
    ({"rule": "number_equals", "value": 42, "which": "only"}, "40 + 2 = 42", 0.0),
    ({"rule": "number_equals", "value": 0.5}, "It is 1/2.", 1.0),
    ({"rule": "number_equals", "value": 0.3, "tolerance": 0.1}, "0.2", 1.0),
    ({"rule": "number_equals", "value": 0.3, "tolerance": 0.1}, "0.19", 0.0),
    ({"rule": "number_equals", "value": 1234}, "$1,234", 1.0),
    ({"rule": "number_equals", "value": -7}, "7", 0.0),
    ({"rule": "number_equals", "value": 1}, "one", 0.0),
    ({"rule": "number_equals", "data": "number"}, "42", 1.0),
    ({"rule": "number_equals", "data": "solution"}, "42", 1.0),
    ({"rule": "number_equals", "data": "huge"}, "42", 0.0),
    # their further cases: test_docstrings.py
    ({"rule": "docstring_style"}, "Join names.\n\nArgs:\n    names: Some.\n    sep: Mark.", 1.0),
    ({"rule": "docstring_parameters"}, "Join names.", 0.5),
    ({"rule": "docstring_returns"}, "Join names.", 0.0),
    ({"rule": "docstring_raises"}, "Join, or raise ValueError.", 1.0),
    ({"rule": "docstring_no_code"}, "Join names by a mark.", 1.0),
    ({"rule": "docstring_no_echo"}, "Join the names with marks.", 1 / 3),
]


@pytest.mark.parametrize(("table", "completion", "value"), CASES)
def test_value(table: dict[str, Any], completion: str, value: float) -> None:
    (score,) = score_with(table, completion)
    assert score.status == "scored"
    assert score.value == pytest.approx(value, abs=1e-12)
    assert score.explanation


def test_every_rule_is_in_the_table_of_cases() -> None:
    elsewhere = {"semantic"}  # with a model: test_semantic.py
    assert {table["rule"] for table, _, _ in CASES} == set(RULES) - elsewhere


TABLES = list({json.dumps(table): table for table, _, _ in CASES}.values())


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table["rule"])
def test_an_empty_completion_gets_nothing(table: dict[str, Any]) -> None:
    assert [s.value for s in score_with(table, "", " \n")] == [0.0, 0.0]


REWARDS = [rule_reward(RuleSettings.model_validate(t), where="here") for t in TABLES]
AWKWARD = st.text(alphabet="ab1/-.,eE+'\"\\{}[]()`*_ \n\t\u2028\u00a0ßéİ−’“日。0")


@given(st.one_of(st.text(), AWKWARD), st.one_of(st.text(), AWKWARD))
def test_every_rule_stays_in_bounds_on_any_text(message: str, completion: str) -> None:
    source = message if message.strip() else "blank cells are refused"
    prompt = make.prompt("p", message, **{**PROMPT.data, "source": source})
    for reward in REWARDS:
        score = reward.score(prompt, completion)
        assert score.value is not None
        assert 0.0 <= score.value <= 1.0
        assert len(score.explanation.splitlines()) == 1


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"rule": "word"}, ["no rule `word`", "did you mean `words`?"]),
        ({"rule": "words", "maxx": 3}, ["unknown parameter `maxx`", "did you mean `max`?"]),
        ({"rule": "words", "max": "3"}, ["`max` is '3', expected whole number"]),
        ({"rule": "words", "max": 3.0}, ["expected whole number"]),
        ({"rule": "words", "max": True}, ["expected whole number"]),
        ({"rule": "words"}, ["give `min`, `max` or both"]),
        ({"rule": "words", "min": 3, "max": 2}, ["`min` (3) is larger than `max` (2)"]),
        ({"rule": "words", "max": 0}, ["at least 1"]),
        ({"rule": "length", "min": 0}, ["`min` must be at least 1"]),
        ({"rule": "length", "min": 600}, ["`min` (600) is larger than `max` (500)"]),
        ({"rule": "length", "floor": 1.5}, ["`floor` must be between 0 and 1"]),
        ({"rule": "length", "unit": "tokens"}, ['"chars" or "words"']),
        ({"rule": "regex"}, ["`pattern` is needed (text)"]),
        ({"rule": "regex", "pattern": "("}, ["`pattern` is not a regular expression"]),
        ({"rule": "json_schema", "schema": {"type": "objekt"}}, ["`schema` is not a JSON schema", "objekt"]),
        ({"rule": "syllables", "pattern": []}, ["[5, 7, 5]"]),
        ({"rule": "contains"}, ["either `text` or `data`"]),
        ({"rule": "contains", "text": "a", "data": "b"}, ["either `text` or `data`"]),
        ({"rule": "contains", "text": ["a", ""]}, ["`text` is empty"]),
        ({"rule": "contains", "text": "a", "need": "some"}, ['expected "all" or "any"']),
        ({"rule": "equals", "text": "a", "ignore": ["spaces"]}, ['list of "case" or "punctuation"']),
        ({"rule": "one_of"}, ["either `options` or `data`"]),
        ({"rule": "number_equals", "value": float("nan")}, ["`value` is nan, expected number"]),
        ({"rule": "number_equals", "value": 1, "tolerance": -1}, ["`tolerance` must be at least 0"]),
        ({"rule": "keeps", "enough": 0}, ["`enough`"]),
        ({"rule": "not_copy", "n": 0}, ["`n` must be at least 1"]),
        ({"rule": "no_repetition", "allowed": 1}, ["`allowed`"]),
        ({"rule": "readability"}, ["give `min`, `max` or both"]),
    ],
)
def test_impossible_settings_are_refused_with_place_and_way_out(
    table: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        rule_reward(RuleSettings.model_validate(table), where="reward.rules, entry 1")
    assert str(caught.value).startswith(f"reward.rules, entry 1 (`{table['rule']}`): ")
    for part in words:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"rule": "equals", "data": "anser"}, "prompt p1 has no data `anser`; it has `answer`"),
        ({"rule": "equals", "data": "none"}, "`none` of prompt p1 is an empty list"),
        ({"rule": "contains", "data": "nested"}, "must be a text or a list of texts"),
        ({"rule": "number_equals", "data": "answer"}, "holds no number: 'Paris'"),
        (
            {"rule": "number_equals", "data": "power"},
            "data `power` of prompt p1 cannot be told for sure: its last number would be 6: '10^6'",
        ),
        ({"rule": "keeps", "of": "number"}, "`number` of prompt p1 must be a text, not 42"),
        ({"rule": "not_copy", "of": "missing"}, "no data `missing`"),
    ],
)
def test_data_that_a_prompt_lacks_is_named_before_training(table: dict[str, Any], words: str) -> None:
    reward = rule_reward(RuleSettings.model_validate(table), where="here")
    with pytest.raises(UserError, match=rf"^here \(`{table['rule']}`\): ") as caught:
        reward.check_prompt(PROMPT)
    assert words in str(caught.value)


def test_a_missing_package_is_told_when_the_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jsonschema", None)
    with pytest.raises(SettingsError, match=r"refine-rl\[schema\]"):
        rule_reward(RuleSettings.model_validate({"rule": "json_schema", "schema": {}}), where="here")


def test_a_schema_reference_is_never_fetched() -> None:
    (score,) = score_with({"rule": "json_schema", "schema": {"$ref": "http://localhost:9/schema.json"}}, "{}")
    assert score.status == "missing"
    assert "Unresolvable" in score.explanation


def test_the_page_of_rules_is_up_to_date() -> None:
    page = Path(__file__).parents[3] / "docs" / "rules.md"
    assert page.read_text(encoding="utf-8") == rules_table_markdown(), (
        "docs/rules.md is stale: run `make docs`"
    )
