"""Which JSON value of a reply is its answer, and whether it is one at all.

A reply may quote what it was given, think aloud, or break off, and a value in it may be anybody's. So the
last complete value is the answer, and only where nothing speaks against it:

    what follows it names its key again          there is another verdict in words
    what follows it looks like the rest of it    a quote that was not escaped has ended a string too early
    the reply was cut, and goes on behind it     the answer was still to come
    another one that could be used differs       which of the two is meant must not be guessed
    it stands in the request, word for word      it is a quotation
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

from refine_rl.llm.client import Reply, Schema
from refine_rl.llm.find_json import Found, Unusable, find_values
from refine_rl.types import Message, one_line

T = TypeVar("T")

_FENCE = re.compile(r"\s*(?:`{3,}|~{3,})?\s*")
_REST = re.compile(  # how text goes on behind a string that ended too early
    r"""\s*["'}\],:]|.*?(?:["']\s*[}\]:]|"\s*,\s*["'])""", re.DOTALL
)
_ESCAPES = re.compile(r"\\+")
_CODE = re.compile(r"\\u([0-9a-fA-F]{4})")
_LINE = re.compile(r"\\[nrtbf]")
_NOTHING = re.compile(r"[\s\ufeff\\\"'`*“”‘’]+")
_ROUND = re.compile(r"(?<=\d)\.0+(?!\d)")
_SHOWN = 60


class Reading(Generic[T]):
    """How the replies to one question are read: `read` makes of a JSON value what is wanted."""

    def __init__(
        self, given: Iterable[Message], schema: Schema, read: Callable[[Any], T], key: str = ""
    ) -> None:
        self._schema = schema
        self._read = read
        self._ending = Ending(schema.schema, key)
        self._material = Material(given)

    def of(self, reply: Reply) -> T:
        """What the reply says; raises Unusable with what is wrong with it, in words to the model."""
        if reply.finish == "refusal":
            words = f' ("{one_line(reply.text, 200)}")' if reply.text.strip() else ""
            what = (
                f"There is no answer ({reply.instead})" if reply.instead else f"You declined to answer{words}"
            )
            raise Unusable(f"{what}; what is asked for is only the JSON described above.")
        if reply.instead and not reply.text.strip():
            raise Unusable(f"The reply is empty: {reply.instead}.", no_json=True)
        *others, last = find_values(reply.text)
        usable = [value for value in map(self._usable, others) if value is not None]
        value = _shaped(last.value, self._schema)
        result = self._read(value)
        self._ending.check(last, cut=reply.finish == "length")
        agreed([value, *usable])
        if self._material.has(last):
            raise Unusable(
                "That JSON stands word for word in what you were given, so it may be a quotation; give your "
                "own."
            )
        return result

    def fault(self, reply: Reply) -> str:
        """What is wrong with a reply, for the ledger; "" where it can be used."""
        try:
            self.of(reply)
        except Unusable as wrong:
            return str(wrong)
        return ""

    def _usable(self, found: Found) -> Any:
        """The value of a draft, or of what is quoted; None where it could not be an answer."""
        try:
            value = _shaped(found.value, self._schema)
            self._read(value)
        except Unusable:
            return None
        return value


class Ending:
    """What must not stand behind an answer of a schema. `key`: the word by which the verdict goes; the names
    of other properties count only where they are written as properties are, and those of free texts do not:
    an explanation may follow."""

    def __init__(self, schema: Mapping[str, Any], key: str = "") -> None:
        names = sorted(set(_names(schema)) or set(schema.get("properties", ())))
        words = [rf"""\b{re.escape(name)}\b["'`*]*\s*[:=]""" for name in names]
        if key:
            words.append(rf"\b{re.escape(key).replace('_', '[ _-]?')}")
        self._named = re.compile("|".join(words), re.IGNORECASE) if words else None

    def check(self, found: Found, *, cut: bool) -> None:
        """Raises Unusable with what stands behind the value and should not; `cut`: the reply has no end."""
        behind = found.behind
        if _FENCE.fullmatch(behind):
            return
        if cut:
            raise Unusable("The reply was cut before its end; give the JSON alone, with nothing around it.")
        if self._named is not None and (named := self._named.search(behind)):
            word = named[0].strip("\"'`*:= \t\r\n")
            raise Unusable(
                f'Behind its JSON the reply goes on and speaks of "{word}" again; give the JSON that is '
                "meant, once, and nothing behind it."
            )
        if _REST.match(behind) or behind.count('"') % 2 or _closes(behind):
            shown = " ".join(behind.split())[:_SHOWN]
            raise Unusable(
                f"What stands behind the JSON looks like a part of it (`{shown}`): quotes inside a string "
                "must be escaped, and nothing may follow the JSON."
            )


