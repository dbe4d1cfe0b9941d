"""What is wrong with the settings, in words: pydantic's errors as plain problems with the way out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from refine_rl.settings import Settings
from refine_rl.settings.toml_lines import KeyPath
from refine_rl.settings.toml_write import toml_value

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_MUST_BE = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
}
_OTHER_NAMES = {  # what other trainers call it
    "lr": "grpo.learning_rate",
    "beta": "grpo.kl",
    "max_steps": "grpo.steps",
    "num_generations": "rollout.group_size",
    "max_new_tokens": "rollout.max_tokens",
    "max_completion_length": "rollout.max_tokens",
    "lora_alpha": "model.alpha",
    "lora_r": "model.rank",
}
_GIVEN_NAMES = {"endpoints": ("NAME",), "prices": ("MODEL",)}  # tables of tables whose names the user gives


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong, and the key where it is (() for the settings as a whole); `others` are further
    keys that have a part in it."""

    path: KeyPath
    text: str
    others: tuple[KeyPath, ...] = ()


def dotted(path: Sequence[str | int]) -> str:
    """A path as a person writes it.

    >>> dotted(("reward", "rules", 0, "max"))
    'reward.rules[0].max'
    """
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def find_problems(error: ValidationError, data: Mapping[str, Any]) -> list[Problem]:
    """Everything that `error` says about the settings `data`, one problem for each key."""
    found: list[Problem] = []
    mismatches: dict[KeyPath, list[ErrorDetails]] = {}  # by key: the types of a union that do not fit
    for details in error.errors(include_url=False):
        path, of_union = _real_path(details, data)
        if of_union:
            mismatches.setdefault(path, []).append(details)
        elif details["type"] == "value_error":
            found += _combination_problems(path, details)
        else:
            found.append(Problem(path=path, text=_text(path, [details])))
    for path, group in mismatches.items():
        if not any(p.path[: len(path)] == path for p in found):  # else the right type had errors inside
            found.append(Problem(path=path, text=_text(path, group)))
    return found


def unknown_key(path: KeyPath) -> Problem:
    """The problem of a key that is not a setting, with the nearest names that are."""
    near = _nearest(path)
    if near:
        hint = f"; did you mean {' or '.join(f'`{name}`' for name in near)}?"
    else:
        table = path[:-1]
        names = ", ".join(setting_names().get(_table(table), ()))
        hint = f"; {f'`{dotted(table)}` has' if table else 'there are'}: {names}"
    return Problem(path=path, text=f"`{dotted(path)}` is not a setting{hint}")


@cache
def setting_names() -> dict[tuple[str, ...], tuple[str, ...]]:
    """The keys of every table, by the table's path; () is the top level."""
    return dict(_walk(Settings, ()))


def _walk(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    fields = {name: field for name, field in model.model_fields.items() if not field.exclude}
    yield path, tuple(fields)
    for name, field in fields.items():
        for table in _tables_in(field.annotation):
            yield from _walk(table, (*path, name))


def _tables_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _tables_in(part)


def _nearest(path: KeyPath) -> list[str]:
    """Its singular or plural in this table, the right key in another one, another trainer's name, a slip in
    this table, in any table."""
    table, key = _table(path[:-1]), str(path[-1])
    siblings = setting_names().get(table, ())
    numbers = [name for name in siblings if name in (f"{key}s", key.removesuffix("s"))]  # `judge`, `judges`
    if numbers:
        return [dotted((*path[:-1], numbers[0]))]
    everywhere = {(*t, name) for t, names in setting_names().items() for name in names}
    same = sorted(_shown_name(name) for name in everywhere if name[-1] == key)
    if same:
        return same
    if key in _OTHER_NAMES:
        return [_OTHER_NAMES[key]]
    slip = get_close_matches(key, siblings, n=1)
    if slip:
        return [dotted((*path[:-1], slip[0]))]
    close = get_close_matches(key, sorted({name[-1] for name in everywhere}), n=1, cutoff=0.75)
    return sorted(_shown_name(name) for name in everywhere if name[-1] in close)


def _table(path: KeyPath) -> tuple[str, ...]:
    """A table as `setting_names` has it: without places in lists, and without names that the user gave."""
    table: list[str] = []
    is_given = False
    for key in path:
        if isinstance(key, str) and not is_given:
            table.append(key)
        is_given = isinstance(key, str) and not is_given and key in _GIVEN_NAMES
    return tuple(table)


def _shown_name(name: tuple[str, ...]) -> str:
    """A name of `setting_names` as a person writes it."""
    tables = [part for key in name[:-1] for part in (key, *_GIVEN_NAMES.get(key, ()))]
    return dotted([*tables, name[-1]])


def _real_path(details: ErrorDetails, data: Any) -> tuple[KeyPath, bool]:
    """The path without pydantic's names of union members, and whether it ended in such a name."""
    path: list[str | int] = []
    of_union = False
    for index, key in enumerate(details["loc"]):
        is_missing_key = details["type"] == "missing" and index == len(details["loc"]) - 1
        known = range(len(data)) if isinstance(data, list) else data
        if isinstance(known, Mapping | range) and key in known:
            data = data[key]
        elif not is_missing_key:
            of_union = True
            continue
        path.append(key)
        of_union = False
    return tuple(path), of_union


def _text(path: KeyPath, group: list[ErrorDetails]) -> str:
    kind = group[0]["type"]
    if kind == "extra_forbidden":
        return unknown_key(path).text
    if kind == "missing":
        way_out = ': say in plain words what is wanted, as in task = "..."' if path == ("task",) else ""
        return f"`{dotted(path)}` is missing{way_out}"
    if not all(details["type"] in _MUST_BE for details in group):
        return f"`{dotted(path)}`: {'; '.join(details['msg'] for details in group)}"
    expected = " or ".join(_MUST_BE[d["type"]].format(**d.get("ctx", {})).replace("'", '"') for d in group)
    return f"`{dotted(path)}` must be {expected}, not {_shown(group[0]['input'])}"


def _combination_problems(path: KeyPath, details: ErrorDetails) -> Iterator[Problem]:
    """A validator's own words, a problem a line; the first key that a line names is its place."""
    prefix = f"`{dotted(path)}` " if path else ""
    for line in str(details["ctx"]["error"]).splitlines():
        named = [(*path, *name.split(".")) for name in re.findall(r"`([\w.]+)", line)]
        yield Problem(path=named[0] if named else path, text=prefix + line, others=tuple(named[1:]))


def _shown(value: Any) -> str:
    try:
        text = toml_value(value)
    except TypeError:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
