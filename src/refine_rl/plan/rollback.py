"""What a run repeats at most where a drift leads back (evaluate.on_drift = "rollback")."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from refine_rl.plan.counts import Counts
from refine_rl.settings import Settings
from refine_rl.types import MIN_PROMPTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeated:
    """So many steps, and looks at the validation prompts, of a run; at most."""

    steps: int = 0
    looks: int = 0


def repeated(settings: Settings, counts: Counts) -> Repeated:
    """Training goes back once, from one look to an earlier one behind the first step: at worst from the last
    look before the last step to the first. Nothing where no drift can be seen, for want of prompts or looks.
    """
    every, steps = settings.grpo.validate_every, settings.grpo.steps
    if settings.evaluate.on_drift != "rollback" or counts.validation < MIN_PROMPTS or not every:
        return Repeated()
    looks = max(0, (steps - 1) // every - 1)
    return Repeated(steps=looks * every, looks=looks)


def words_on(again: Repeated) -> Iterator[str]:
    """What only the high figures count."""
    if again.steps:
        yield (
            f'evaluate.on_drift = "rollback": training may go back once, and repeats then at most '
            f"{again.steps} steps and {again.looks} validations: the high figures count them, the low ones "
            "none."
        )