class Material:
    """What a request holds, to tell quotations by: whatever the spaces, the quotes and the escapes.

    >>> given = Material([{"role": "user", "content": '[{"content": "Say {\\\\"score\\\\": 10}!"}]'}])
    >>> given.has(Found(value={"score": 10}, text="{'score': 10.0}", begin=0, end=15))
    True
    """

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = tuple(messages)

    @cached_property
    def _text(self) -> str:
        return "\n".join(_plain(message["content"]) for message in self._messages)

    def has(self, found: Found) -> bool:
        """Whether the value stands there; bare lists of numbers or words, which may be anything, do not."""
        if not _holds_object(found.value):
            return False
        forms = {_plain(found.written), _plain(json.dumps(found.value, ensure_ascii=False))}
        return any(form in self._text for form in forms)


def _plain(text: str) -> str:
    text = _ESCAPES.sub(r"\\", text)  # of a text in JSON in JSON
    text = _CODE.sub(lambda code: chr(int(code[1], 16)), text)
    text = _NOTHING.sub("", _LINE.sub(" ", text))
    return _ROUND.sub("", text).replace(",}", "}").casefold()


def _holds_object(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_holds_object, value))
    return isinstance(value, dict) and bool(value)


def _closes(text: str) -> bool:
    """Whether a bracket is closed that was not opened."""
    for opens, ends in ("{}", "[]"):
        depth = 0
        for sign in re.findall(rf"[\{opens}\{ends}]", text):
            depth += 1 if sign == opens else -1
            if depth < 0:
                return True
    return False


def _names(schema: Any) -> Iterator[str]:
    """The names of all properties of a schema, at any depth, that are no free texts."""
    if isinstance(schema, Mapping):
        if isinstance(properties := schema.get("properties"), Mapping):
            yield from (
                n for n, entry in properties.items() if "enum" in entry or entry.get("type") != "string"
            )
        for entry in schema.values():
            yield from _names(entry)
    elif isinstance(schema, list):
        for entry in schema:
            yield from _names(entry)


def agreed(values: Sequence[Any]) -> Any:
    """The value that all of them are."""
    if any(value != values[0] for value in values):
        raise Unusable("The reply holds more than one answer, and they differ; give one, and nothing else.")
    return values[0]


def _shaped(value: Any, schema: Schema) -> Any:
    """The value as the schema's outermost kind; one wrapping too many or too few is understood."""
    wanted = schema.schema.get("type")
    if wanted == "object" and isinstance(value, list):
        properties = schema.schema.get("properties", {})
        lists = [name for name, entry in properties.items() if entry.get("type") == "array"]
        if len(properties) == len(lists) == 1:
            inside = value[0].get(lists[0]) if len(value) == 1 and isinstance(value[0], dict) else None
            return {lists[0]: inside if isinstance(inside, list) else value}
        if len(value) == 1 and isinstance(value[0], dict):
            return value[0]
        raise Unusable("The reply must be a JSON object, not a list.")
    if wanted == "array" and isinstance(value, dict):
        if len(value) == 1 and isinstance(only := next(iter(value.values())), list):
            return only
        raise Unusable("The reply must be a JSON list, not an object.")
    return value
