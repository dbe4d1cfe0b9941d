"""First answers of the untrained model, and what the reward makes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from refine_rl.engines.base import Engine
from refine_rl.envs.base import Members
from refine_rl.envs.stage import Stage
from refine_rl.pipeline.check_findings import failed_components
from refine_rl.pipeline.doctor.found import Examination
from refine_rl.pipeline.doctor.subject import Subject
from refine_rl.plan.probe import Probed, sum_up
from refine_rl.progress import count
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.run.endpoints import connect
from refine_rl.settings import Settings
from refine_rl.training.grpo.setup import play_of
from refine_rl.types import Prompt, Score, decimals, reaches

MANY_CUT = 0.5  # share of cut answers from which a word is said
LITTLE_SIGNAL = 0.75  # share of groups without spread from which a word is said
_FINER = (
    "GRPO learns from differences within a group alone: make the reward finer (partial credit), the prompts "
    "easier or harder, or begin with supervised fine-tuning ([sft]). All of the reward on example answers:\n"
)
_BEFORE = ", before the fine-tuning with which the run begins"


def look_at_answers(
    it: Subject, engine: Engine, prompts: Sequence[Prompt], stage: Stage | None
) -> tuple[list[Members], float] | None:
    """A whole group for each prompt, as a training step makes them, with the seconds that took; whether
    answers end by themselves."""
    exam, settings = it.exam, it.settings
    began = time.perf_counter()
    groups: dict[int, Members] = {}
    with exam.looking("answers") as looked:
        for place, group in play_of(settings, engine.speaker, stage=stage, pause=it.pause)(prompts, 1):
            groups[place] = group
            count(it.observer, "prompts answered", len(groups), len(prompts))
    if looked.failed:
        return None
    found = [groups[place] for place in range(len(prompts))]
    every = [t for group in found for t in group]
    cut = sum(t.stop_reason == "length" for t in every)
    tokens = sum(t.completion_tokens for t in every) / len(every)
    most = settings.rollout.max_tokens
    report = _gravest(exam, settings)
    words = f"{len(every)} to {len(prompts)} prompts, {tokens:.0f} tokens each; {cut} cut at {most} tokens"
    words += "" if settings.sft is None else _BEFORE
    longer = it.command.again(f"rollout.max_tokens={2 * most}")
    if cut == len(every):
        report(
            "answers",
            f"{words}. None ends by itself: the limit is too low, or the model never says its stop token",
            longer,
        )
    elif cut > MANY_CUT * len(every):
        exam.warn("answers", words, longer)
    else:
        exam.ok("answers", words)
    return found, time.perf_counter() - began


def look_at_rewards(it: Subject, prompts: Sequence[Prompt], answered: tuple[list[Members], float]) -> None:
    """Whether the answers of a prompt get different rewards, and every component can score them."""
    exam, settings, check = it.exam, it.settings, it.command.again(verb="check")
    groups, seconds = answered
    asks = bool(settings.reward.judges) or settings.reward.quiz is not None
    with exam.looking("reward") as looked:
        connections = connect(settings, None, it.observer.warning)
        reward = build_reward(settings, connections=connections)
        with ScoringLoop(closing=connections.close) as loop:
            scores = loop.score(reward, list(zip(prompts, groups, strict=True)), it.pause)
    if looked.failed:
        return
    every = [s for group in scores for s in group]
    failed = failed_components(reward.component_names, every)
    missing = sum(s.value is None for s in every)
    for name, why in failed.items():
        report = exam.fail if missing == len(every) or name not in _asking(reward) else exam.warn
        report(
            "reward",
            f"`{name}` could not score {missing} of {len(every)} answers: {why}",
            f"{check} --reasons" if name not in _asking(reward) else "",
        )
    if missing == len(every):
        return
    with exam.looking("reward"):
        probed = sum_up(groups, scores, seconds=seconds, cost_usd=connections.ledger.known_usd, asks=asks)
        _spread(it, reward, every, probed, check)


def _gravest(exam: Examination, settings: Settings) -> Callable[[str, str, str], None]:
    """How it is said that nothing could be learned: as an error, unless the model is taught before."""
    return exam.fail if settings.sft is None else exam.warn


def _asking(reward: CombinedReward) -> set[str]:
    """The components that ask LLMs."""
    from refine_rl.rewards.judges.panel import Panel
    from refine_rl.rewards.quiz.quiz import Quiz

    return {c.name for c in reward.components if isinstance(c, Panel | Quiz)}


def _spread(it: Subject, reward: CombinedReward, every: Sequence[Score], probed: Probed, check: str) -> None:
    exam, settings = it.exam, it.settings
    values = [s.value for s in every if s.value is not None]
    low, high = probed.no_signal_ci95
    words = (
        f"mean {probed.reward_mean:.3f}; {probed.groups - probed.flat} of {probed.groups} groups have spread"
    )
    if reward.top is not None and (best := sum(reaches(v, reward.top) for v in values)):
        words += f", {best} of {len(values)} answers are at the top ({decimals(reward.top)})"
    if lowest := sum(v == min(values) for v in values) if min(values) < max(values) else 0:
        words += f", {lowest} at the lowest that was given ({decimals(min(values))})"
    if min(values) == max(values):
        before = "" if settings.sft is None else _BEFORE
        _gravest(exam, settings)(
            "reward",
            f"Each of {len(values)} answers got {decimals(values[0])}: nothing could be learned{before}",
            _FINER + check,
        )
    elif probed.no_signal > LITTLE_SIGNAL:
        exam.warn("reward", f"{words} ({low:.0%} to {high:.0%} of all, with 95 % confidence)", _FINER + check)
    else:
        exam.ok("reward", words)
