"""What can be known of a task without asking anybody: its prompts, and whether its reward can be had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refine_rl.config import Settings
from refine_rl.connecting import check_models
from refine_rl.llm.client import Client
from refine_rl.llm.scripted import Scripted
from refine_rl.plan.counts import Counts, count_prompts, written_counts
from refine_rl.plan.money import endpoint_of
from refine_rl.prompts import load_prompts
from refine_rl.rewards import build_reward
from refine_rl.rewards.rubric import default_rubric, load_rubric
from refine_rl.types import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """The prompts that are there (none where a writer has yet to write them), and their numbers."""

    prompts: Sequence[Prompt]
    counts: Counts


def survey(settings: Settings) -> Survey:
    """Reads the prompts and puts the reward together as a run would; a mistake in either is raised as it
    would be there. No call is made, and no key is needed."""
    rubric = default_rubric() if settings.reward.rubric == "write" else load_rubric(settings)
    check_models(settings, _Nobody(settings))
    reward = build_reward(settings, (), _Nobody(settings), rubric)
    if settings.writes_prompts:
        return Survey(prompts=(), counts=written_counts(settings))
    prompts, _ = load_prompts(settings)
    reward.check_data(prompts)
    return Survey(prompts=prompts, counts=count_prompts(prompts, settings))


class _Nobody:
    """Connections over which nothing is ever asked; a name that is not known is refused all the same."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def client(self, model: str) -> Client:
        endpoint_of(model, self._settings)
        return Scripted((), model=model)

    async def close(self) -> None:
        """There is nothing to close."""
