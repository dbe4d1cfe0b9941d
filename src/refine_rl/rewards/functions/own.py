"""Reward functions of the user: found, understood, called, and their answers checked.

Two forms, told apart by the names of the parameters:

    def brevity(prompt, completion, source): ...             one completion -> float, bool or Score
    def brevity(prompts, completions, source, **kwargs): ... lists, as in TRL -> list of float or None

Other parameters are filled by name from the prompt's data (in the list form: one list entry a completion);
`**kwargs` gets all of it. `messages` is the whole conversation, `trajectory` its record
(types.Trajectory), unless the data has such a name itself; `completion` is all that the policy said, over all
turns. What else the list form gets says trl.py, what either may return answers.py. Either form may be async.
With `messages = true`, prompt and completion are lists of chat messages.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from refine_rl.errors import SettingsError
from refine_rl.foreign.load import load_named
from refine_rl.foreign.seats import Failure, Limit
from refine_rl.foreign.workers import WORKERS, Workers
from refine_rl.rewards.functions.answers import read_list, read_one
from refine_rl.rewards.functions.trl import GIVEN, Notes, state_now
from refine_rl.rewards.rules.content import data_value
from refine_rl.settings import RewardSettings
from refine_rl.types import Prompt, Score, Trajectory

_ONE = frozenset({"prompt", "completion"})
_LIST = frozenset({"prompts", "completions", "completion_ids"})
_WHOLE = frozenset({"messages", "trajectory"})
"""What a function may ask for beside the prompt's data: the whole conversation, and its record."""
_ANSWERS = frozenset({"completion", "completions", "completion_ids"})
_FORMS = "`def f(prompt, completion)` or `def f(prompts, completions, **kwargs)`"


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionReward:
    """A user's function as a reward.

    `accepts` are the names of its parameters, `needs` those of them that the prompt's data must give, `open`
    says that it takes `**kwargs`. It gets copies of everything: what it changes is its own. Where it runs,
    and what becomes of a call that takes more than `timeout` seconds, says foreign/workers.py. Whatever goes
    wrong makes the score missing, with the traceback in the explanation.
    """

    name: str
    function: Callable[..., Any]
    form: Literal["one", "list"]
    accepts: frozenset[str]
    needs: tuple[str, ...]
    open: bool
    messages: bool
    timeout: float

    def check_prompt(self, prompt: Prompt) -> None:
        for key in self.needs:
            data_value(prompt, key)

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        if self.form == "one":
            calls = [partial(self._one, prompt, trajectory) for trajectory in trajectories]
            answers = await self._call_all(calls)
            return [Score.missing(a.why) if isinstance(a, Failure) else a for a in answers]
        call = partial(self._list, prompt, trajectories)
        (answer,) = await self._call_all([call])
        return [Score.missing(answer.why)] * len(trajectories) if isinstance(answer, Failure) else answer

    async def _call_all(self, calls: Sequence[Callable[[], _Called]]) -> list[Any]:
        """The calls' answers, read, in order; a Failure in the place of one that cannot be had."""
        shared = WORKERS.get()
        with Workers() if shared is None else nullcontext(shared) as workers:
            return await self._answers(workers, calls)

    async def _answers(self, workers: Workers, calls: Sequence[Callable[[], _Called]]) -> list[Any]:
        limit = Limit(seconds=self.timeout, setting="reward.timeout")
        if _is_async(self.function):
            return await workers.settle([partial(_awaited, call) for call in calls], limit=limit)
        reading = [partial(_read, call) for call in calls]
        answers = await workers.run(reading, name=self.name, limit=limit)
        late = [place for place, answer in enumerate(answers) if isinstance(answer, _Called)]
        if not late:
            return answers
        try:  # a plain function may give back a coroutine
            waiting = [partial(_awaited, partial(_itself, answers[place])) for place in late]
            settled = await workers.settle(waiting, limit=limit)
        finally:
            for place in late:
                _forget(answers[place].answer)
        for place, answer in zip(late, settled, strict=True):
            answers[place] = answer
        return answers

    def _one(self, prompt: Prompt, trajectory: Trajectory) -> _Called:
        arguments = {
            **self._whole(trajectory),
            **self._data(prompt),
            "prompt": self._prompt(prompt),
            "completion": self._completion(prompt, trajectory),
        }
        return _Called(answer=self.function(**self._accepted(arguments)), read=read_one)

    def _list(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> _Called:
        count = len(trajectories)
        rows = [{**self._whole(t), **self._data(prompt)} for t in trajectories]
        notes = Notes(count)
        arguments = {
            **{key: [row[key] for row in rows] for key in (rows[0] if rows else ())},
            "prompts": [self._prompt(prompt) for _ in trajectories],
            "completions": [self._completion(prompt, t) for t in trajectories],
            "completion_ids": [
                [i for s in t.segments if s.trainable for i in s.token_ids] for t in trajectories
            ],
            "trainer_state": state_now(),
            "log_metric": notes.log_metric,
            "log_extra": notes.log_extra,
        }
        return _Called(
            answer=self.function(**self._accepted(arguments)),
            read=lambda answer: notes.put_on(read_list(answer, count)),
        )

    def _accepted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in arguments.items() if self.open or name in self.accepts}

    def _whole(self, trajectory: Trajectory) -> dict[str, Any]:
        """The conversation and its record, as far as the function names them."""
        whole: dict[str, Any] = {"trajectory": trajectory}
        if "messages" in self.accepts:
            whole["messages"] = [copy.deepcopy(m) for m in trajectory.messages]
        return {name: value for name, value in whole.items() if name in self.accepts}

    def _data(self, prompt: Prompt) -> dict[str, Any]:
        """A copy of the data that the function takes."""
        return copy.deepcopy(self._accepted(dict(prompt.data)))

    def _prompt(self, prompt: Prompt) -> Any:
        return [copy.deepcopy(m) for m in prompt.messages] if self.messages else prompt.text

    def _completion(self, prompt: Prompt, trajectory: Trajectory) -> Any:
        if self.messages:
            return [copy.deepcopy(m) for m in trajectory.messages[len(prompt.messages) :]]
        return trajectory.said


