"""A look at the untrained model before a run: how many groups will teach it anything?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from refine_rl.envs.play import sample
from refine_rl.envs.stage import stage_of
from refine_rl.errors import MachineError, UserError
from refine_rl.evaluate.agreement import wilson
from refine_rl.plan.calls import Calls, calls_for_groups
from refine_rl.plan.counts import Counts
from refine_rl.policy.control import readable
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose
from refine_rl.progress import Observer, Pause, count, never
from refine_rl.randomness import generator
from refine_rl.rewards import build_reward
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.run.endpoints import check_models, connect
from refine_rl.settings import Settings
from refine_rl.types import Prompt, Score, Trajectory, same_value

PROMPTS = 8  # that are looked at


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """What the untrained model did with a few training prompts. `flat` counts the groups whose rewards were
    all equal, out of `groups` that could be scored; `no_signal` is their share with its 95 % interval."""

    groups: int
    answers: int
    flat: int
    no_signal: float
    no_signal_ci95: tuple[float, float]
    reward_mean: float
    tokens_mean: float
    clipped_share: float
    missing: int
    seconds: float  # of sampling
    cost_usd: float  # of the calls whose price is known


def probe_calls(settings: Settings, counts: Counts, prompts: Sequence[Prompt]) -> list[Calls]:
    """The calls that a probe makes."""
    train = sum(prompt.split == "train" for prompt in prompts)
    return calls_for_groups(settings, counts, groups=min(PROMPTS, train))


def probe(
    settings: Settings, prompts: Sequence[Prompt], observer: Observer, *, pause: Pause = never
) -> Probed:
    """Has the untrained model answer a few training prompts, a whole group each, and scores them.

    Raises UserError (MachineError where LLMs score) when no group can be scored.
    """
    connections = connect(settings, None, observer.warning)
    check_models(settings, connections)
    if settings.reward.rubric == "write":
        observer.note("The rubric is still to be written: the judges go by the default one here.")
    asks = bool(settings.reward.judges) or settings.reward.quiz is not None
    reward = build_reward(settings, connections=connections)
    stage = stage_of(settings.rollout, settings.folder)
    observer.stage(f"Loading {settings.model.called}")
    policy = load_policy(settings.model, seed=settings.grpo.seed)
    r = settings.rollout
    chosen = choose(settings, policy, prompts, observer.note)
    observer.stage(f"It answers {len(chosen)} training prompts, {r.group_size} times each")
    began = time.perf_counter()
    groups = sample(
        policy,
        chosen,
        members=r.group_size,
        sampling=Sampling(max_tokens=r.max_tokens, temperature=r.temperature, top_p=r.top_p, top_k=r.top_k),
        purpose=Purpose(seed=settings.grpo.seed, step=0, name="plan"),
        stage=stage,
        pause=pause,
        counted=partial(count, observer, "prompts answered"),
    )
    seconds = time.perf_counter() - began
    observer.stage("The answers are scored")
    with ScoringLoop(closing=connections.close) as loop:
        scores = loop.score(reward, list(zip(chosen, groups, strict=True)), pause)
    return sum_up(groups, scores, seconds=seconds, cost_usd=connections.ledger.known_usd, asks=asks)


def choose(
    settings: Settings, policy: Policy, prompts: Sequence[Prompt], note: Callable[[str], None]
) -> list[Prompt]:
    """A few training prompts that fit the policy, drawn by the seed; its positions are held still for the
    longest of all. Raises UserError where none fits."""
    r = settings.rollout
    limit = min(settings.prompts.max_tokens, policy.prompt_room(r.max_tokens))
    read, lines = readable([p for p in prompts if p.split == "train"], policy.encode, policy.control)
    for line in lines:
        note(line)
    train = [p for p in read if len(policy.encode(p.messages)) <= limit]
    if not train:
        raise UserError(f"No training prompt has at most {limit} tokens, so none can be tried.")
    longest = max(len(policy.encode(p.messages)) for p in train) + r.max_tokens
    policy.hold_still(policy.context_length if r.several_turns else longest)
    order = generator(settings.grpo.seed, "plan").permutation(len(train))
    return [train[i] for i in order[:PROMPTS]]


def sum_up(
    groups: Sequence[Sequence[Trajectory]],
    scores: Sequence[Sequence[Score]],
    *,
    seconds: float,
    cost_usd: float,
    asks: bool,
) -> Probed:
    """What came of groups that were sampled in so many `seconds`. Raises UserError (MachineError where the
    reward `asks` LLMs) when no group can be scored."""
    values = [[s.value for s in group if s.value is not None] for group in scores]
    whole = [v for v in values if len(v) > 1]
    if not whole:
        why = next(s.explanation for group in scores for s in group if s.value is None)
        kind = MachineError if asks else UserError
        raise kind(f"No group could be scored. The first reason:\n{why}")
    flat = sum(same_value(v) for v in whole)
    answers = [t for group in groups for t in group]
    return Probed(
        groups=len(whole),
        answers=len(answers),
        flat=flat,
        no_signal=flat / len(whole),
        no_signal_ci95=wilson(flat, len(whole)),
        reward_mean=fmean(x for v in values for x in v),
        tokens_mean=fmean(t.completion_tokens for t in answers),
        clipped_share=fmean(t.stop_reason == "length" for t in answers),
        missing=len(answers) - sum(map(len, values)),
        seconds=seconds,
        cost_usd=cost_usd,
    )
