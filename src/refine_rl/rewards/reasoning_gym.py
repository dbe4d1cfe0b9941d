"""The datasets of reasoning-gym (the extra refine-rl[reasoning-gym]): made, written down, and scored by their
own scorers.

A dataset's entries hold tuples and keys that are no texts, and some scorers look for just these; JSON has
neither. So what is written down says where they stood (`packed`), and the scorer sees again what the dataset
made (`unpacked`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import lru_cache
from json import dumps, loads
from typing import Any, Literal

from refine_rl.errors import SettingsError
from refine_rl.foreign.load import nearest
from refine_rl.rewards.functions.own import FunctionReward, function_reward
from refine_rl.types import Score

NAME = "reasoning_gym"
"""What the component is called."""
ASKS_FOR_TAGS = (
    "Solve the problem; you may think step by step. Then give the final answer, and nothing else, between "
    "<answer> and </answer>, in the form that the problem asks for."
)
"""The system message that goes with answers in tags."""
_TUPLE, _PAIRS = "__tuple__", "__pairs__"
_OURS = {"seed": "`grpo.seed` says it", "size": "`prompts.train`, `validation` and `held_out` say it"}
_INSTALL = "needs the package reasoning-gym: pip install 'refine-rl[reasoning-gym]'"


def require_reasoning_gym() -> None:
    """Raises SettingsError where the extra is not installed."""
    try:
        import reasoning_gym  # noqa: F401
    except ImportError as error:
        raise SettingsError(f'`prompts.source = "reasoning-gym:NAME"` {_INSTALL} ({error})') from None


def dataset(name: str, parameters: Mapping[str, Any], *, seed: int, size: int) -> Any:
    """The dataset `name` with its own parameters, in the form of TOML.

    Raises SettingsError for a name or a parameter that it does not have, a value of another type, and values
    that the dataset refuses.
    """
    require_reasoning_gym()
    from reasoning_gym.composite import DatasetSpec
    from reasoning_gym.factory import DATASETS, create_dataset

    if name not in DATASETS:
        raise SettingsError(
            f"`prompts.source`: reasoning-gym has no dataset `{name}`{nearest(name, sorted(DATASETS))}"
        )
    given = _checked(name, parameters, DATASETS[name][1])
    try:
        if name == "composite":
            given["datasets"] = [DatasetSpec(**_spec(entry)) for entry in given.get("datasets", [])]
        return create_dataset(name, **given, seed=seed, size=size)
    except SettingsError:
        raise
    except Exception as error:  # a config's validate() asserts, and its constructor may raise anything
        said = str(error).strip() or type(error).__name__
        raise SettingsError(f"`prompts.parameters`: {name} refuses them: {said}") from error


def _checked(name: str, parameters: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """The parameters as the dataset's config takes them: lists where it has lists, tuples where tuples."""
    known = {field.name: field for field in fields(config) if field.name not in _OURS}
    found: dict[str, Any] = {}
    for key, value in parameters.items():
        if key in _OURS:
            raise SettingsError(f"`prompts.parameters.{key}` cannot be set: {_OURS[key]}")
        if key not in known:
            raise SettingsError(
                f"`prompts.parameters.{key}` is no parameter of {name}{nearest(key, list(known))}"
            )
        field = known[key]
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        found[key] = _as_wanted(f"`prompts.parameters.{key}`", value, default)
    return found


def _as_wanted(where: str, value: Any, default: Any) -> Any:
    """`value` in the type of the default, where the default has one to show."""
    if isinstance(default, tuple | list) and isinstance(value, list):
        return type(default)(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, (bool, int, float, str, list, tuple)) and type(value) is not type(default):
        kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        raise SettingsError(f"{where} must be {kinds.get(type(default), 'a list')}, not {value!r}")
    return value


