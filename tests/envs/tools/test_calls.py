"""Calls as models write them, and what is meant as one and is none."""

from __future__ import annotations

import json

import pytest

from refine_rl.envs.tools.calls import BadCall, Call, calls_of

ADD = Call(name="add", arguments={"a": 1, "b": 2})
OBJECT = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
LLAMA = '{"name": "add", "parameters": {"a": 1, "b": 2}}'
TWICE = json.dumps({"name": "add", "arguments": json.dumps({"a": 1, "b": 2})})
THRICE = json.dumps({"name": "add", "arguments": json.dumps(json.dumps({"a": 1, "b": 2}))})


@pytest.mark.parametrize(
    "reply",
    [
        f"<tool_call>\n{OBJECT}\n</tool_call>",
        f"I add.\n<tool_call>{OBJECT}</tool_call> Then I wait.",
        f"<tool_call>{OBJECT}",  # the closing tag may be a stop token
        f"<tool_call>```json\n{OBJECT}\n```</tool_call>",
        f"<think>shall I? {OBJECT.replace('add', 'sub')}</think>\n<tool_call>{OBJECT}</tool_call>",
        f"[TOOL_CALLS][{OBJECT}]",
        f"[TOOL_CALLS] {OBJECT}",
        '[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}',
        LLAMA,
        f"<|python_tag|>{LLAMA}",
        f"I will call {LLAMA} now.",
        f"```json\n{OBJECT}\n```",
        f"[{OBJECT}]",
        json.dumps({"type": "function", "function": json.loads(OBJECT)}),
        json.dumps({"tool_calls": [{"id": "x", "function": json.loads(TWICE)}]}),
        f"<tool_call>{TWICE}</tool_call>",
        THRICE,
    ],
)
def test_one_call_in_every_form(reply: str) -> None:
    assert calls_of(reply) == [ADD]


def test_the_xml_of_coders_has_texts_for_values() -> None:
    reply = (
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n"
        "<parameter=b>\n2\n</parameter>\n</function>\n</tool_call>"
    )
    assert calls_of(reply) == [Call(name="add", arguments={"a": "1", "b": "2"})]


def test_several_calls_in_order() -> None:
    other = '{"name": "now", "arguments": {}}'
    now = Call(name="now", arguments={})
    assert calls_of(f"<tool_call>{OBJECT}</tool_call>\n<tool_call>{other}</tool_call>") == [ADD, now]
    assert calls_of(f"<tool_call>{OBJECT}<tool_call>{other}") == [ADD, now]
    assert calls_of(f"[TOOL_CALLS][{OBJECT}, {other}]") == [ADD, now]
    assert calls_of(f"{LLAMA}; {other}") == [ADD, now]
    assert calls_of('[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}[TOOL_CALLS]now[ARGS]{}') == [ADD, now]


@pytest.mark.parametrize(
    "reply",
    [
        "It is 3.",
        "",
        "The set {1, 2} and {x: 1}.",
        '{"answer": 3}',
        '{"name": "Ann", "age": 7}',
        "```python\nprint({'a': 1})\n```",
        f"<think>perhaps {OBJECT}</think> It is 3.",
    ],
)
def test_an_answer_is_no_call(reply: str) -> None:
    assert calls_of(reply) == []


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ('<tool_call>{"name": "add", "arguments": {"a": 1', "cut off"),
        ('{"name": "add", "parameters": {"a": "x', "cut off"),
        ("<tool_call>{'name': 'add'}</tool_call>", "not JSON"),
        ("<tool_call></tool_call>", "empty"),
        ("<tool_call>[1, 2]</tool_call>", "a call is written"),
        ('<tool_call>{"tool": "add"}</tool_call>', "a call is written"),
        ('<tool_call>{"name": "add", "arguments": "a=1"}</tool_call>', "the arguments of add cannot be read"),
        ('<tool_call>{"name": "add", "arguments": [1, 2]}</tool_call>', "must be an object"),
        ("[TOOL_CALLS]add[ARGS]{", "cut off"),
        ("<tool_call>" + "[" * 100_000, "too many brackets"),
    ],
)
def test_what_is_no_call_says_why(reply: str, why: str) -> None:
    first = calls_of(reply)[0]
    assert isinstance(first, BadCall)
    assert why in first.why


def test_a_call_without_arguments() -> None:
    now = [Call(name="now", arguments={})]
    assert calls_of('<tool_call>{"name": "now"}</tool_call>') == now
    assert calls_of('<tool_call>{"name": "now", "arguments": null}</tool_call>') == now
    assert calls_of('<tool_call>{"name": "now", "arguments": ""}</tool_call>') == now
