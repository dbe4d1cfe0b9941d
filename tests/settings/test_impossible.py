"""Every impossible combination: an example breaks it alone, and what it says names the keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from refine_rl.settings import (
    EarlyExitSettings,
    EngineSettings,
    EvaluateSettings,
    ModelSettings,
    OverlongSettings,
    PromptSettings,
    RolloutSettings,
    Settings,
    SFTSettings,
    StepSettings,
    TeacherSettings,
)
from refine_rl.settings.base import Section
from refine_rl.settings.problems import setting_names

WORDS = [{"rule": "words"}]
JUDGED = {"judges": ["a/b"]}
EARLY = {"early_exit": {"ends": "</t>"}}
BY_STEPS = {"flat": "steps", "solved": 1.0}
PAIRS = {"data": "file:pairs.jsonl"}
SERVICE = {"kind": "tinker"}
GRADED = {"steps": {"judges": ["a/b"]}}
TAUGHT = {"teacher": {"model": "tiny"}}
ITSELF = {"teacher": {"model": "self", "shown": "best"}}
VLLM = {"kind": "vllm", "base_url": "http://127.0.0.1:8000/v1"}

# A class of settings -> an example a rule, in the rules' order.
EXAMPLES: dict[type[Section], list[dict[str, Any]]] = {
    ModelSettings: [{"bits": 8}],
    PromptSettings: [
        {"probe": 1, "pool": "informative"},
        {"probe": 2},
        {"parameters": {"a": 1}},
        {"source": "reasoning-gym:gcd", "similarity": "meaning"},
    ],
    OverlongSettings: [
        {"unit": "words"},
        {"kind": "linear", "buffer": 3},
        {"limit": 3, "buffer": 4},
    ],
    TeacherSettings: [
        {**ITSELF["teacher"], "base_url": "http://a/v1"},
        {"model": "self"},
        {"model": "tiny", "shown": "best"},
        {"model": " "},
        {"model": "tiny", "key_env": "KEY"},
    ],
    StepSettings: [{}, {"rules": WORDS, "judges": ["a/b"]}],
    EarlyExitSettings: [{"ends": " ", "forced": "Now:"}, {"ends": "</t>", "forced": "Now:"}],
    EngineSettings: [
        {"kind": "local", "processes": 2},
        {"kind": "local", "shard": True},
        {"kind": "vllm"},
        {"base_url": "http://a/v1"},
        {"adapter_folder": "a"},
        {"model": "a/b"},
    ],
    EvaluateSettings: [{"rubric": "write"}, {"name": "title", "metrics": ["length"]}],
    SFTSettings: [
        {**PAIRS, "steps": 9, "epochs": 1.0},
        {**PAIRS, "messages": "chat", "answer": "reply"},
        {**PAIRS, "validation": 0, "patience": 3},
    ],
    RolloutSettings: [
        {"turns": 3},
        {"environment": "my_env.py:Guess", "trajectory_tokens": 9, "max_tokens": 10},
        {"environment": "my_env.py:Guess", "tools": ["tools.py:add"]},
        {"environment": "my_env.py:Guess", **EARLY},
    ],
    Settings: [
        {"grpo": {"steps": 5, "warmup_steps": 6}},
        {"grpo": {"advantage": "gdpo"}, "reward": {"combine": "product"}},
        {"grpo": {"advantage": "gdpo", "kl": 0.1, "kl_in": "reward"}},
        {"grpo": {"kl_target": 0.1}},
        {"grpo": {"kl_in": "reward"}},
        {"grpo": {"loss": "sapo", "clip_high": 0.1}},
        {"grpo": {"advantage": "maxrl"}, "reward": JUDGED},
        {"grpo": {"advantage": "maxrl", "kl": 0.1, "kl_in": "reward"}},
        {"grpo": {"advantage": "maxrl"}, "reward": {"overlong": {}}},
        {"grpo": {"loss": "dppo_tv", "importance_cap": 2.0}},
        {"grpo": {"importance_cap": 2.0}, "model": {"dropout": 0.1}},
        {"prompts": {"pool": "curriculum"}, "reward": JUDGED},
        {"prompts": {"pool": "curriculum"}, "grpo": {"flat": "sign", "solved": 1.0}},
        {"grpo": {"resample": 1}, "rollout": {"ahead": 1}},
        {"grpo": {"kl_stop": 0.03}},
        {"grpo": {"kl_stop": 0.03, "minibatches": 2}, "model": {"dropout": 0.1}},
        {"grpo": {"minibatches": 9}},
        {"grpo": {"oversample": 2.0, "resample": 1}},
        {"grpo": {"oversample": 2.0}, "rollout": EARLY},
        {"grpo": {"flat": "sign"}},
        {"grpo": {"solved": 1.0}},
        {"grpo": {"flat": "sign", "solved": 1.0}, "reward": JUDGED},
        {"grpo": BY_STEPS},
        {"reward": GRADED},
        {"grpo": {**BY_STEPS, "resample": 1}, "reward": GRADED},
        {"grpo": {**BY_STEPS, "advantage": "gdpo"}, "reward": GRADED},
        {"grpo": {**BY_STEPS, "kl": 0.1, "kl_in": "reward"}, "reward": GRADED},
        {"rollout": {**EARLY, "max_tokens": 64}},
        {"rollout": EARLY, "reward": JUDGED},
        {"rollout": EARLY, "reward": {"overlong": {}}},
        {"rollout": EARLY, "grpo": {"advantage": "gdpo"}},
        {"rollout": EARLY, "grpo": BY_STEPS, "reward": GRADED},
        {"rollout": EARLY, "prompts": {"pool": "informative", "probe": 2}},
        {"reward": {"world": {"take": "best"}}},
        {"rollout": {"environment": "my_env.py:Guess"}, "grpo": BY_STEPS, "reward": GRADED},
        {
            "rollout": {"tools": ["tools.py:add"]},
            "reward": {"sanity": [{"prompt": "a", "good": "b", "bad": "c"}]},
        },
        {"prompts": {"source": "writer"}},
        {"reward": {**JUDGED, "rubric": "write"}},
        {"reward": {"rubric": "Be brief."}},
        {"evaluate": {"judge": "a/b"}},
        {"evaluate": {"rubric": "Be plain."}, "reward": JUDGED},
        {"evaluate": {"rubric": "Be plain.", "on_drift": "warn"}},
        {"evaluate": {"judge": "a/b", "on_drift": "warn"}, "grpo": {"validate_every": 0}},
        {"evaluate": {"metrics": ["win_rate"]}},
        {"judge": {"adaptive": True, "repeats": 2}, "reward": JUDGED},
        {"judge": {"larger": "a/c"}, "reward": JUDGED},
        {"judge": {"shrink": True}, "reward": JUDGED},
        {"sft": {**PAIRS, "dropout": 0.1}, "model": {"adapter": "none"}},
        {"sft": {**PAIRS, "optimizer": "muon"}},
        {"engine": {"shard": True}, "model": {"adapter": "none"}},
        {"engine": VLLM, "model": {"adapter": "none"}},
        {"engine": VLLM, "model": {"dropout": 0.1}},
        {"engine": VLLM, "rollout": {"temperature": 0.5, "top_k": 4}},
        {"engine": SERVICE, "model": {"adapter": "none"}},
        {"engine": SERVICE, "model": {"alpha": 16.0}},
        {"engine": SERVICE, "model": {"dropout": 0.1}},
        {"engine": SERVICE, "model": {"targets": ["q_proj"]}},
        {"engine": SERVICE, "model": {"start": "runs/sft"}},
        {"engine": SERVICE, "model": {"gradient_checkpointing": True}},
        {"engine": SERVICE, "rollout": {"temperature": 0.8}},
        {"engine": SERVICE, "budget": {"dollars": 2.0}},
        {"evaluate": {"rivals": ["best_of_n"]}, "engine": SERVICE},
        {"evaluate": {"rivals": ["sft"]}, "sft": PAIRS},
        {"evaluate": {"rivals": ["sft"]}, "engine": VLLM},
        {"evaluate": {"rivals": ["sft"]}, "rollout": {"tools": ["tools.py:add"]}},
        {**TAUGHT, "rollout": {"temperature": 0.8}},
        {**TAUGHT, "grpo": {"loss": "gspo"}},
        {**TAUGHT, "grpo": {"replay": 2}},
        {**TAUGHT, "grpo": {"resample": 2}},
        {**TAUGHT, "grpo": {"flat": "sign", "solved": 1.0}},
        {**ITSELF, "rollout": EARLY},
        {**ITSELF, "rollout": {"ahead": 1}},
        {**ITSELF, "engine": SERVICE},
    ],
}


def unchecked(table: type[Section], values: dict[str, Any]) -> Section:
    """These settings as they would be if no rule of their table refused them."""
    lenient: type[Section] = type("Lenient", (table,), {"impossible": ()})
    return lenient.model_validate(values)


def keys(example: dict[str, Any], above: str = "") -> Iterator[str]:
    """The dotted names of all keys and tables of the example."""
    for key, value in example.items():
        yield above + key
        yield from keys(value, f"{above}{key}.") if isinstance(value, dict) else ()


def setting_keys() -> Iterator[str]:
    for above, names in setting_names().items():
        yield from (".".join((*above, name)) for name in names)


def tables(table: type[Section]) -> Iterator[type[Section]]:
    for below in table.__subclasses__():
        yield below
        yield from tables(below)


@pytest.mark.parametrize(
    ("table", "number"), [(table, n) for table, examples in EXAMPLES.items() for n in range(len(examples))]
)
def test_each_rule_is_broken_alone_and_names_the_keys(table: type[Section], number: int) -> None:
    example, rules = EXAMPLES[table][number], table.impossible
    values = {"task": "Say hi.", **example} if table is Settings else example
    would_be = unchecked(table, values)

    assert [n for n, rule in enumerate(rules) if rule.when(would_be)] == [number]
    with pytest.raises(ValidationError) as caught:
        table.model_validate(values)
    (error,) = caught.value.errors()
    text = rules[number].text(would_be)
    assert str(error["ctx"]["error"]) == text

    named = set(re.findall(r"`\[?([\w.]+)", text))
    assert named <= (set(setting_keys()) if table is Settings else set(table.model_fields))
    assert named & set(keys(example)) or not example


def test_every_rule_has_an_example() -> None:
    rules = {table: len(table.impossible) for table in tables(Section) if table.impossible}
    assert rules == {table: len(examples) for table, examples in EXAMPLES.items()}
