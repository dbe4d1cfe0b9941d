"""What can be known of a task without asking anybody: its prompts, and whether its reward can be had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refine_rl.envs.stage import stage_of
from refine_rl.envs.tools.tool import load_tools
from refine_rl.errors import Together
from refine_rl.llm.client import Client
from refine_rl.llm.scripted import Scripted
from refine_rl.plan.counts import Counts, count_prompts, written_counts
from refine_rl.plan.money import Endpoints, endpoint_of
from refine_rl.policy.tools import in_words
from refine_rl.prompts import load_prompts
from refine_rl.prompts.demonstrations import Shown, load_demonstrations
from refine_rl.recipes.examples import require_own_reward
from refine_rl.rewards import CombinedReward, build_reward
from refine_rl.rewards.build import isolation_of
from refine_rl.rewards.judges.rubric import default_rubric, rubric_named
from refine_rl.run.endpoints import check_models
from refine_rl.settings import RolloutSettings, Settings
from refine_rl.types import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """The prompts that are there (none where a writer has yet to write them), and their numbers (None for
    supervised fine-tuning alone); `shown` are the answers to imitate, of a task with [sft]."""

    prompts: Sequence[Prompt]
    counts: Counts | None
    lost: str = ""  # what became of other rows of their source
    shown: Shown | None = None
    isolation: str = ""  # what the model's programs are not kept from on this machine


def survey(settings: Settings, functions: Sequence[Callable[..., Any]] = ()) -> Survey:
    """Reads prompts and answers, and puts the reward together, as a run would; a mistake is raised as it
    would be there. `functions` are reward functions that were given from Python. No call is made, and no key
    is needed. A task with [sft] and nothing that scores is one for `refine sft`."""
    if settings.sft is not None and not (settings.scored or functions):
        return Survey(prompts=(), counts=None, shown=load_demonstrations(settings.sft, settings.folder))
    rubric, lost, nobody = default_rubric(), "", _Nobody(settings.endpoints)
    together = Together()
    with together:
        rubric = rubric_named(settings.reward.rubric, settings.folder)
        check_models(settings, nobody)
    reward: CombinedReward | None = None
    prompts: list[Prompt] | None = None
    shown: Shown | None = None
    with together:
        reward = build_reward(settings, functions, nobody, rubric)
    with together:
        stage_of(settings.rollout, settings.folder)
    with together:
        require_own_reward(settings.reward, task=settings.task, folder=settings.folder)
    if not settings.writes_prompts:
        with together:
            prompts, report = load_prompts(settings)
            lost = report.lost()
    if settings.sft is not None:
        with together:
            others = [p for p in prompts or () if p.split != "train"]
            shown = load_demonstrations(settings.sft, settings.folder, others)
    if reward is not None and prompts is not None:
        with together:
            reward.check_data(prompts)
    isolation = ""
    if reward is not None:
        with together:
            isolation = isolation_of(reward)
    together.tell()
    if prompts is None:
        counts = written_counts(settings.prompts, settings.writer)
    else:
        counts = count_prompts(prompts, settings.reward.quiz)
    counts = replace(counts, tools=_told_of_tools(settings.rollout, settings.folder))
    return Survey(prompts=prompts or (), counts=counts, lost=lost, shown=shown, isolation=isolation)


def _told_of_tools(rollout: RolloutSettings, folder: Path) -> int:
    """Characters in which the policy is told of its tools; templates that know tools need about as many."""
    schemas = tuple(tool.schema for tool in load_tools(rollout.tools, folder).values())
    return len(in_words((), schemas, system=True)[0]["content"]) if schemas else 0


class _Nobody:
    """Connections over which nothing is ever asked; a name that is not known is refused all the same."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    def client(self, model: str) -> Client:
        endpoint_of(model, self._endpoints)
        return Scripted((), model=model)

    async def close(self) -> None:
        """There is nothing to close."""
