"""The rules by name: their parameters checked, rewards built from their settings, their table.

The rules themselves stand in form.py, content.py, semantic.py and docstrings.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from refine_rl.errors import SettingsError, UserError, path_from
from refine_rl.foreign.load import nearest
from refine_rl.rewards.base import Check, CompletionReward, GroupCheck, GroupReward, RuleFactory
from refine_rl.rewards.rules.content import CONTENT_RULES
from refine_rl.rewards.rules.docstrings import DOCSTRING_RULES
from refine_rl.rewards.rules.form import FORM_RULES
from refine_rl.rewards.rules.semantic import SEMANTIC_RULES
from refine_rl.settings import RuleSettings
from refine_rl.types import Prompt, Score

RULES: dict[str, RuleFactory] = {**FORM_RULES, **CONTENT_RULES, **SEMANTIC_RULES, **DOCSTRING_RULES}

_EMPTY = Score(value=0.0, explanation="empty completion")
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_TYPE_NAMES = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    dict: "table",
    Path: "file",
}

_TABLE_HEAD = """\
# Rules

A rule looks at one completion and gives a number from 0 to 1 and one line of explanation. In
`task.toml` it is a table with its name, its parameters, and where wanted a `weight` (1 without it)
and a `name` for records and plots:

```toml
[reward]
rules = [{rule = "words", max = 20}, {rule = "contains", text = "sorry", weight = 0.5}]
```

An empty completion gets 0 from every rule: silence would be the easy way round many of them.
`data = "answer"` takes what a rule compares with from the prompt's own data; each prompt must have it.

| rule | score | parameters |
|---|---|---|
"""


def rule_reward(
    settings: RuleSettings, *, where: str, folder: Path = Path()
) -> CompletionReward | GroupReward:
    """The reward of one rule table, called by its rule where it has no name; `where` says in errors where the
    table stands, and a file that it names lies in `folder`.

    Raises SettingsError for an unknown rule or parameter, a wrong type, or an impossible combination.
    """
    where = f"{where} (`{settings.rule}`)"
    if settings.rule not in RULES:
        raise SettingsError(f"{where}: there is no rule `{settings.rule}`{nearest(settings.rule, RULES)}")
    try:
        check = _fill_in(RULES[settings.rule], settings.parameters, folder)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None
    name = settings.name or settings.rule
    if isinstance(check, GroupCheck):
        return _of_groups(name, check, where)

    def score(prompt: Prompt, completion: str) -> Score:
        if not completion.strip():
            return _EMPTY
        value, explanation = check(prompt, completion)
        return Score(value=value, explanation=explanation)

    def check_prompt(prompt: Prompt) -> None:
        try:
            check(prompt, "")
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    return CompletionReward(name=name, score=score, check=check_prompt)


def _of_groups(name: str, check: GroupCheck, where: str) -> GroupReward:
    def score(prompt: Prompt, completions: Sequence[str]) -> list[Score]:
        filled = [text for text in completions if text.strip()]
        scores = iter(check.score(prompt, filled) if filled else [])
        return [next(scores) if text.strip() else _EMPTY for text in completions]

    def check_prompt(prompt: Prompt) -> None:
        try:
            check.check(prompt)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    return GroupReward(name=name, score=score, check=check_prompt)


def rules_table_markdown() -> str:
    """The page of all rules in Markdown, made from their docstrings and parameters: docs/rules.md."""
    rows = []
    for name, factory in RULES.items():
        text = " ".join((inspect.getdoc(factory) or "").split())
        cells = [_parameter_cell(key, *facts) for key, facts in _parameters(factory).items()]
        rows.append(f"| `{name}` | {_escape(text)} | {'<br>'.join(cells)} |\n")
    return _TABLE_HEAD + "".join(rows)


def _fill_in(factory: RuleFactory, given: dict[str, Any], folder: Path) -> Check | GroupCheck:
    known = _parameters(factory)
    arguments = {}
    for key, value in given.items():
        if key not in known:
            raise SettingsError(f"unknown parameter `{key}`{nearest(key, known)}")
        parameter, annotation = known[key]
        if isinstance(value, str) and "file" in _type_name(annotation).split(" or "):
            arguments[parameter.name] = path_from(folder, value)
            continue
        try:
            arguments[parameter.name] = TypeAdapter(annotation, config=_STRICT).validate_python(value)
        except ValidationError:
            raise SettingsError(f"`{key}` is {value!r}, expected {_type_name(annotation)}") from None
    for key, (parameter, annotation) in known.items():
        if parameter.default is parameter.empty and key not in given:
            raise SettingsError(f"`{key}` is needed ({_type_name(annotation)})")
    return factory(**arguments)


def _parameters(factory: RuleFactory) -> dict[str, tuple[inspect.Parameter, Any]]:
    """Parameters by their name in the settings, each with its annotation."""
    hints = get_type_hints(factory, include_extras=True)
    return {
        name.removesuffix("_"): (parameter, hints[name])
        for name, parameter in inspect.signature(factory).parameters.items()
    }


def _parameter_cell(key: str, parameter: inspect.Parameter, annotation: Any) -> str:
    meaning = get_args(annotation)[1]
    default = parameter.default
    if default is parameter.empty:
        kind = f"{_type_name(annotation)}, needed"
    elif default is None:
        kind = _type_name(annotation)
    else:
        shown = str(default).lower() if isinstance(default, bool) else repr(default).replace("'", '"')
        kind = f"{_type_name(annotation)}, {shown} without it"
    return f"`{key}`: {_escape(meaning)} ({_escape(kind)})"


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(_type_name(a) for a in arguments if a is not NoneType)
    if origin is Literal:
        return " or ".join(f'"{a}"' for a in arguments)
    if origin is list:
        inner = _type_name(arguments[0])
        return f"list of {inner}{'' if inner.endswith(chr(34)) else 's'}"
    return _TYPE_NAMES[origin or annotation]


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
