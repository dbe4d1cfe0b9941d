"""Checks of arguments, one a parameter: each raises UserError for what is not of the kinds that are taken."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from typing_extensions import TypeIs

from refine_rl.errors import Together, UserError
from refine_rl.pipeline.given import Given, name_of
from refine_rl.rewards.functions.own import function_reward
from refine_rl.settings.problems import setting_names
from refine_rl.settings.toml_write import toml_value

_PARAMETERS = (
    "model",
    "prompts",
    "rewards",
    "rules",
    "writer",
    "judge",
    "environment",
    "tools",
    "run",
    "observer",
)
_OTHER_NAMES = {  # what other libraries call it, or what a person may
    "functions": "rewards",
    "reward_function": "rewards",
    "reward_functions": "rewards",
    "reward_func": "rewards",
    "reward_funcs": "rewards",
    "dataset": "prompts",
    "train_dataset": "prompts",
    "env": "environment",
    "world": "environment",
    "output_dir": "run",
    "folder": "run",
    "callback": "observer",
    "callbacks": "observer",
}


def plain(value: Any) -> Any:
    """A value as TOML has it: dicts, lists, texts; a number of numpy's as Python's. Anything else is left as
    it is, and the check of the settings names it."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "shape", None):
        return value.item()
    return value


def shown(value: Any) -> str:
    """A value in an error.

    >>> shown(5), shown(len), shown(dict), shown("x" * 99)[:7], len(shown("x" * 99))
    ('5', 'len', 'dict', "'xxxxxx", 60)
    """
    if isinstance(value, type) or inspect.isroutine(value):
        return value.__name__
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _listed(value: object) -> TypeIs[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def refuse(name: str, value: Any, way_out: str) -> UserError:
    return UserError(f"{name}={shown(value)}: {way_out}")


def every(*made: Callable[[], None]) -> None:
    """Makes all checks; what they find is told together."""
    together = Together()
    for check in made:
        with together:
            check()
    together.tell()


def task(value: object) -> None:
    if not isinstance(value, str | Path):
        raise refuse("task", value, "say in plain words what is wanted, or give the path of a task.toml")


def model(value: object) -> None:
    if value is None or isinstance(value, Path | Mapping) or (isinstance(value, str) and value.strip()):
        return
    raise refuse("model", value, 'give a hub id, a folder or "tiny"; or the section [model] as a dict')


def prompts(value: object) -> None:
    ways = "a file, a list of prompts (texts, or dicts with `prompt`), or the section [prompts] as a dict"
    if value is None or isinstance(value, Path):
        return
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise refuse("prompts", value, f"give {ways}")
    if isinstance(value, str | Mapping | Sequence) and not len(value):
        raise refuse("prompts", value, f"there is no prompt in it; give {ways}")


def other_prompts(value: object) -> None:
    """To compare on."""
    prompts(value)
    if isinstance(value, Mapping):
        raise refuse("prompts", value, "give a file, a source or a list of prompts")


def answers(value: object) -> None:
    """To try a reward on."""
    if isinstance(value, str | Path) and str(value).strip():
        return
    rows = _listed(value) and len(value) > 0 and all(isinstance(row, Mapping) for row in value)
    if value is not None and not rows:
        raise refuse("answers", value, 'give a JSONL file, or rows: [{"prompt": "...", "answers": ["..."]}]')


def data(value: object) -> None:
    """Answers to imitate."""
    ways = "a file of rows, or a list of rows (dicts with `prompt` and `answer`, or with `messages`)"
    if isinstance(value, Path):
        return
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise refuse("data", value, f"give {ways}")
    if isinstance(value, str | Sequence) and not len(value):
        raise refuse("data", value, f"there is no row in it; give {ways}")


def rules(value: object) -> None:
    way_out = 'a list of tables, as in rules=[{"rule": "words", "max": 20}]'
    if callable(value):
        raise refuse("rules", value, f"a function is a reward: rewards=[{name_of(value)}]")
    if not _listed(value):
        raise refuse("rules", value, way_out)
    for place, rule in enumerate(value):
        if callable(rule):
            raise refuse(f"rules[{place}]", rule, f"a function is a reward: rewards=[{name_of(rule)}]")
        if not isinstance(rule, Mapping):
            raise refuse(f"rules[{place}]", rule, way_out)


def writer(value: object) -> None:
    if value is not None and not isinstance(value, str | Mapping):
        raise refuse("writer", value, '"ENDPOINT/MODEL", or the section [writer] as a dict')


def judge(value: object) -> None:
    if value is None or isinstance(value, str | Mapping):
        return
    if callable(value):
        raise refuse("judge", value, f"a function of your own is a reward: rewards=[{name_of(value)}]")
    if not _listed(value) or not value or not all(isinstance(one, str) for one in value):
        ways = '"ENDPOINT/MODEL", a list of these, or the section [judge] as a dict'
        raise refuse("judge", value, ways)


def code(given: Given) -> None:
    """Rewards, the class of a world, and tools."""
    every(
        lambda: rewards(given.rewards),
        lambda: environment(given.environment),
        lambda: tools(given.tools),
    )
    if len(set(given.names.tools)) < len(given.tools):
        raise UserError("tools: two of them have one name, by which they are called; give one another.")


def rewards(value: object) -> None:
    for place, function in enumerate(_functions("rewards", value)):
        try:
            function_reward(function)
        except UserError as error:
            raise UserError(f"rewards[{place}]: {error}") from None


def environment(value: object) -> None:
    if value is None or isinstance(value, type):
        return
    if isinstance(value, str):
        way_out = 'one in a file is named by rollout={"environment": "my_env.py:Guess"}; here, give the class'
    elif inspect.isroutine(value):
        way_out = "give a class with `start(self, data, seed)` and `step(self, reply)`"
    else:
        way_out = f"give the class itself: environment={type(value).__name__}"
    raise refuse("environment", value, way_out)


def tools(value: object) -> None:
    _functions("tools", value)


def _functions(name: str, value: object) -> Sequence[Callable[..., Any]]:
    """A list of functions; raises UserError for anything else."""
    if callable(value):
        raise UserError(f"{name} is a list of functions: {name}=[{name_of(value)}]")
    if not _listed(value):
        raise refuse(name, value, f"{name} is a list of functions: {name}=[...]")
    for place, function in enumerate(value):
        if not callable(function):
            in_a_file = {
                "rewards": 'reward={"functions": ["rewards.py:f"]}',
                "tools": 'rollout={"tools": ["tools.py:f"]}',
            }
            way_out = f"give the function itself; one in a file is named by {in_a_file[name]}"
            raise refuse(f"{name}[{place}]", function, way_out)
    return value


def section(name: str, value: object) -> None:
    """A keyword that is no parameter: a section of the settings, or nothing."""
    sections = setting_names()[()]
    if name not in sections:
        near = [_OTHER_NAMES[name]] if name in _OTHER_NAMES else []
        near = near or get_close_matches(name, (*_PARAMETERS, *sections), n=1)
        if name not in _OTHER_NAMES and (owners := [own for own in sections if name in _keys_of(own)]):
            owners.sort(key=lambda own: own not in ("grpo", "rollout"))  # what is mostly meant comes first
            ways = " or ".join(f"{own}={{{name!r}: ...}}" for own in owners)
            raise UserError(f"{name} is no argument of its own but a setting: {ways}")
        if near and near[0] in _PARAMETERS:
            raise UserError(f"{name} is no argument; did you mean {near[0]}=?")
        return  # the check of the settings knows more names
    own = {"reward": "rewards", "rollout": "environment"}
    if name in own and _is_code(value):
        inside = f"[{name_of(value)}]" if name == "reward" and callable(value) else ""
        raise refuse(name, value, f"this is a section, a dict; code is given as {own[name]}={inside}")
    if not isinstance(value, Mapping):
        return
    for key, argument in (("functions", "rewards"), ("environment", "environment"), ("tools", "tools")):
        if _is_code(value.get(key)):
            raise refuse(f"{name}.{key}", value[key], f"code from Python is given as {argument}=")


def _keys_of(section: str) -> tuple[str, ...]:
    return setting_names().get((section,), ())


def _is_code(value: object) -> bool:
    listed = value if isinstance(value, list | tuple) else [value]
    return any(callable(one) for one in listed)


def path(name: str, value: object, what: str = "a folder", *, none: bool = False) -> None:
    """A path; or None, where `none` allows that."""
    if none and value is None:
        return
    if not isinstance(value, str | Path) or not str(value).strip():
        raise refuse(name, value, f"give the path of {what}")


def observer(value: object) -> None:
    missing = [n for n in ("stage", "note", "warning", "step") if not callable(getattr(value, n, None))]
    if value is not None and (missing or isinstance(value, type)):
        way_out = "give an object with the methods of refine_rl.Observer: stage, note, warning, step"
        raise refuse("observer", value, way_out)


def number(name: str, value: object, *, least: int) -> None:
    """A whole number, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise refuse(name, value, f"give a whole number from {least} on")


def real(name: str, value: object, *, least: float) -> None:
    plain_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain_number or not (value >= least and value < float("inf")):  # type: ignore[operator]
        raise refuse(name, value, f"give a number from {least:g} on")


def flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise refuse(name, value, "give True or False")


def text(name: str, value: object, what: str) -> None:
    """A text, or None."""
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise refuse(name, value, f"give {what}")


def overrides(change: object) -> list[str]:
    """Settings by their dotted keys, or by section, as "KEY=VALUE" texts.

    >>> overrides({"grpo.steps": 50, "model": {"name": "tiny"}})
    ['grpo.steps=50', 'model.name="tiny"']
    """
    if change is None:
        return []
    if not isinstance(change, Mapping):
        raise refuse("set", change, 'settings by their keys, as in set={"grpo.steps": 50}')
    found = []
    for key, value in change.items():
        if not isinstance(key, str):
            raise refuse("set", change, f'a key is a text, as in set={{"grpo.steps": 50}}, not {shown(key)}')
        found += _override(key, plain(value))
    return found


def _override(key: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner, v in value.items() for text in _override(f"{key}.{inner}", v)]
    try:
        return [f"{key}={toml_value(value)}"]
    except TypeError:
        raise refuse(f"set[{key!r}]", value, "a number, a text, True or False, or a list of these") from None


def texts(name: str, value: object, what: str) -> None:
    """A list of texts, or None."""
    if value is None:
        return
    if not _listed(value) or not all(isinstance(one, str) for one in value):
        raise refuse(name, value, f"give {what}")


def messages(value: object) -> None:
    """What a model is to answer."""
    if isinstance(value, str):
        text("prompts", value, "what the model is to answer")
        return
    texts("prompts", value, "a text, or a list of texts")
    if not value:
        raise refuse("prompts", value, "there is nothing to answer; give a text, or a list of texts")


def chat(value: object) -> None:
    """What was asked, as messages."""
    if not _listed(value) or not value or not all(_is_message(one) for one in value):
        raise refuse("messages", value, 'give a list, as in [{"role": "user", "content": "Hello."}]')


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def required_judge(value: object) -> None:
    if value is None or isinstance(value, Mapping) or value == "":
        raise refuse("judge", value, 'give "ENDPOINT/MODEL", or a list of these')
    judge(value)


def checkpoint(value: object) -> None:
    number_of = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if value not in (None, "best", "last") and not number_of:
        raise refuse("checkpoint", value, 'give "best", "last" or the step of one')


def dtype(value: object, merged: object) -> None:
    if value not in (None, "float32", "bfloat16"):
        raise refuse("dtype", value, 'give "float32" or "bfloat16"')
    if value is not None and merged is not True:
        raise refuse("dtype", value, "it goes with merged=True: an adapter by itself is float32 always")


def outtype(value: object) -> None:
    if value not in (None, "f32", "f16", "bf16", "q8_0"):
        raise refuse("outtype", value, 'give "f32", "f16", "bf16" or "q8_0"')


def evaluation(
    samples: object,
    seed: object,
    judge: object,
    metrics: object,
    reference: object,
    name: object,
    probes: object = None,
) -> None:
    """How a comparison is made again."""
    every(
        lambda: number("samples", samples, least=1),
        lambda: number("seed", seed, least=0),
        lambda: text("judge", judge, '"ENDPOINT/MODEL"'),
        lambda: texts("metrics", metrics, 'a list, as in metrics=["rouge"]'),
        lambda: text("reference", reference, "a key of the prompts' data"),
        lambda: text("name", name, "a name for the file"),
        lambda: None if probes is None else flag("probes", probes),
    )