def _spec(entry: Any) -> dict[str, Any]:
    """A part of a composite: {name, weight, config}, of which only the name must be there."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise SettingsError('`prompts.parameters.datasets` is a list of tables: {name = "gcd", weight = 2.0}')
    if unknown := entry.keys() - {"name", "weight", "config"}:
        raise SettingsError(
            f"`prompts.parameters.datasets`: a table has name, weight and config, no `{min(unknown)}`"
        )
    from reasoning_gym.factory import DATASETS

    name, config = entry["name"], entry.get("config", {})
    if name not in DATASETS:
        raise SettingsError(
            f"`prompts.parameters.datasets`: reasoning-gym has no dataset `{name}`"
            f"{nearest(name, sorted(DATASETS))}"
        )
    if not isinstance(config, Mapping):
        raise SettingsError(f"`prompts.parameters.datasets`: the config of {name} must be a table")
    return {
        "name": name,
        "weight": float(entry.get("weight", 1.0)),
        "config": _checked(name, config, DATASETS[name][1]),
    }


def packed(value: Any) -> Any:
    """A dataset's value as JSON can hold it.

    >>> packed({"range": (1, 2), 3: "c"})
    {'__pairs__': [['range', {'__tuple__': [1, 2]}], [3, 'c']]}
    """
    if isinstance(value, tuple):
        return {_TUPLE: [packed(v) for v in value]}
    if isinstance(value, list):
        return [packed(v) for v in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and not {_TUPLE, _PAIRS} & value.keys():
            return {str(key): packed(v) for key, v in value.items()}
        return {_PAIRS: [[packed(key), packed(v)] for key, v in value.items()]}
    return value.item() if hasattr(value, "item") else value  # numpy's scalars


def unpacked(value: Any) -> Any:
    """What `packed` was given.

    >>> unpacked(packed({"range": (1, [2]), 3: "c"}))
    {'range': (1, [2]), 3: 'c'}
    """
    if isinstance(value, list):
        return [unpacked(v) for v in value]
    if isinstance(value, Mapping):
        if value.keys() == {_TUPLE}:
            return tuple(unpacked(v) for v in value[_TUPLE])
        if value.keys() == {_PAIRS}:
            return {unpacked(key): unpacked(v) for key, v in value[_PAIRS]}
        return {key: unpacked(v) for key, v in value.items()}
    return value


def data_of(entry: Mapping[str, Any], name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as a prompt's data; the keys are the parameters of the scorer's function."""
    return {
        "question": entry["question"],
        "answer": packed(entry["answer"]),
        "metadata": packed(entry["metadata"]),
        "reasoning_gym": {"dataset": name, "parameters": dict(parameters)},
    }


def reasoning_gym_reward(reads: Literal["tags", "whole"], timeout: float) -> FunctionReward:
    """The reward of a dataset's own scorer, between 0 and 1. `reads` says what is its answer: the text in the
    last <answer> tags, or the whole completion. A call may take `timeout` seconds."""
    tags = reads == "tags"

    def score(
        completion: str, question: str, answer: Any, metadata: Any, reasoning_gym: Mapping[str, Any]
    ) -> Score:
        said = answer_in_tags(completion) if tags else completion.strip()
        entry = {"question": question, "answer": answer, "metadata": metadata}
        return _score(said, entry, reasoning_gym)

    return function_reward(score, name=NAME, timeout=timeout)


def _score(said: str | None, packed_entry: Mapping[str, Any], source: Mapping[str, Any]) -> Score:
    """A scorer that raises over an answer, though it scores the dataset's own, was given what it cannot
    read: that is the answer's fault. One that raises over its own answer as well is broken, and so the
    error is let through."""
    scorer = _scorer(source["dataset"], dumps(source["parameters"], sort_keys=True))
    try:
        value = float(scorer.score_answer(said, unpacked(packed_entry)))
    except Exception as error:
        entry = unpacked(packed_entry)
        scorer.score_answer(entry["answer"], entry)
        what = f"its scorer cannot read this answer ({type(error).__name__}: {error})"
        return Score(value=0.0, status="invalid", explanation=what)
    if said is None:
        return Score(value=value, explanation=f"{value:g}: no <answer> in it")
    return Score(value=value, explanation=f"{value:g}: {_short(said)}")


def answer_in_tags(completion: str) -> str | None:
    """The text of the last <answer> ... </answer>; None without one.

    >>> answer_in_tags("<answer>1</answer> no: <answer> 2 </answer>"), answer_in_tags("2")
    ('2', None)
    """
    before, closed, _ = completion.rpartition("</answer>")
    _, opened, inside = before.rpartition("<answer>")
    return inside.strip() if closed and opened else None


@lru_cache(maxsize=16)
def _scorer(name: str, parameters: str) -> Any:
    """The dataset as a scorer: no scorer looks at its seed or its size."""
    return dataset(name, loads(parameters), seed=0, size=1)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
