"""Which tables a task.toml has: a section a line."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from refine_rl.settings.base import Section
from refine_rl.settings.budget import BudgetSettings
from refine_rl.settings.endpoints import EndpointSettings
from refine_rl.settings.evaluate import EvaluateSettings
from refine_rl.settings.grpo import GRPOSettings
from refine_rl.settings.judge import JudgeSettings
from refine_rl.settings.model import ModelSettings
from refine_rl.settings.prompts import PromptSettings
from refine_rl.settings.reward import RewardSettings
from refine_rl.settings.rollout import RolloutSettings
from refine_rl.settings.writer import WriterSettings


class Tables(Section):
    """The tables and keys of a task.toml. `folder` is where relative paths start; it is never written."""

    task: str
    """What is wanted, in plain words."""
    name: str = ""
    """Name of the run's folder; without it, the task folder's name."""
    model: ModelSettings = ModelSettings()
    """Which model is trained, and how much of it."""
    prompts: PromptSettings = PromptSettings()
    """Where prompts come from and how they are split."""
    endpoints: dict[str, EndpointSettings] = {}
    """Where LLMs answer, by name."""
    writer: WriterSettings = WriterSettings()
    """The LLM that writes prompts from the task."""
    reward: RewardSettings = RewardSettings()
    """What is wanted, as judges, rules and functions."""
    judge: JudgeSettings = JudgeSettings()
    """How the judges judge."""
    rollout: RolloutSettings = RolloutSettings()
    """How the policy answers."""
    grpo: GRPOSettings = GRPOSettings()
    """The update."""
    evaluate: EvaluateSettings = EvaluateSettings()
    """Base against tuned on held-out prompts."""
    budget: BudgetSettings = BudgetSettings()
    """A hard cap."""
    folder: Path = Field(default=Path(), exclude=True)

    @field_validator("task")
    @classmethod
    def _says_something(cls, task: str) -> str:
        if not task.strip():
            raise ValueError("is empty; say in plain words what is wanted")
        return task

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if name in (".", "..") or not set("/\\\n").isdisjoint(name):
            raise ValueError("names a folder inside runs/; `--run DIR` takes any other folder")
        return name
