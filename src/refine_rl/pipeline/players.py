"""The two sides of `refine compare`: tuned models of runs, or any model; what they were trained on, what of
theirs stands on record, and the models themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refine_rl.envs.tools.tool import load_tools
from refine_rl.errors import UserError
from refine_rl.pipeline.weights import Weights, choose_weights, open_model
from refine_rl.policy.load import load_policy, require_model
from refine_rl.policy.policy import Policy
from refine_rl.prompts.demonstrations import load_demonstrations
from refine_rl.run import RunFolder
from refine_rl.run.near import did_you_mean, require_one
from refine_rl.settings import ModelSettings, Settings
from refine_rl.settings.revision import shown
from refine_rl.types import Outcome, Prompt

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@\w[\w./-]*)?")
_READ = ("max_tokens", "environment", "tools", "turns", "trajectory_tokens", "history")
"""What of [rollout] decides how answers to held-out prompts are made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Player:
    """One side: the tuned model of a run, or (without a `folder`) a model that nobody tuned here."""

    name: str
    model: str
    folder: RunFolder | None = None
    weights: Weights | None = None

    def load(self, settings: Settings) -> Policy:
        """The model, as it answers in the world of `settings`."""
        if self.folder is not None:
            own, policy = open_model(self.folder, self.weights)
        else:
            own, policy = settings, load_policy(self._as_a_model(settings), seed=settings.grpo.seed)
        if settings.rollout.tools or own.rollout.tools:
            tools = load_tools(settings.rollout.tools, settings.folder)
            policy.tell_tools(tuple(tool.schema for tool in tools.values()))
        return policy

    def require(self, settings: Settings) -> None:
        """Raises UserError where the model cannot be had."""
        if self.folder is None:
            require_model(self._as_a_model(settings))

    def _as_a_model(self, settings: Settings) -> ModelSettings:
        return settings.model.model_copy(update={"name": self.model, "start": ""})

    def seen(self) -> tuple[list[Prompt], list[str]]:
        """What it was trained and chosen on, the runs with which it began included; and a line on what of
        that is not known."""
        if self.folder is None:
            return [], [f"What {self.name} was trained on is not known: it may have seen these prompts."]
        return _seen(self.folder, set())

    def on_record(self, prompts: Sequence[Prompt], settings: Settings, seed: int) -> list[Outcome] | None:
        """What it answered to just these prompts, with the draws of `seed`, as `settings` have it answer;
        None where that is not on record, or where its model is not the one that answered."""
        folder = self.folder
        if folder is None or folder.config.kind() == "sft" or (self.weights and not self.weights.tuned):
            return None
        own = folder.settings()
        alike = (
            own.grpo.seed == seed
            and own.evaluate.samples == settings.evaluate.samples
            and all(getattr(own.rollout, key) == getattr(settings.rollout, key) for key in _READ)
        )
        if not alike or folder.model_changed():
            return None
        outcomes = {o.prompt.id: o for o in folder.outcomes("tuned") or ()}
        found = [outcomes.get(prompt.id) for prompt in prompts]
        same = [o for o, p in zip(found, prompts, strict=True) if o is not None and _same(o.prompt, p)]
        return same if len(same) == len(prompts) else None


def _same(one: Prompt, other: Prompt) -> bool:
    """Whether two prompts of the same id ask the same; the draws follow from the id."""
    return (one.id, one.messages, one.data) == (other.id, other.messages, other.data)


def player_of(which: str | Path) -> Player:
    """The side that a person names: a run's folder, a model's folder or its name on the hub. Raises UserError
    where it is none, or has no tuned model yet."""
    path = Path(which)
    if (run := RunFolder(path)).begun:
        weights = choose_weights(run)
        return Player(name=run.name, model=run.settings().model.name, folder=run, weights=weights)
    text = str(which)
    require_one(path)
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
            neither = "neither a run (it has no settings of one) nor a model's folder"
            raise UserError(f"{path} is {neither}.{did_you_mean(path)}")
        return Player(name=path.resolve().name, model=str(path.resolve()))
    there = path.parent.is_dir() and path.parent != Path()
    if text == "tiny" or (_HUB.fullmatch(text) and not there):
        owner, _, own = shown(text).partition("/")
        return Player(name=(own or owner).replace("/", "-"), model=text)
    hint = did_you_mean(path) or " `refine runs` lists those there are."
    raise UserError(f"{path}: there is no run.{hint}")


def _seen(folder: RunFolder, before: set[Path]) -> tuple[list[Prompt], list[str]]:
    """The prompts that a run, what it was fine-tuned on, and the runs that it began with were trained on."""
    before.add(folder.path.resolve())
    settings = folder.settings()
    found = [] if folder.config.kind() == "sft" else [p for p in folder.prompts() if p.split != "held_out"]
    unknown: list[str] = []
    if settings.sft is not None:
        try:
            rows = load_demonstrations(settings.sft, settings.folder).rows
            found += [Prompt(id=row.name, split="train", messages=row.asked) for row in rows]
        except UserError as error:
            why = str(error).partition("\n")[0]
            unknown.append(f"What {folder.name} was fine-tuned on cannot be read any more: {why}")
    if settings.model.start:
        earlier = RunFolder(Path(settings.model.start))
        if not earlier.begun:
            unknown.append(f"The run that {folder.name} began with is gone: {earlier.path}")
        elif earlier.path.resolve() not in before:
            more, lost = _seen(earlier, before)
            found, unknown = [*found, *more], [*unknown, *lost]
    return found, unknown


def reward_differs(a: RunFolder, b: RunFolder) -> list[str]:
    """The settings, and the files, in which the rewards of two runs are not the same."""
    one, other = a.settings(), b.settings()
    found = [] if not (one.reward.asks or other.reward.asks) or one.task == other.task else ["task"]
    found += [
        f"reward.{key}" for key in _unlike(one.reward, other.reward) if key not in ("sanity", "max_missing")
    ]
    if one.reward.judges or other.reward.judges:
        asked = (
            "kind",
            "repeats",
            "weight",
            "temperature",
            "max_tokens",
            "adaptive",
            "larger",
            "gate",
            "success",
        )
        found += [f"judge.{key}" for key in _unlike(one.judge, other.judge) if key in asked]
        found += ["evaluate.judge"] if one.evaluate.judge != other.evaluate.judge else []
    if one.reward.overlong is not None and one.rollout.most_tokens != other.rollout.most_tokens:
        found.append("rollout.max_tokens")
    found += ["rollout.environment"] if one.rollout.environment != other.rollout.environment else []
    files = [run.config.source().get("reward_files", {}) for run in (a, b)]
    found += [
        name for name in dict.fromkeys([*files[0], *files[1]]) if files[0].get(name) != files[1].get(name)
    ]
    if a.config.python_rewards() != b.config.python_rewards():
        found.append("the reward functions from Python")
    return found


def _unlike(one: Any, other: Any) -> list[str]:
    """The names of the fields in which two sections differ."""
    return [key for key in type(one).model_fields if getattr(one, key) != getattr(other, key)]
