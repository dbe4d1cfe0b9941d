"""The calls in a reply, in the forms in which today's models write them.

- `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen), and with
  `<function=NAME><parameter=KEY>value</parameter></function>` inside (Qwen3-Coder);
- `[TOOL_CALLS][{"name": ..., "arguments": {...}}]` and `[TOOL_CALLS]NAME[ARGS]{...}` (Mistral);
- JSON with a name and `parameters` or `arguments` (Llama 3.x), bare, in a list, in a Markdown fence or among
  words; also OpenAI's `{"function": {...}}` and `{"tool_calls": [...]}`.

What stands before the end of a thought is no call. Arguments that are JSON inside of a JSON text are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from refine_rl.policy.control import TAG


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A function's name, and what it is to be called with."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadCall:
    """What was meant as a call and is none: why."""

    why: str


_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
_MISTRAL = re.compile(r"\[TOOL_CALLS\](.*?)(?=\[TOOL_CALLS\]|\Z)", re.DOTALL)
_ARGS = re.compile(r"\s*([\w.-]+)\s*\[ARGS\](.*)", re.DOTALL)
_XML = re.compile(r"<function=([^>\s]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_BEGUN = re.compile(r'\{\s*"(?:type"\s*:\s*"function"\s*,\s*"|function"\s*:\s*\{\s*")?name"\s*:\s*"')
_ARGUMENTS = ("arguments", "parameters")
_DECODER = json.JSONDecoder()
_FORM = '{"name": "TOOL", "arguments": {...}}'


def calls_of(reply: str) -> list[Call | BadCall]:
    """The calls of a reply in order; [] where it calls nothing.

    >>> calls_of('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')
    [Call(name='add', arguments={'a': 1})]
    >>> calls_of('{"name": "add", "parameters": "{\\\\"a\\\\": 1}"}')
    [Call(name='add', arguments={'a': 1})]
    >>> calls_of("It is 3.")
    []
    """
    for thought in TAG.finditer(reply):
        if thought["ends"]:
            reply = reply[thought.end() :]
            return calls_of(reply)
    if marked := list(_BLOCK.finditer(reply)):
        return [call for m in marked for call in _in_block(m[1])]
    if marked := list(_MISTRAL.finditer(reply)):
        return [call for m in marked for call in _of_mistral(m[1])]
    return list(_among_words(reply))


def _in_block(text: str) -> Iterator[Call | BadCall]:
    if functions := list(_XML.finditer(text)):
        for m in functions:
            yield Call(name=m[1], arguments=dict(_PARAMETER.findall(m[2])))
        return
    found = _json(text)
    yield from [found] if isinstance(found, BadCall) else _calls_in(found)


def _of_mistral(text: str) -> Iterator[Call | BadCall]:
    if m := _ARGS.fullmatch(text):
        given = _json(m[2])
        yield given if isinstance(given, BadCall) else _call({"name": m[1], "arguments": given})
        return
    found = _json(text)
    yield from [found] if isinstance(found, BadCall) else _calls_in(found)


def _among_words(text: str) -> Iterator[Call | BadCall]:
    """JSON that is a call, wherever it stands; and what begins like one and is no JSON."""
    at = 0
    while (at := text.find("{", at)) >= 0:
        try:
            found, end = _DECODER.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            if _BEGUN.match(text, at):
                yield _json(text[at:])
                return
            at += 1
            continue
        if _is_call(found):
            yield from _calls_in(found)
        at = end


def _is_call(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    if isinstance(value.get("tool_calls"), list):
        return True
    inner = _inner(value)
    return isinstance(inner.get("name"), str) and any(key in inner for key in _ARGUMENTS)


def _inner(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """OpenAI's form has the call one level deeper."""
    deeper = value.get("function")
    return deeper if isinstance(deeper, Mapping) else value


def _calls_in(value: Any) -> Iterator[Call | BadCall]:
    """The calls of a JSON value that stands where calls stand."""
    if isinstance(value, list):
        for one in value:
            yield from _calls_in(one)
    elif isinstance(value, Mapping) and isinstance(value.get("tool_calls"), list):
        yield from _calls_in(value["tool_calls"])
    else:
        yield _call(value)


def _call(value: Any) -> Call | BadCall:
    if isinstance(value, Mapping):
        value = _inner(value)
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return BadCall(why=f"a call is written {_FORM}, not {json.dumps(value, ensure_ascii=False):.60}")
    given: Any = next((value[key] for key in _ARGUMENTS if key in value), {})
    for _ in range(2):  # JSON inside of a JSON text, perhaps twice
        if isinstance(given, str) and given.strip():
            read = _json(given)
            if isinstance(read, BadCall):
                return BadCall(why=f"the arguments of {value['name']} cannot be read: {read.why}")
            given = read
    if given is None or given == "":
        given = {}
    if not isinstance(given, Mapping):
        return BadCall(why=f"the arguments of {value['name']} must be an object with a value for each name")
    return Call(name=value["name"], arguments=given)


def _json(text: str) -> Any:
    """The JSON value with which a text begins, blanks and a fence apart; else a BadCall."""
    core = re.sub(r"\A\s*```\w*\s*", "", text).strip()
    if not core:
        return BadCall(why=f"the call is empty; it is written {_FORM}")
    try:
        return _DECODER.raw_decode(core)[0]
    except json.JSONDecodeError as error:
        if error.pos >= len(core.rstrip()) or error.msg.startswith("Unterminated string"):
            return BadCall(why="its JSON is cut off: close every quote, bracket and brace")
        return BadCall(why=f"it is not JSON: {error.msg} at character {error.pos + 1}")
    except RecursionError:
        return BadCall(why="its JSON has too many brackets inside each other")
