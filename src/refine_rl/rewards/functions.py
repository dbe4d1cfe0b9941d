"""Reward functions of the user: found, understood, called, and their answers checked.

Two forms, told apart by the names of the parameters:

    def brevity(prompt, completion, source): ...             one completion -> float, bool or Score
    def brevity(prompts, completions, source, **kwargs): ... lists, as in TRL -> list of float or None

Other parameters are filled by name from the prompt's data (in the list form: one list entry a
completion); `**kwargs` gets all of it. Either form may be async. With `messages = true`, prompt and
completion are lists of chat messages.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import math
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Literal

from refine_rl.errors import SettingsError
from refine_rl.rewards.base import FAILURES, WORKER, describe_failure
from refine_rl.rewards.rules import nearest
from refine_rl.rewards.rules_content import data_value
from refine_rl.types import Prompt, Score, Trajectory

_ONE = frozenset({"prompt", "completion"})
_LIST = frozenset({"prompts", "completions", "completion_ids"})
_FORMS = "`def f(prompt, completion)` or `def f(prompts, completions, **kwargs)`"


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionReward:
    """A user's function as a reward.

    `accepts` are the names of its parameters, `needs` those of them that the prompt's data must
    give, `open` says that it takes `**kwargs`. A sync function runs in the event loop's default
    executor, an async one in the loop itself. Whatever goes wrong makes the score missing, with the
    traceback in the explanation.
    """

    name: str
    function: Callable[..., Any]
    form: Literal["one", "list"]
    accepts: frozenset[str]
    needs: tuple[str, ...]
    open: bool
    messages: bool

    def check_prompt(self, prompt: Prompt) -> None:
        for key in self.needs:
            data_value(prompt, key)

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        if self.form == "list":
            calls = [partial(self.function, **self._list_arguments(prompt, trajectories))]
        else:
            calls = [partial(self.function, **self._arguments(prompt, t)) for t in trajectories]
        answers = await _call_all(calls, in_thread=not _is_async(self.function))
        if self.form == "list":
            answers = _spread(answers[0], len(trajectories))
        return [_read(answer) for answer in answers]

    def _arguments(self, prompt: Prompt, trajectory: Trajectory) -> dict[str, Any]:
        arguments = {
            **prompt.data,
            "prompt": self._prompt(prompt),
            "completion": self._completion(prompt, trajectory),
        }
        return {name: value for name, value in arguments.items() if self.open or name in self.accepts}

    def _list_arguments(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> dict[str, Any]:
        arguments = {
            **{key: [value] * len(trajectories) for key, value in prompt.data.items()},
            "prompts": [self._prompt(prompt) for _ in trajectories],
            "completions": [self._completion(prompt, t) for t in trajectories],
            "completion_ids": [
                [i for s in t.segments if s.trainable for i in s.token_ids] for t in trajectories
            ],
        }
        return {name: value for name, value in arguments.items() if self.open or name in self.accepts}

    def _prompt(self, prompt: Prompt) -> Any:
        return [dict(m) for m in prompt.messages] if self.messages else prompt.text

    def _completion(self, prompt: Prompt, trajectory: Trajectory) -> Any:
        if self.messages:
            return [dict(m) for m in trajectory.messages[len(prompt.messages) :]]
        return trajectory.completion


def function_reward(
    function: Callable[..., Any], *, name: str | None = None, messages: bool = False
) -> FunctionReward:
    """A reward out of a Python callable of either form.

    Raises SettingsError where the form cannot be told from the parameters' names.
    """
    if not callable(function):
        raise SettingsError(f"a reward function must be callable, not {function!r}")
    named = name or _name(function)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise SettingsError(f"the parameters of `{named}` cannot be read; wrap it in {_FORMS}") from None
    accepts = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    one, many = accepts & _ONE, accepts & _LIST
    unnamed = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if unnamed or bool(one) == bool(many) or not accepts & {"completion", "completions"}:
        raise SettingsError(f"`{named}{inspect.signature(function)}` is no reward function: write {_FORMS}")
    return FunctionReward(
        name=named,
        function=function,
        form="one" if one else "list",
        accepts=frozenset(accepts),
        needs=tuple(
            p.name
            for p in parameters
            if p.name in accepts - (_ONE if one else _LIST) and p.default is p.empty
        ),
        open=any(p.kind is p.VAR_KEYWORD for p in parameters),
        messages=messages,
    )


def _name(function: Callable[..., Any]) -> str:
    inner = function.func if isinstance(function, partial) else function
    name: str = getattr(inner, "__name__", type(inner).__name__)
    return "function" if name == "<lambda>" else name


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  an object whose __call__ is async
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    why: str


async def _call_all(calls: Sequence[Callable[[], Any]], *, in_thread: bool) -> list[Any]:
    """The calls' answers in order; an exception becomes a `_Failure`."""
    if in_thread:
        loop = asyncio.get_running_loop()
        answers = await loop.run_in_executor(WORKER.get(), lambda: [_call(c) for c in calls])
    else:
        answers = [_call(c) for c in calls]
    try:
        return await asyncio.gather(*map(_settle, answers))
    finally:
        for answer in answers:
            if inspect.iscoroutine(answer):
                answer.close()  # one that was cancelled before it began would warn


