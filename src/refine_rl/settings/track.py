"""[track]: experiment trackers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from refine_rl.settings.base import Section

TrackerName = Literal["trackio", "wandb", "tensorboard", "mlflow"]
_NOT_IN_NAMES = frozenset("/\\#?%:,\n")  # of projects; no tracker takes all of them


class TrackSettings(Section):
    """[track]: experiment trackers that show the course of the run as well; off unless named."""

    to: list[TrackerName] = []
    """Where the run is shown: "trackio", "wandb" (Weights & Biases), "tensorboard", "mlflow"; each needs the
    extra of its name. See docs/tracking.md."""
    project: str = "refine"
    """The project (of MLflow the experiment) that the run is filed under."""
    name: str = ""
    """The run's name there; without it, the name of the run's folder."""
    rollouts: Annotated[int, Field(ge=0)] = 4
    """Groups of a step whose prompts and answers are shown as a table, every 10 steps or as often as
    grpo.validate_every says. 0: the trackers get numbers and settings alone, and no prompt, answer, message
    or report."""

    @field_validator("to")
    @classmethod
    def _once_each(cls, names: list[TrackerName]) -> list[TrackerName]:
        if double := next((name for place, name in enumerate(names) if name in names[:place]), ""):
            raise ValueError(f'names "{double}" twice')
        return names

    @field_validator("project")
    @classmethod
    def _is_a_name(cls, project: str) -> str:
        if not project.strip() or not _NOT_IN_NAMES.isdisjoint(project):
            raise ValueError("is a name of letters, digits, spaces, '-', '_' and '.'")
        return project
