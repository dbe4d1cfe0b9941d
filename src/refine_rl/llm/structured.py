"""Structured replies: asked for in the best form that the endpoint can do, read with tolerance, and sent back
with what is wrong until they can be used.

    JSON schema -> JSON mode -> words alone   a step down where the endpoint cannot, or it does not help
    cut by length -> twice the room           (up to four times)
    not usable -> what is wrong, in words     `corrections` times, then CallFailed
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable
from weakref import WeakKeyDictionary

from refine_rl.llm.client import CallFailed, Client, Form, Reply, Request, Schema, TooLong, Unsupported
from refine_rl.llm.find_json import Unusable, find_values
from refine_rl.types import Message

__all__ = ["Answer", "Unusable", "ask", "parse_json"]

T = TypeVar("T")
_FORMS: tuple[Form, ...] = ("schema", "json", "text")
_MORE_ROOM = 4  # times the tokens asked for, at most, where replies are cut
_SHOWN = 4000  # characters of a wrong reply that are shown to the model again
_HELPLESS = 2  # answers that a form did not help with before it is given up for good


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer(Generic[T]):
    """A usable answer, and every reply on the way to it; the last one holds it.

    >>> Answer(value=0.5, replies=(Reply(text='{"score": 0.5}'),)).value
    0.5
    """

    value: T
    replies: tuple[Reply, ...]


@runtime_checkable
class Forgets(Protocol):
    """A client that keeps replies, and can be told that one was of no use."""

    def forget(self, request: Request) -> None: ...


async def ask(
    client: Client, request: Request, read: Callable[[Any], T], *, corrections: int = 2
) -> Answer[T]:
    """The answer to `request`, whose `schema` must be set.

    `read` gets the JSON value and gives what is wanted of it, or raises Unusable with what is wrong, in words
    to the model. Raises CallFailed with what was wrong last, and lets the client's own errors through.
    """
    if request.schema is None:
        raise ValueError("a structured answer needs request.schema")
    schema = request.schema
    request = replace(request, fault=lambda reply: _fault(reply, schema, read))
    dialogue = _Dialogue(client, request, schema)
    replies: list[Reply] = []
    left = corrections
    while True:
        reply = await dialogue.next_reply()
        if reply is None:
            continue
        replies.append(reply)
        try:
            value = _read(reply, schema, read)
        except Unusable as wrong:
            if dialogue.can_ask_otherwise(reply, wrong):
                continue
            if left == 0 or (reply.finish == "refusal" and dialogue.refusals > 1):
                dialogue.forget()
                raise CallFailed(f"{client.model} gave no usable reply: {wrong}") from None
            left -= 1
            dialogue.correct(reply, wrong)
        else:
            dialogue.helped()
            return Answer(value=value, replies=tuple(replies))


def parse_json(text: str) -> Any:
    """The JSON object or list in an LLM's reply. Raises Unusable where there is none, or two that differ.

    >>> parse_json("Sure!\\n```json\\n{'score': 1,}\\n```")
    {'score': 1}
    """
    return _agreed(list(find_values(text)))


def _read(reply: Reply, schema: Schema, read: Callable[[Any], T]) -> T:
    """What the reply says. Of several JSON values in it, the one that can be used counts."""
    if reply.finish == "refusal":
        raise Unusable("You declined to answer; what is asked for is only the JSON described above.")
    usable: list[tuple[Any, T]] = []
    problems: list[Unusable] = []
    try:
        for found in find_values(reply.text):
            try:
                value = _shaped(found, schema)
                usable.append((value, read(value)))
            except Unusable as wrong:
                problems.append(wrong)
    except Unusable as wrong:
        if not usable:
            raise problems[-1] if problems else wrong from None
    if not usable:
        raise problems[-1]
    _agreed([value for value, _ in usable])
    return usable[0][1]


def _fault(reply: Reply, schema: Schema, read: Callable[[Any], T]) -> str:
    """What is wrong with a reply, for the ledger; "" where it can be used."""
    try:
        _read(reply, schema, read)
    except Unusable as wrong:
        return str(wrong)
    return ""


def _agreed(values: list[Any]) -> Any:
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


class _Known:
    """What is known of a client: the best form it can do, and how often each form did not help."""

    def __init__(self) -> None:
        self.form: Form = "schema"
        self.helpless: Counter[Form] = Counter()


_known: WeakKeyDictionary[Client, _Known] = WeakKeyDictionary()
_known_lock = threading.Lock()


class _Dialogue:
    """One question with its corrections."""

    def __init__(self, client: Client, request: Request, schema: Schema) -> None:
        self.client = client
        self.request = request
        self.schema = schema
        with _known_lock:
            self.known = _known.setdefault(client, _Known())
        self.form = self.known.form
        self.max_tokens = request.max_tokens
        self.more_room = True
        self.no_json = 0  # replies without any JSON in the present form
        self.refusals = 0
        self.last: tuple[Message, ...] = ()  # the wrong reply and what was wrong with it
        self.sent: list[Request] = []
        self.skipped: list[Form] = []

    async def next_reply(self) -> Reply | None:
        """The next reply, or None where it must be asked for otherwise."""
        asked = self._asked()
        self.sent.append(asked)
        try:
            reply = await self.client.complete(asked)
        except Unsupported:
            if self.form == "text":
                raise
            lower = _lower(self.form)
            if _FORMS.index(self.known.form) < _FORMS.index(lower):
                self.known.form = lower
            self._step_down()
            return None
        except TooLong:
            if self.max_tokens == self.request.max_tokens:
                raise
            self.max_tokens, self.more_room = self.request.max_tokens, False
            return None
        self.refusals += reply.finish == "refusal"
        return reply

    def can_ask_otherwise(self, reply: Reply, wrong: Unusable) -> bool:
        """Whether more room or another form may help where a correction would not; prepares it."""
        if (
            reply.finish == "length"
            and self.more_room
            and self.max_tokens < _MORE_ROOM * self.request.max_tokens
        ):
            self.max_tokens = min(2 * self.max_tokens, _MORE_ROOM * self.request.max_tokens)
            return True
        if reply.finish == "stop" and wrong.no_json and self.form != "text":
            self.no_json += 1
            if self.no_json == 2 or not reply.text.strip():
                self.skipped.append(self.form)
                self._step_down()
                return True
        return False

    def correct(self, reply: Reply, wrong: Unusable) -> None:
        said = reply.text if reply.text.strip() else "(nothing)"
        if len(said) > _SHOWN:
            said = f"{said[: _SHOWN * 3 // 4]}\n[...]\n{said[-_SHOWN // 4 :]}"
        self.last = (
            {"role": "assistant", "content": said},
            {
                "role": "user",
                "content": f"That reply cannot be used. {wrong}\nAnswer again, with the whole corrected "
                "JSON and nothing else.",
            },
        )

    def helped(self) -> None:
        """The present form led to an answer: those that were left on the way did not."""
        for form in self.skipped:
            self.known.helpless[form] += 1
            if self.known.helpless[form] >= _HELPLESS and self.known.form == form:
                self.known.form = _lower(form)

    def forget(self) -> None:
        if isinstance(self.client, Forgets):
            for request in self.sent:
                self.client.forget(request)

    def _step_down(self) -> None:
        self.form = _lower(self.form)
        self.no_json = 0

    def _asked(self) -> Request:
        messages = self.request.messages
        if self.form != "schema":
            shape = json.dumps(self.schema.schema, ensure_ascii=False)
            words = f"Answer with JSON only, that fits this JSON schema:\n{shape}"
            last = messages[-1]
            messages = (*messages[:-1], {"role": last["role"], "content": f"{last['content']}\n\n{words}"})
        return replace(
            self.request, messages=(*messages, *self.last), form=self.form, max_tokens=self.max_tokens
        )


def _lower(form: Form) -> Form:
    return _FORMS[min(_FORMS.index(form) + 1, len(_FORMS) - 1)]
