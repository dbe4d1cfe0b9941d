"""What the settings call a reward's components: those that ask nobody, and the names and weights of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from refine_rl.errors import SettingsError
from refine_rl.foreign.load import nearest
from refine_rl.rewards.base import Reward
from refine_rl.rewards.code.reward import code_reward
from refine_rl.rewards.combine import OVERLONG
from refine_rl.rewards.functions.own import function_reward, load_function
from refine_rl.rewards.rules.table import rule_reward
from refine_rl.settings import FunctionSettings, RewardSettings
from refine_rl.types import RIGHT_STEPS

_TAKEN = {OVERLONG: "the penalty", RIGHT_STEPS: "graded steps"}  # no component may be called so


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A component with what its own table says: its weight, and whether it is named there."""

    reward: Reward  # a dataclass with a field `name`
    weight: float = 1.0
    named: bool = False


def rules_and_functions(
    settings: RewardSettings, folder: Path, functions: Sequence[Callable[..., Any]]
) -> list[Part]:
    """The rules, the functions that the settings name in files of `folder`, what runs code, and the functions
    given. Raises a SettingsError that names every entry which cannot be had."""
    parts: list[Part] = []
    problems: list[str] = []
    for number, rule in enumerate(settings.rules, start=1):
        try:
            component = rule_reward(rule, where=f"reward.rules, entry {number}", folder=folder)
        except SettingsError as error:
            problems.append(str(error))
            continue
        parts.append(Part(reward=component, weight=rule.weight, named=rule.name is not None))
    files: dict[Path, ModuleType] = {}
    for number, entry in enumerate(settings.functions, start=1):
        table = FunctionSettings(function=entry) if isinstance(entry, str) else entry
        try:
            function = load_function(table.function, folder, files)
            made = function_reward(
                function, name=table.name, messages=table.messages, timeout=settings.timeout
            )
        except SettingsError as error:
            problems.append(f"reward.functions, entry {number}: {error}")
            continue
        parts.append(Part(reward=made, weight=table.weight, named=table.name is not None))
    if problems:
        raise SettingsError("\n".join(problems))
    if settings.code is not None:
        parts.append(Part(reward=code_reward(settings.code), weight=settings.code.weight))
    return [*parts, *(Part(reward=function_reward(f, timeout=settings.timeout)) for f in functions)]


def unique_names(parts: Sequence[Part]) -> list[str]:
    """The names of all parts; where two are called the same, the second gets "-2". Raises SettingsError
    for a name of the user's that is taken."""
    given = [part.reward.name for part in parts if part.named]
    for name in given:
        if name in _TAKEN or given.count(name) > 1:
            taken = f"is kept for {_TAKEN[name]}" if name in _TAKEN else "is given twice"
            raise SettingsError(f"reward: the name `{name}` {taken}; choose another")
    names: list[str] = []
    for part in parts:
        name, number = part.reward.name, 1
        while not part.named and name in (*given, *names, *_TAKEN):
            number += 1
            name = f"{part.reward.name}-{number}"
        names.append(name)
    return names


def weights_of(parts: Sequence[Part], names: Sequence[str], settings: RewardSettings) -> dict[str, float]:
    """The weight of each part by name, and that of the penalty where there is one. Raises SettingsError for
    weights that name nothing, come twice or do not go with a product."""
    weights = {name: part.weight for part, name in zip(parts, names, strict=True)}
    for name, weight in settings.weights.items():
        if name not in weights:
            raise SettingsError(f"reward.weights: there is no component `{name}`{nearest(name, weights)}")
        if weights[name] != 1.0:
            raise SettingsError(
                f"reward.weights: `{name}` has a weight in its own table already; keep one of them"
            )
        weights[name] = weight
    if settings.combine == "product":
        for name, weight in weights.items():
            if weight < 0:
                raise SettingsError(
                    f"reward: the weight of `{name}` is {weight:g}; in a product it must be at least 0"
                )
    return weights if settings.overlong is None else {**weights, OVERLONG: settings.overlong.weight}
