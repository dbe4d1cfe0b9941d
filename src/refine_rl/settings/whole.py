"""A whole task.toml, checked, and the values that follow from several of its keys."""

from __future__ import annotations

from typing import Literal, Self

from refine_rl.settings.base import Impossible
from refine_rl.settings.impossible import IMPOSSIBLE
from refine_rl.settings.tables import Tables


class Settings(Tables):
    """A whole task.toml: its tables and keys, in no impossible combination."""

    @classmethod
    def impossible(cls) -> tuple[Impossible[Self], ...]:
        return IMPOSSIBLE

    @property
    def writes_prompts(self) -> bool:
        """Whether the writer makes the prompts."""
        return self.prompts.source == "writer" or (not self.prompts.source and bool(self.writer.model))

    @property
    def ahead(self) -> bool:
        """Whether a step's answers are sampled while those of the step before are being judged."""
        if self.rollout.ahead == "auto":
            return not self.grpo.resample and self.reward.asks
        return self.rollout.ahead == 1

    @property
    def learning_rate(self) -> float:
        """The learning rate in force: LoRA wants about ten times that of full fine-tuning."""
        if self.grpo.learning_rate is not None:
            return self.grpo.learning_rate
        if self.model.name == "tiny":  # a small model takes, and needs, larger steps
            return 1e-3 if self.model.adapter == "lora" else 3e-4
        return 1e-4 if self.model.adapter == "lora" else 1e-5

    @property
    def clip_low(self) -> float:
        """The lower clip range in force."""
        if self.grpo.clip_low is not None:
            return self.grpo.clip_low
        return {"gspo": 3e-4, "cispo": 1.0}.get(self.grpo.loss, 0.2)

    @property
    def clip_high(self) -> float:
        """The upper clip range in force."""
        if self.grpo.clip_high is not None:
            return self.grpo.clip_high
        return {"dapo": 0.28, "gspo": 4e-4, "cispo": 4.0}.get(self.grpo.loss, self.clip_low)

    @property
    def flat(self) -> Literal["keep", "drop", "sign", "steps"]:
        """What becomes of a group whose rewards are all equal."""
        return self.grpo.flat or ("drop" if self.grpo.resample else "keep")
