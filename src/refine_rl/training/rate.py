"""The learning rate of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """The learning rate of a step, 1 to `steps`: a linear warm-up, then constant, or linear or cosine
    towards 0."""

    peak: float
    steps: int
    schedule: str = "constant"
    warmup_steps: int = 0

    def __call__(self, step: int) -> float:
        """
        >>> [Rate(peak=1.0, steps=4, schedule="linear", warmup_steps=2)(step) for step in (1, 2, 3, 4)]
        [0.5, 1.0, 1.0, 0.5]
        """
        if step <= self.warmup_steps:
            return self.peak * step / self.warmup_steps
        progress = (step - 1 - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        if self.schedule == "linear":
            return self.peak * (1 - progress)
        if self.schedule == "cosine":
            return self.peak * 0.5 * (1 + math.cos(math.pi * progress))
        return self.peak