def _call(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except FAILURES as error:
        return _Failure(why=describe_failure(error))


async def _settle(answer: Any) -> Any:
    if not inspect.isawaitable(answer):
        return answer
    try:
        return await answer
    except FAILURES as error:
        return _Failure(why=describe_failure(error))


def _spread(answer: Any, count: int) -> list[Any]:
    """The answer of the list form as one answer a completion."""
    if isinstance(answer, _Failure):
        return [answer] * count
    try:
        answers = None if isinstance(answer, str | bytes | dict) else list(answer)
    except TypeError:
        answers = None
    if answers is None:
        return [_Failure(why=f"returned {_show(answer)}, not a list of numbers")] * count
    if len(answers) != count:
        return [_Failure(why=f"returned {len(answers)} numbers for {count} completions")] * count
    return [_Failure(why="does not apply (returned None)") if a is None else a for a in answers]


def _read(answer: Any) -> Score:
    """A Score out of one answer: a finite number, a bool or a Score; anything else is missing."""
    if isinstance(answer, _Failure):
        return Score.missing(answer.why)
    if isinstance(answer, Score):
        return answer
    try:
        value = None if isinstance(answer, str | bytes) else float(answer)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        value = None
    if value is None or not math.isfinite(value):
        return Score.missing(f"returned {_show(answer)}, not a finite number")
    return Score(value=value)


def _show(answer: Any) -> str:
    text = repr(answer)
    return text if len(text) <= 80 else text[:79] + "…"


class _FreshLoader(SourceFileLoader):
    """Reads the source each time: a cached file of the same second and size would be stale."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_function(spec: str, folder: Path, files: dict[Path, ModuleType]) -> Callable[..., Any]:
    """The function that "FILE.py:NAME" (relative to `folder`) or "module:NAME" names.

    `files` holds the files that were loaded for this reward, so that functions of one file share
    it. A file may import its neighbours at its top. Raises SettingsError naming what was not found.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise SettingsError(f'`{spec}` names no function: write "FILE.py:NAME" or "module:NAME"')
    if place.endswith(".py") or "/" in place:
        path = (folder / place).resolve()
        if path not in files:
            files[path] = _load_file(path)
        module = files[path]
    else:
        try:
            module = importlib.import_module(place)
        except (Exception, SystemExit) as error:
            raise SettingsError(f"`{place}` cannot be imported: {describe_failure(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [
            n for n, v in vars(module).items() if inspect.isroutine(v) and v.__module__ == module.__name__
        ]
        raise SettingsError(f"{place} has no function `{name}`{nearest(name, known)}")
    return function  # type: ignore[no-any-return]


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise SettingsError(f"there is no file {path}{nearest(path.name, beside)}")
    name = f"refine_task_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    loader = _FreshLoader(name, str(path))
    module_spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert module_spec is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise SettingsError(f"{path} cannot be loaded: {describe_failure(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module
