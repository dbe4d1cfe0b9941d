"""JSON as LLMs write it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine_rl.llm.find_json import Unusable, find_values
from refine_rl.llm.tolerant import Malformed, read_strictly, read_tolerantly
from refine_rl.llm.verdict import agreed


def values(text: str) -> list[Any]:
    return [found.value for found in find_values(text)]


def parse_json(text: str) -> Any:
    return agreed(values(text))


WANTED = {"scores": [{"id": "a", "score": 0.5, "why": None}]}
PLAIN = json.dumps(WANTED)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        "\ufeff" + PLAIN,
        f"\n\ufeff<think>{{'scores': [1]}}</think>\ufeff{PLAIN}",
        PLAIN.replace(" ", "\ufeff"),
        f"[THINK]{{'scores': [1]}}[/THINK]{PLAIN}",
        f"◁think▷{{'scores': [1]}}◁/think▷{PLAIN}",
        f"Well. <think>{{'scores': [1]}}</think> {PLAIN}",
        f"```json\n{PLAIN}\n```",
        f"```\n{PLAIN}\n```\nI hope that this helps!",
        f"Here are the scores [as asked]:\n{PLAIN}\nSome {{remarks}}: none.".replace("[as asked]", "(asked)"),
        f"<think>First {{'scores': [1]}} ... no.</think>\n{PLAIN}",
        f"<thinking>{PLAIN.replace('0.5', '1.0')}</thinking>{PLAIN}",
        f'{{"scores": []}} no, wait {{ </think> {PLAIN}',
        "{'scores': [{'id': 'a', 'score': 0.5, 'why': None}]}",
        '{"scores": [{"id": "a", "score": 0.5, "why": null,},],}',
        '{scores: [{id: "a", score: .5, why: null}]}',
        '{"scores": [ // all of them\n {"id": "a", /* half */ "score": 5e-1, "why": null} # one\n]}',
        '{"scores": [{"id": "a", "score": +0.5, "why": None}]}',
        f"{PLAIN}\n{PLAIN}",
    ],
)
def test_what_is_understood(text: str) -> None:
    assert parse_json(text) == WANTED


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": "two\nlines\tand a tab"}', {"a": "two\nlines\tand a tab"}),
        ("{'a': 'it's fine'}", {"a": "it's fine"}),
        ('{"a": "he said "hi" to me"}', {"a": 'he said "hi" to me'}),
        ('{"a": "c:\\path"}', {"a": "c:\\path"}),
        ('{"a": "x\\\'y",}', {"a": "x'y"}),
        ("{'a': '\\u00e9\\n\\\"'}", {"a": 'é\n"'}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        ("{'a': '\\ud83d\\ude00'}", {"a": "😀"}),
        ('{"a": "\\ud83d"}', {"a": "\ufffd"}),
        ('[True, False, None, "x"]', [True, False, None, "x"]),
        ('{"a": 1, "a": 1}', {"a": 1}),
        ('{"quoted": "</think>{\'score\': 10}"}', {"quoted": "</think>{'score': 10}"}),
    ],
)
def test_slips(text: str, value: Any) -> None:
    assert parse_json(text) == value
    json.dumps(parse_json(text)).encode("utf-8")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ("I would give it 8/10.", "no JSON"),
        ('{"scores": [{"id": "a"', "ends in the middle of its JSON"),
        ('{"scores": "and so', "ends in the middle of its JSON"),
        ('{"scores": [1, 2', "ends in the middle of its JSON"),
        ("<think>Let me see {'a': 1}", "middle of a thought"),
        ("Well. <think>Let me see {'a': 1}", "middle of a thought"),
        ("{'a': 2} [THINK] or rather {'a': 1}", "middle of a thought"),
        ("<think>no</think> <think>Let me see {'a': ", "middle of a thought"),
        ("{'a': 1 /* or", "ends in the middle"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": -Infinity}', "line 1"),
        ('{"a": 1e999}', "too large"),
        ('{"a": 1,\n "b": 8/10}', r"line 2.*`/10}`.*comma"),
        ('{"score": 1, "score": 10}', 'the key "score" stands twice'),
        ("{'score': 1, 'score': 10,}", 'the key "score" stands twice'),
        ('{"a": 1} {"a": 2}', "more than one answer"),
        ("[" * 5000, "nested too deeply"),
        ('{"a" 1}', "quotes in it that are not escaped"),
        # What is quoted without escapes must not become the answer.
        ('{"explanation": "it says "{"score": 10}", "score": 1}', "cannot be read"),
        ('{"detail": {"score": 10} "score": 1}', "cannot be read"),
        ('{"score": 10} no: {"score": 1 "x": 2}', "cannot be read"),
    ],
)
def test_what_is_sent_back_and_why(text: str, what: str) -> None:
    with pytest.raises(Unusable, match=what):
        parse_json(text)


def test_a_value_inside_a_cut_answer_is_not_the_answer() -> None:
    with pytest.raises(Unusable, match="ends in the middle"):
        parse_json('{"scores": [{"id": "a", "score": 1}, {"id": "b"')


def test_text_quoted_inside_an_answer_is_not_an_answer() -> None:
    text = '{"explanation": "It says {\\"score\\": 10}", "score": 1}'
    assert values(text) == [{"explanation": 'It says {"score": 10}', "score": 1}]


def test_what_lies_inside_a_broken_list_is_not_the_answer() -> None:
    assert values('[1, 2, three] {"a": 1}') == [{"a": 1}]
    assert values('[1, {"a": 2}, three] {"a": 1}') == [{"a": 1}]


def test_every_value_is_seen_however_many_there_are() -> None:
    assert values("[1] " * 500 + '{"a": 1}')[-1] == {"a": 1}


HOSTILE = [
    *(
        "[1,",
        "[1,1,1,",
        "[/*",
        "[/**/",
        "[ //",
        "<think>",
        "</think>",
        "[1] ",
        "{} ",
        "[a ",
        "{x ",
        "{ ",
        '["',
    ),
    *('[1,"x', "[1, 'tis ", "{'a':1}", "[#", "[1, three ", "[1e999,", "[{", "</think>{'a'", "[NaN", "{a b"),
    *(
        '[1,{"a":1,"a":2}',
        "[1, {a:1 ",
        "{\ufeff",
        "[tru ",
        "[-",
        '{"',
        '{"a": "\\"',
        "{'a':",
        "{x",
        "[THINK][",
    ),
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_the_search_is_linear(unit: str, is_linear: Callable[..., bool]) -> None:
    def work(characters: int) -> None:
        text = unit * (characters // len(unit))
        with contextlib.suppress(Unusable):
            find_values(text)

    assert is_linear(work, 20_000)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(value=st.lists(json_values, max_size=3) | st.dictionaries(st.text(), json_values, max_size=3))
def test_strict_json_is_read_as_it_is(value: Any) -> None:
    text = json.dumps(value)
    assert read_strictly(text + " and more", 0) == (value, len(text))


@settings(max_examples=150, deadline=None)
@given(value=st.dictionaries(st.text("a'{,:\\\""), st.integers() | st.booleans(), min_size=1))
def test_what_python_prints_is_read_too(value: Any) -> None:
    text = "{" + ", ".join(f"{json.dumps(k)}: {v!r}" for k, v in value.items()) + ",}"
    assert read_tolerantly(text, 0) == (value, len(text))


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="{}[]\"'\\,:a1 \n</#*N-", max_size=40))
def test_any_text_gives_a_value_or_a_reason(text: str) -> None:
    try:
        value = parse_json(text)
    except Unusable as wrong:
        assert str(wrong)
    else:
        assert isinstance(value, dict | list)


def test_malformed_knows_its_place() -> None:
    with pytest.raises(Malformed) as error:
        read_tolerantly('xx{"a": 1 2}', 2)
    assert error.value.at == 10
