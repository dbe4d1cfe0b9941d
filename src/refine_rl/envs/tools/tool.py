"""A function as a tool: its type hints and its docstring become a JSON schema, and a call's arguments are
checked against the hints."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from refine_rl.errors import SettingsError
from refine_rl.foreign.load import load_named, nearest

KEY = "rollout.tools"
DATA = "data"
"""A parameter of this name is no argument of a call: it gets the prompt's data."""


class CallError(Exception):
    """What is wrong with a call, in words for the policy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A function that the policy may call. `schema` is what it is told of it, in the form of OpenAI's
    functions; `types` checks each argument, and `needed` must be there."""

    name: str
    function: Callable[..., Any]
    schema: Mapping[str, Any]
    types: Mapping[str, TypeAdapter[Any]]
    needed: tuple[str, ...]
    takes_data: bool

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call as the function takes them. Raises CallError for one that is missing,
        unknown or of another type; a text that holds the value as JSON is read."""
        problems = [
            f"`{name}` is no argument of {self.name}{nearest(name, self.types)}"
            for name in given
            if name not in self.types
        ]
        problems += [f"the argument `{name}` is missing" for name in self.needed if name not in given]
        found: dict[str, Any] = {}
        for name in self.types.keys() & given.keys():
            try:
                found[name] = _read(self.types[name], given[name])
            except ValidationError as error:
                problems.append(f"the argument `{name}` is wrong: {_said(error)}")
        if problems:
            raise CallError("; ".join(sorted(problems)))
        return {name: found[name] for name in given}


def _read(kind: TypeAdapter[Any], value: Any) -> Any:
    try:
        return kind.validate_python(value)
    except ValidationError:
        if not isinstance(value, str):
            raise
        try:
            return kind.validate_json(value)
        except ValidationError:
            pass
        raise


def _said(error: ValidationError) -> str:
    """
    >>> try: TypeAdapter(int).validate_python("x")
    ... except ValidationError as error: print(_said(error))
    Input should be a valid integer, unable to parse string as an integer, not 'x'
    """
    first = error.errors(include_url=False)[0]
    inside = "".join(f"[{part!r}]" for part in first["loc"])
    return f"{inside and f'at {inside}: '}{first['msg']}, not {first['input']!r:.60}"


def load_tools(specs: Sequence[str], folder: Path) -> dict[str, Tool]:
    """The tools that "FILE.py:NAME" (relative to `folder`) or "module:NAME" name, by name. Raises a
    SettingsError that names every one which cannot be had."""
    files: dict[Path, ModuleType] = {}
    found: dict[str, Tool] = {}
    problems: list[str] = []
    for number, spec in enumerate(specs, 1):
        try:
            tool = tool_of(load_named(spec, folder, files, kind="function", fits=_is_function))
            if tool.name in found:
                raise SettingsError(f"there is a tool `{tool.name}` already; give one of them another name")
        except SettingsError as error:
            problems.append(f"{KEY}, entry {number}: {error}")
        else:
            found[tool.name] = tool
    if problems:
        raise SettingsError("\n".join(problems))
    return found


def _is_function(value: object) -> bool:
    return callable(value) and not inspect.isclass(value)


def tool_of(function: Callable[..., Any]) -> Tool:
    """A function as a tool. Raises a SettingsError that names what its schema would lack: a docstring, type
    hints, names for its arguments.

    >>> def add(a: int, b: int = 1) -> int:
    ...     '''Add two numbers.
    ...
    ...     Args:
    ...         a: The first.
    ...     '''
    ...     return a + b
    >>> tool_of(add).schema["function"]["parameters"]["properties"]["a"]
    {'type': 'integer', 'description': 'The first.'}
    """
    name = getattr(function, "__name__", type(function).__name__)
    text = inspect.getdoc(function) or ""
    problems = [] if text.strip() else ["has no docstring, which tells the policy what it does"]
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception as error:  # a hint may name what is not there
        raise SettingsError(f"the tool `{name}` has a type hint that cannot be read: {error}") from None
    types: dict[str, TypeAdapter[Any]] = {}
    needed: list[str] = []
    parameters = inspect.signature(function).parameters
    for key, parameter in parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            problems.append(f"takes `{_written(parameter)}`: arguments of a call have names")
        elif key == DATA:
            continue
        elif key not in hints:
            problems.append(f"has no type hint for `{key}`, which the schema needs")
        else:
            try:
                types[key] = TypeAdapter(hints[key])
                types[key].json_schema()
            except Exception as error:
                problems.append(f"has a type hint for `{key}` that no schema can say: {_no_type(error)}")
            if parameter.default is parameter.empty:
                needed.append(key)
    if problems:
        raise SettingsError("\n".join(f"the tool `{name}` {problem}" for problem in problems))
    return Tool(
        name=name,
        function=function,
        schema=_schema(name, text, parameters, types, needed),
        types=types,
        needed=tuple(needed),
        takes_data=DATA in parameters,
    )


def _written(parameter: inspect.Parameter) -> str:
    return str(parameter.replace(annotation=parameter.empty, default=parameter.empty))


def _no_type(error: Exception) -> str:
    if isinstance(error, PydanticSchemaGenerationError):
        return "JSON knows no such type"
    return str(error).splitlines()[0]


def _schema(
    name: str,
    text: str,
    parameters: Mapping[str, inspect.Parameter],
    types: Mapping[str, TypeAdapter[Any]],
    needed: Sequence[str],
) -> dict[str, Any]:
    from docstring_parser import parse  # late: not every run has tools

    doc = parse(text)
    said = {p.arg_name: " ".join((p.description or "").split()) for p in doc.params}
    properties: dict[str, Any] = {}
    for key, kind in types.items():
        properties[key] = kind.json_schema()
        if said.get(key):
            properties[key]["description"] = said[key]
        default = parameters[key].default
        if default is not inspect.Parameter.empty and isinstance(default, str | int | float | bool):
            properties[key]["default"] = default
    does = "\n\n".join(part for part in (doc.short_description, doc.long_description) if part)
    schema = {"type": "object", "properties": properties, "required": list(needed)}
    return {"type": "function", "function": {"name": name, "description": does, "parameters": schema}}
