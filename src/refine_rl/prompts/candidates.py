"""A row of a source, checked: the candidate for a prompt."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, get_args

from refine_rl.prompts.columns import AS_THEY_ARE, Columns, beside
from refine_rl.prompts.json_rows import NoColumnError, RowError
from refine_rl.types import Message, Prompt, Split

__all__ = ["SPLITS", "Candidate", "RowError", "candidate", "checked_messages", "is_record"]

SPLITS: tuple[Split, ...] = get_args(Split)
_ROLES = ("system", "user", "assistant")
_RECORD = {field.name for field in fields(Prompt)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What a source offers. `id` and `split` are None where the source leaves them open; `recorded`: it was
    a prompt before."""

    messages: tuple[Message, ...]
    id: str | None
    split: Split | None
    facets: Mapping[str, str]
    data: Mapping[str, Any]
    origin: str
    recorded: bool = False


def candidate(row: object, origin: str, columns: Columns = AS_THEY_ARE) -> Candidate:
    """Check a row: `prompt` or `messages`, perhaps `id`, `split`, `facets`; the rest goes to `data`.

    Values of None and empty cells count as absent for these names. All values become what JSON reads
    back (a tuple a list), so that rewards see the same in a run and after its resume. `columns` says where
    the prompt and data stand under other names; a record of ours (`refine prompts --out`, a run's prompts)
    is read back as it was written. Raises RowError.

    >>> candidate({"prompt": "Say hi.", "answer": "Hi!"}, "file:a.jsonl:1").data
    {'answer': 'Hi!'}
    """
    if not isinstance(row, dict):
        raise RowError('is not an object with a "prompt": write {"prompt": "..."}')
    rest = _as_json(row)
    recorded = is_record(rest)
    if recorded:
        origin, rest = rest["origin"], {name: v for name, v in rest.items() if name != "origin"}
    else:
        rest = columns.applied(rest)
    names = tuple(rest)
    known = {name: rest.pop(name, None) for name in ("prompt", "messages", "id", "split", "facets")}
    given = {name: value for name, value in known.items() if value is not None and value != ""}
    return Candidate(
        messages=_messages(given, names, columns),
        id=_id(given.get("id")),
        split=_split(given.get("split")),
        facets=_facets(given.get("facets", {})),
        data=_data(rest),
        origin=origin,
        recorded=recorded,
    )


def is_record(row: Mapping[str, Any]) -> bool:
    """Whether a row is a prompt as we write it, with all its fields and no other."""
    return row.keys() == _RECORD and isinstance(row["data"], Mapping) and isinstance(row["origin"], str)


def _as_json(row: dict[Any, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
        text.encode()  # refuses half a surrogate pair
        return dict(json.loads(text))
    except (TypeError, ValueError) as error:
        raise RowError(f"has a value that JSON cannot hold: {error}") from error
    except RecursionError:
        raise RowError("is nested too deeply: too many lists or objects inside each other") from None


def _messages(given: Mapping[str, Any], names: tuple[str, ...], columns: Columns) -> tuple[Message, ...]:
    if "prompt" in given and "messages" in given:
        raise RowError("has both a prompt and messages; one of them is enough")
    if "messages" in given:
        return _chat(given["messages"])
    text = given.get("prompt")
    if text is None:
        if "prompt" in names:
            raise RowError("has an empty prompt")
        what = "has no prompt and no messages"
        raise NoColumnError(f"{what}{columns.there(names)}", f"{what}{beside('prompt', names)}")
    if isinstance(text, list):
        raise RowError("has a list as its prompt; call the column `messages` where it holds a chat")
    if not isinstance(text, str):
        raise RowError(f"has a prompt that is not text: {text!r:.60}")
    if not text.strip():
        raise RowError("has an empty prompt")
    return (Message(role="user", content=text),)


def _chat(messages: object) -> tuple[Message, ...]:
    if not isinstance(messages, list) or not messages:
        raise RowError("has messages that are not a list of {role, content}")
    checked = checked_messages(messages)
    if checked[-1]["role"] == "assistant":
        raise RowError(
            "ends with the assistant's message; end with the user's, and put a reference answer "
            "into a column of its own"
        )
    if checked[-1]["role"] != "user":
        raise RowError("has no message of the user at its end")
    if any(message["role"] == "system" for message in checked[1:]):
        raise RowError("has a system message that is not the first message")
    return checked


def checked_messages(messages: Iterable[object]) -> tuple[Message, ...]:
    """Each as exactly {role, content}, with a role that is known and some text. Raises RowError."""
    return tuple(_message(number, message) for number, message in enumerate(messages, 1))


def _message(number: int, message: object) -> Message:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise RowError(f"has a message {number} that is not exactly {{role, content}}: {message!r:.60}")
    role, content = message["role"], message["content"]
    if role not in _ROLES:
        raise RowError(f"has a message {number} with the role {role!r}; roles are {', '.join(_ROLES)}")
    if not isinstance(content, str) or not content.strip():
        raise RowError(f"has a message {number} without text")
    return Message(role=role, content=content)


def _id(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise RowError(f"has an id that is neither text nor a whole number: {value!r:.60}")
    return str(value).strip()


def _split(value: object) -> Split | None:
    if value is None:
        return None
    for split in SPLITS:
        if value == split:
            return split
    meant = "held_out" if value == "test" else "".join(get_close_matches(str(value), SPLITS, n=1, cutoff=0.3))
    hint = f"; did you mean {meant!r}?" if meant else ""
    raise RowError(f"has the split {value!r:.60}; splits are {', '.join(map(repr, SPLITS))}{hint}")


def _facets(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise RowError(f"has facets that are not an object: {value!r:.60}")
    for name, facet in value.items():
        if not isinstance(facet, str | int | float):
            raise RowError(f"has a facet {name!r} that is neither text nor a number")
    return {str(name): str(facet) for name, facet in value.items()}


def _data(rest: dict[str, Any]) -> dict[str, Any]:
    """The other columns; an object called `data` (as in a run's prompts.jsonl) is poured out."""
    inner = rest.get("data")
    if not isinstance(inner, Mapping):
        return rest
    others = {key: value for key, value in rest.items() if key != "data"}
    twice = sorted(set(inner) & set(others))
    if twice:
        raise RowError(f"has {twice[0]!r} both in its data and as a column")
    return {**inner, **others}
