"""The judges alone, on completions from anywhere: who they are, and one group of completions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from refine_rl.errors import MachineError, SettingsError, UserError
from refine_rl.llm.client import Connections
from refine_rl.llm.connections import EndpointConnections
from refine_rl.llm.endpoints import PRESETS
from refine_rl.llm.kept import Keep, forget
from refine_rl.llm.ledger import Ledger
from refine_rl.prompts.json_rows import RowError
from refine_rl.rewards.base import untokenized
from refine_rl.rewards.judges.build import make_panel
from refine_rl.rewards.judges.panel import Panel
from refine_rl.rewards.judges.rubric import default_rubric, is_file_name, parse_criteria, read_rubric
from refine_rl.settings import EndpointSettings, JudgeSettings, PriceSettings
from refine_rl.types import Message, Prompt, Score, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Judges:
    """Who judges, and by what.

    `base_url` is the address of all the judges' endpoints, which then may have any name; `key_env` names
    the variable that holds its key (on this machine none is needed). `price` is in dollars a million tokens,
    in and out, where none is known.
    """

    models: tuple[str, ...]
    task: str = ""
    rubric: str | Path | None = None
    kind: str = "ruler"
    repeats: int = 1
    base_url: str | None = None
    key_env: str | None = None
    concurrency: int = 8
    dollars: float | None = None
    price: tuple[float, float] | None = None

    def panel(self, connections: Connections) -> Panel:
        """The judges as a reward. Raises UserError for what cannot be asked or read."""
        try:
            judge = JudgeSettings.model_validate({"kind": self.kind, "repeats": self.repeats})
        except ValidationError as error:
            raise UserError("\n".join(f"{d['loc'][0]}: {d['msg']}" for d in error.errors())) from None
        clients = []
        for model in self.models:
            try:
                clients.append(connections.client(model))
            except SettingsError as error:
                raise SettingsError(self._in_own_words(model, str(error))) from None
        return make_panel(judge, clients, task=self.task, rubric=self._rubric())

    def connect(self, note: Callable[[str], None], keep: Keep = forget) -> EndpointConnections:
        """Connections to the judges' endpoints, with a ledger that keeps the cap and no lines; `keep` gets
        what was asked and replied."""
        names = {model.partition("/")[0] for model in self.models}
        prices = {} if self.price is None else {"*": PriceSettings(input=self.price[0], output=self.price[1])}
        tables = {
            name: EndpointSettings(
                base_url=self.base_url, key_env=self.key_env, concurrency=self.concurrency, prices=prices
            )
            for name in names
            if self.base_url is not None or name in PRESETS
        }
        ledger = Ledger(lambda call: None, dollars=self.dollars, keep=keep)
        return EndpointConnections(tables, ledger, note=note)

    def _in_own_words(self, model: str, problem: str) -> str:
        """The problem with a judge; what settings would hold stands in flags here."""
        if "budget.dollars" in problem:
            return f"--dollars needs to know what `{model}` costs: --price IN,OUT (dollars a million tokens)"
        address = f"endpoints.{model.partition('/')[0]}.base_url"
        if self.base_url is not None and address in problem:
            return problem.replace(address, "--base-url").replace("that key_env", "that --key-env")
        if self.base_url is not None and "key_env" in problem:
            return f"--key-env must name the environment variable that holds the key for `{model}`"
        return problem if self.base_url else f"{problem} (here: --base-url URL, in Python base_url=)"

    def _rubric(self) -> str:
        if self.rubric is None:
            return default_rubric()
        if isinstance(self.rubric, Path):
            return read_rubric(self.rubric)
        if is_file_name(self.rubric):
            raise UserError(
                f"the rubric is a text, and {self.rubric!r} is a file's name: give a pathlib.Path"
            )
        if not self.rubric.strip():
            raise UserError("the rubric is empty; say what makes an answer good, or leave it out")
        parse_criteria(self.rubric)
        return self.rubric


def in_flags(problem: str) -> str:
    """What a call failed of; what settings would hold stands in flags here.

    >>> in_flags('Name the variable that holds it: key_env = "NAME" in [endpoints.mine].')
    'Name the variable that holds it: --key-env NAME.'
    """
    return re.sub(r'key_env = "NAME" in \[endpoints\.[^\]]+\]', "--key-env NAME", problem)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A line of the input."""

    id: str | int
    messages: tuple[Message, ...]
    completions: tuple[str | tuple[Message, ...], ...]

    def as_attempts(self) -> tuple[Prompt, list[Trajectory]]:
        """The group as rewards know it; nothing in it was tokenized."""
        prompt = Prompt(id=str(self.id), split="train", messages=self.messages)
        alone = untokenized(prompt, [c if isinstance(c, str) else "" for c in self.completions])
        return prompt, [
            t if isinstance(c, str) else replace(t, messages=(*self.messages, *c))
            for t, c in zip(alone, self.completions, strict=True)
        ]


def asked(row: object) -> Asked:
    """A checked row; raises RowError with what is wrong."""
    if not isinstance(row, Mapping):
        raise RowError('is not an object {"id", "messages", "completions"}')
    for name in ("id", "messages", "completions"):
        if name not in row:
            raise RowError(f"has no `{name}`")
    if isinstance(row["id"], bool) or not isinstance(row["id"], str | int):
        raise RowError("has an `id` that is neither text nor a whole number")
    messages = tuple(_message(message) for message in _list(row["messages"], "messages"))
    completions = tuple(map(_completion, _list(row["completions"], "completions")))
    try:
        json.dumps([row["id"], messages, completions], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RowError("has half of a surrogate pair in it, which is no text") from None
    return Asked(id=row["id"], messages=messages, completions=completions)


def _list(value: object, name: str) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise RowError(f"has `{name}` that are not a list, or an empty one")
    return value


def _completion(value: object) -> str | tuple[Message, ...]:
    """An answer, or the turns of a trajectory that has several."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence) or not value:
        raise RowError("has a completion that is neither text nor a list of messages")
    return tuple(map(_message, value))


def _message(value: object) -> Message:
    if not isinstance(value, Mapping) or not all(
        isinstance(value.get(key), str) for key in ("role", "content")
    ):
        raise RowError(f'has a message that is not {{"role", "content"}}, both text: {value!r:.60}')
    return Message(role=value["role"], content=value["content"])


async def score_one(
    messages: object, completions: object, judges: Judges, connections: Connections | None = None
) -> list[Score]:
    """The scores of one group; see `refine_rl.score_group`."""
    try:
        group = asked({"id": "", "messages": messages, "completions": completions})
    except RowError as error:
        raise UserError(f"the group {error}") from None
    asking = judges.connect(note=lambda text: None) if connections is None else connections
    try:
        return await judges.panel(asking).score_group(*group.as_attempts())
    except MachineError as error:
        raise type(error)(in_flags(str(error))) from error
    finally:
        if connections is None:
            await asking.close()
