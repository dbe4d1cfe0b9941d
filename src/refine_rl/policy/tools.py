"""What a model is told of the tools that it may call, and how their results reach it: in its template's own
form where the template has one, else in plain words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refine_rl.types import Message

Schemas = tuple[Mapping[str, Any], ...]
"""Functions as OpenAI's schema has them, {"type": "function", "function": {...}}."""
Write = Callable[[Sequence[Message], Schemas | None], str]
"""A conversation as the template writes it, told of these tools. Raises what the template raises."""

TOOL = "tool"
"""Who says what came of a call."""

_ASKED = Message(role="user", content="refine asks")
_ANSWERED = Message(role="assistant", content="refine answers")
_WORDS = """You can call these tools, described by a JSON schema each:
{schemas}
To call one, write its name and its arguments as JSON, in this form:
<tool_call>
{{"name": "NAME", "arguments": {{"ARGUMENT": VALUE}}}}
</tool_call>
Its result comes in the next message. When you need no tool any more, answer without a call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolForm:
    """What a template knows of tools: to describe them (`told`), and the role of their results (`role`); and
    whether it knows a `system` message."""

    told: bool
    role: bool
    system: bool

    def given(self, schemas: Schemas) -> Schemas | None:
        """What the template is to describe."""
        return schemas if self.told and schemas else None

    def messages(self, messages: Sequence[Message], schemas: Schemas) -> list[Message]:
        """The conversation as the template knows one: what it cannot say itself stands in the messages."""
        found = list(messages)
        if not self.role:
            found = [_as_user(m) for m in found]
        return found if self.told or not schemas else in_words(found, schemas, system=self.system)


def tool_form(write: Write, schemas: Schemas) -> ToolForm:
    """What the template of `write` knows, tried out."""
    name, result = str(schemas[0]["function"]["name"]), "refine results"
    told = _tried(lambda: write([_ASKED], schemas))
    plain = _tried(lambda: write([_ASKED], None))
    heard = _tried(lambda: write([_ASKED, _ANSWERED, Message(role=TOOL, content=result), _ANSWERED], None))
    # One that writes any role by its name in ChatML knows this one too: it is trained on what it reads.
    system = _tried(lambda: write([Message(role="system", content=result), _ASKED], None))
    return ToolForm(
        told=told.count(name) > plain.count(name),
        role=heard.count(result) == 1,
        system=result in system,
    )


def in_words(messages: Sequence[Message], schemas: Schemas, *, system: bool) -> list[Message]:
    """The tools described at the end of the system message; where there is none, in one of its own, or before
    the first words of a template that knows none.

    >>> schema = {"type": "function", "function": {"name": "add"}}
    >>> asked = [Message(role="user", content="1 + 1?")]
    >>> [m["role"] for m in in_words(asked, (schema,), system=True)]
    ['system', 'user']
    >>> in_words(asked, (schema,), system=False)[0]["content"].splitlines()[1::10]
    ['{"name": "add"}']
    """
    listed = "\n".join(json.dumps(s["function"], ensure_ascii=False) for s in schemas)
    words = _WORDS.format(schemas=listed)
    first = messages[0] if messages else Message(role="", content="")
    if first["role"] == "system":
        return [Message(role="system", content=f"{first['content']}\n\n{words}"), *messages[1:]]
    if system or first["role"] != "user":
        return [Message(role="system", content=words), *messages]
    return [Message(role="user", content=f"{words}\n\n{first['content']}"), *messages[1:]]


def _as_user(message: Message) -> Message:
    if message["role"] != TOOL:
        return message
    return Message(role="user", content=f"<tool_response>\n{message['content']}\n</tool_response>")


def _tried(write: Callable[[], str]) -> str:
    try:
        return write()
    except Exception:  # templates raise whatever their author chose
        return ""
