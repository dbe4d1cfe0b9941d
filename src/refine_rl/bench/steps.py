"""Training steps on random prompts: the loop's own step, between a stand-in for everything around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from refine_rl.bench.machine import synchronize
from refine_rl.policy.policy import Policy
from refine_rl.randomness import generator
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.settings import Settings
from refine_rl.training.checkpoint import Position
from refine_rl.training.grpo.learn import step_metrics
from refine_rl.training.grpo.pool import Chosen, Seen
from refine_rl.training.grpo.selection import Selection
from refine_rl.training.grpo.setup import collector_of, distance_of, learn_of, learner_of, play_of
from refine_rl.types import Group, Message, Prompt, Score, StepMetrics, Trajectory


def random_prompts(count: int, tokens: int, vocabulary: int, seed: int) -> list[Prompt]:
    """Prompts whose text is `tokens` token ids in decimal, as `Numbers` reads them."""
    prompts = []
    for number in range(count):
        ids = generator(seed, "bench", number).integers(vocabulary, size=tokens)
        message = Message(role="user", content=" ".join(map(str, ids)))
        prompts.append(Prompt(id=f"p{number:04}", split="train", messages=(message,)))
    return prompts


class Numbers:
    """A tokenizer that reads a prompt's numbers as its token ids, without a template, so that prompts have
    exactly the length asked for. It writes as the model's own does."""

    def __init__(self, tokenizer: Any) -> None:
        self.decode = tokenizer.decode

    def apply_chat_template(self, messages: Sequence[Message], **options: Any) -> str:
        return messages[-1]["content"]

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(number) for number in text.split()]}


def take_steps(
    policy: Policy,
    prompts: Sequence[Prompt],
    settings: Settings,
    tell: Callable[[StepMetrics], None] = lambda metrics: None,
) -> list[StepMetrics]:
    """The metrics of steps 1 to grpo.steps, `seconds["total"]` by the wall clock; `tell` gets each at once.

    The policy is changed for good: it reads numbers, and stops at no token.
    """
    policy.read_numbers(Numbers(policy.tokenizer))
    record = _Record()
    learner = learner_of(settings, policy)
    learn = learn_of(settings, learner, distance_of(settings, policy, record.history))
    reward = RandomReward(settings.grpo.seed)
    taken: list[StepMetrics] = []
    with ScoringLoop() as scoring:
        collect = collector_of(
            settings,
            prompts,
            record,
            learn,
            play=play_of(settings, policy),
            score=lambda prompt, group: scoring.start(reward.score_group(prompt, group)),
            check=learner.check,
            weights={},
        )
        for step in range(1, settings.grpo.steps + 1):
            synchronize(policy.device)
            began = time.perf_counter()
            collected = collect(step)
            update = learn(collected.groups, step, seen=collected.seen)
            synchronize(policy.device)
            total = time.perf_counter() - began
            _require_whole(collected.groups, settings.rollout.max_tokens)
            seconds = {**collected.seconds, "train": total - sum(collected.seconds.values())}
            taken.append(step_metrics(step, collected.groups, update, seconds, None, collected.told))
            tell(taken[-1])
    return taken


def _require_whole(groups: Sequence[Group], tokens: int) -> None:
    """A completion that was stopped early would make the figures too good."""
    lengths = {t.completion_tokens for g in groups for t in g.trajectories}
    if lengths != {tokens}:
        raise RuntimeError(f"completions of {sorted(lengths)} tokens where {tokens} were asked for")


class RandomReward:
    """Numbers in [0, 1) that cost nothing. No member stands at its group's mean, so all are trained on."""

    name = "random"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def check_prompt(self, prompt: Prompt) -> None:
        pass

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        draws = generator(self._seed, "reward", prompt.id).random(len(trajectories))
        return [Score(value=float(x)) for x in draws]


class _Record:
    """A Record of nothing."""

    def recorded(self, step: int) -> None:
        return None

    def history(self) -> Sequence[StepMetrics]:
        return ()

    def seen(self) -> Sequence[Seen]:
        return ()

    def selection(self, step: int) -> None:
        return None

    def pool(self, step: int, chosen: Chosen) -> None: ...
    def selected(self, step: int, selection: Selection) -> None: ...
    def groups(self, groups: Sequence[Group]) -> None: ...
    def step(self, metrics: StepMetrics) -> None: ...
    def warning(self, step: int, name: str, text: str) -> None: ...
    def note(self, step: int, name: str, text: str) -> None: ...
    def checkpoint(self, position: Position, *, best: bool) -> None: ...
