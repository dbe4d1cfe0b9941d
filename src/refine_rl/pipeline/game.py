"""A world that a person plays, and the model after them: the same prompt, the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refine_rl.envs.play import sample
from refine_rl.envs.several_turns import world_seed
from refine_rl.envs.stage import Stage, Started, stage_of
from refine_rl.errors import UserError
from refine_rl.pipeline.weights import choose_weights, open_model
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Purpose, Speaker
from refine_rl.prompts.sources import load_prompts
from refine_rl.recipes import load_task
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.types import Prompt, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """What is played: a world, its prompts, and the model that plays too, where a run has one."""

    settings: Settings
    stage: Stage
    prompts: Sequence[Prompt]
    speaker: Speaker | None

    def prompt(self, number: int, wanted: str | None) -> Prompt:
        """The prompt of game `number`, or the one with the id `wanted`. Raises UserError."""
        if wanted is None:
            return self.prompts[number % len(self.prompts)]
        found = next((p for p in self.prompts if p.id == wanted), None)
        if found is None:
            some = ", ".join(p.id for p in self.prompts[:3])
            raise UserError(f"There is no held-out prompt {wanted!r}; there are {some} ...")
        return found

    def model_plays(self, prompt: Prompt, number: int) -> Trajectory | None:
        """The model's own game, with its likeliest answers; None where there is no model."""
        if self.speaker is None:
            return None
        ((played,),) = sample(
            self.speaker,
            [prompt],
            members=1,
            sampling=Sampling(max_tokens=self.settings.rollout.max_tokens, temperature=0.0),
            purpose=_purpose(number),
            stage=self.stage,
        )
        return played


@dataclass(kw_only=True)
class Game:
    """A person's game of a prompt. `rewards` are those of the turns so far."""

    table: Table
    prompt: Prompt
    number: int
    rewards: list[float]
    over: bool = False
    _environment: Any = None

    def start(self) -> str:
        """What the world says at the beginning. Raises UserError where it cannot."""
        seed = world_seed(_purpose(self.number), self.prompt)
        (begun,) = self.table.stage.start(self.prompt.data, seed, 1).result()
        if not isinstance(begun, Started):
            raise UserError(f"{self.table.settings.rollout.environment}: start: {begun.why}")
        self._environment = begun.environment
        return begun.said

    def step(self, reply: str) -> str:
        """What the world answers to a reply. Raises UserError where it cannot."""
        (answer,) = self.table.stage.step([(self._environment, reply)]).result()
        if not isinstance(answer, tuple):
            raise UserError(f"{self.table.settings.rollout.environment}: {answer.why}")
        said, reward, done = answer
        self.rewards.append(reward)
        self.over = done or len(self.rewards) >= self.table.settings.rollout.turns
        return said


def lay_table(target: str) -> Table:
    """The world of a run's folder, with its tuned model where it has one, or of a recipe or task. Raises
    UserError where no world is played there."""
    path, speaker = Path(target), None
    if path.is_dir() and (folder := RunFolder(path)).begun:
        settings = folder.settings()
        _require_world(target, settings)
        prompts = folder.prompts()
        if folder.model.is_dir() or folder.checkpoints():
            wanted = None if folder.model.is_dir() else "last"
            settings, speaker = open_model(folder, choose_weights(folder, wanted))
    else:
        settings = load_task(path) if path.exists() else load_task(None, recipe=target)
        _require_world(target, settings)
        prompts, _ = load_prompts(settings)
    stage = stage_of(settings.rollout, settings.folder)
    assert stage is not None
    held_out = [p for p in prompts if p.split == "held_out"]
    if not held_out:
        raise UserError(f"{target} has no held-out prompts yet, and these are what is played.")
    return Table(settings=settings, stage=stage, prompts=held_out, speaker=speaker)


def _purpose(number: int) -> Purpose:
    return Purpose(seed=0, step=number, name="play")


def _require_world(target: str, settings: Settings) -> None:
    if not settings.rollout.environment:
        raise UserError(
            f"{target} has no world to play in: it sets no rollout.environment. "
            "To talk to a run's model: refine chat"
        )
