"""Structured replies: asked for in the best form that the endpoint can do, read with tolerance, and sent back
with what is wrong until they can be used.

    JSON schema -> JSON mode -> words alone   a step down where the endpoint cannot, or it does not help
    cut by length -> twice the room           (up to four times)
    not usable -> what is wrong, in words     `corrections` times, then CallFailed

Which value of a reply is its answer, verdict.py says. Only a reply that could be used is kept in the cache.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar, runtime_checkable
from weakref import WeakKeyDictionary

from refine_rl.llm.client import CallFailed, Client, Form, Reply, Request, Schema, TooLong, Unsupported
from refine_rl.llm.find_json import Unusable
from refine_rl.llm.verdict import Reading
from refine_rl.types import Message

__all__ = ["Unusable", "ask"]

T = TypeVar("T")
_FORMS: tuple[Form, ...] = ("schema", "json", "text")
_MORE_ROOM = 4  # times the tokens asked for, at most, where replies are cut
_SHOWN = 4000  # characters of a wrong reply that are shown to the model again
_HELPLESS = 2  # answers that a form did not help with before it is given up for good


@runtime_checkable
class Keeps(Protocol):
    """A client that keeps replies for the next time: those that could be used, when it is told so."""

    def keep(self, request: Request, reply: Reply) -> None:
        """`reply` answers `request` from now on."""

    def forget(self, request: Request) -> bool:
        """Nothing answers `request` any more; whether something did."""


async def ask(
    client: Client, request: Request, read: Callable[[Any], T], *, corrections: int = 2, key: str = ""
) -> T:
    """What `read` makes of the answer to `request`, whose `schema` must be set.

    `read` gets the JSON value and gives what is wanted of it, or raises Unusable with what is wrong, in words
    to the model. `key` is the word by which a verdict goes ("score"): text behind the JSON that says it again
    is another verdict. Raises CallFailed with what was wrong last, and lets the client's own errors through.
    """
    if request.schema is None:
        raise ValueError("a structured answer needs request.schema")
    schema = request.schema
    reading = Reading(request.messages, schema, read, key)
    dialogue = _Dialogue(client, replace(request, fault=reading.fault), schema)
    left = corrections
    while True:
        reply = await dialogue.next_reply()
        if reply is None:
            continue
        try:
            value = reading.of(reply)
        except Unusable as wrong:
            if dialogue.forgets(reply) or dialogue.can_ask_otherwise(reply, wrong):
                continue
            if left == 0 or (reply.finish == "refusal" and dialogue.refusals > 1):
                raise CallFailed(f"{client.model} gave no usable reply: {wrong}") from None
            left -= 1
            dialogue.correct(reply, wrong)
        else:
            dialogue.helped(reply)
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
        self.wrongs: list[str] = []
        self.short = False  # more room cannot be had
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
            self.max_tokens, self.more_room, self.short = self.request.max_tokens, False, True
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
        """The next request shows the reply and says what was wrong with it. It is none that was sent before,
        also where the model says the same again: else it would say so for ever."""
        said = reply.text if reply.text.strip() else "(nothing)"
        if len(said) > _SHOWN:
            said = f"{said[: _SHOWN * 3 // 4]}\n[...]\n{said[-_SHOWN // 4 :]}"
        before = [text for text in dict.fromkeys(self.wrongs) if text != str(wrong)]
        self.wrongs.append(str(wrong))
        again = f" either (attempt {len(self.wrongs)})" if len(self.wrongs) > 1 else ""
        words = [
            f"That reply cannot be used{again}. {wrong}",
            *(f"An earlier one could not be used for this: {text}" for text in before),
            "Answer again, with the whole corrected JSON and nothing else.",
        ]
        self.last = (
            {"role": "assistant", "content": said},
            {"role": "user", "content": "\n".join(words)},
        )

    def helped(self, reply: Reply) -> None:
        """The reply can be used: it is kept, also as the answer to what was asked first, and the forms that
        were left on the way did not help."""
        if isinstance(self.client, Keeps) and not (reply.cached and len(self.sent) == 1):
            for request in dict.fromkeys((0, len(self.sent) - 1)):
                self.client.keep(self.sent[request], reply)
        for form in self.skipped:
            self.known.helpless[form] += 1
            if self.known.helpless[form] >= _HELPLESS and self.known.form == form:
                self.known.form = _lower(form)

    def forgets(self, reply: Reply) -> bool:
        """Whether a reply that cannot be used was a kept one (an older version read it otherwise), and is
        none any more: the same can be asked again."""
        return reply.cached and isinstance(self.client, Keeps) and self.client.forget(self.sent[-1])

    def _step_down(self) -> None:
        self.form = _lower(self.form)
        self.no_json = 0

    def _asked(self) -> Request:
        messages = self.request.messages
        words = []
        if self.form != "schema":
            shape = json.dumps(self.schema.schema, ensure_ascii=False)
            words.append(f"Answer with JSON only, that fits this JSON schema:\n{shape}")
        if self.short:
            words.append(f"There is room for {self.max_tokens} tokens, thoughts included: be brief.")
        if words:
            content = "\n\n".join([messages[-1]["content"], *words])
            messages = (*messages[:-1], {"role": messages[-1]["role"], "content": content})
        return replace(
            self.request, messages=(*messages, *self.last), form=self.form, max_tokens=self.max_tokens
        )


def _lower(form: Form) -> Form:
    return _FORMS[min(_FORMS.index(form) + 1, len(_FORMS) - 1)]