def function_reward(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    messages: bool = False,
    timeout: float = RewardSettings().timeout,
) -> FunctionReward:
    """A reward out of a Python callable of either form; a call may take `timeout` seconds.

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
    if unnamed or bool(one) == bool(many) or not accepts & _ANSWERS:
        raise SettingsError(f"`{named}{inspect.signature(function)}` is no reward function: write {_FORMS}")
    return FunctionReward(
        name=named,
        function=function,
        form="one" if one else "list",
        accepts=frozenset(accepts),
        needs=tuple(
            p.name
            for p in parameters
            if p.name in accepts - _WHOLE - (_ONE if one else _LIST | GIVEN) and p.default is p.empty
        ),
        open=any(p.kind is p.VAR_KEYWORD for p in parameters),
        messages=messages,
        timeout=timeout,
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
class _Called:
    """What a function gave back: an answer, or something to await for it; and how the answer is read."""

    answer: Any
    read: Callable[[Any], Any]


def _read(call: Callable[[], _Called]) -> Any:
    """Reading belongs to the call: a generator, or a number's `__float__`, is the user's code as well."""
    called = call()
    return called if inspect.isawaitable(called.answer) else called.read(called.answer)


async def _awaited(call: Callable[[], _Called]) -> Any:
    called = call()
    return called.read(await called.answer)


def _itself(called: _Called) -> _Called:
    return called


def _forget(answer: Any) -> None:
    """Closes a coroutine that was cancelled before it began: it would warn."""
    if inspect.iscoroutine(answer) and inspect.getcoroutinestate(answer) == inspect.CORO_CREATED:
        answer.close()


def load_function(spec: str, folder: Path, files: dict[Path, ModuleType]) -> Callable[..., Any]:
    """The function that "FILE.py:NAME" or "module:NAME" names (foreign/load.py)."""
    return load_named(spec, folder, files)  # type: ignore[no-any-return]
