"""Training steps on random prompts: the loop's own step, between a stand-in for everything around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from refine_rl.bench.machine import synchronize
from refine_rl.pipeline.work import rollouts
from refine_rl.policy.control import NO_CONTROL
from refine_rl.policy.policy import Policy
from refine_rl.progress import never
from refine_rl.randomness import generator
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.settings import Settings
from refine_rl.training.checkpoint import Position
from refine_rl.training.grpo.loop import Flights, Parts, take_step
from refine_rl.training.grpo.pool import Chosen, Seen
from refine_rl.training.learn import make_optimizer
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
    policy.tokenizer, policy.control = Numbers(policy.tokenizer), NO_CONTROL
    policy.stop_ids = frozenset()
    listener = _Listener()
    taken: list[StepMetrics] = []
    with ScoringLoop(RandomReward(settings.grpo.seed)) as scoring:
        parts = Parts(
            policy=policy,
            optimizer=make_optimizer(policy, settings),
            sample=lambda some, step, finished: rollouts(policy, some, step, settings, finished=finished),
            score=scoring.submit,
            validate=None,
            component_weights={},
            recorder=listener,
            top=None,
            cost=lambda: None,
            pause=never,
            began=time.perf_counter(),
        )
        flights: Flights = {}
        for step in range(1, settings.grpo.steps + 1):
            synchronize(policy.device)
            began = time.perf_counter()
            metrics = take_step(prompts, step, parts, settings, flights)
            synchronize(policy.device)
            total = time.perf_counter() - began
            assert metrics is not None  # it would be if the listener knew the step already
            _require_whole(listener.newest, settings.rollout.max_tokens)
            taken.append(replace(metrics, seconds={**metrics.seconds, "total": total}))
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


class _Listener:
    """A Recorder that keeps the newest groups and writes nothing."""

    def __init__(self) -> None:
        self.newest: Sequence[Group] = ()

    def recorded(self, step: int) -> Sequence[Group] | None:
        return None

    def history(self) -> Sequence[StepMetrics]:
        return ()

    def seen(self) -> Sequence[Seen]:
        return ()

    def groups(self, groups: Sequence[Group]) -> None:
        self.newest = groups

    def pool(self, step: int, chosen: Chosen) -> None:
        pass

    def metrics(self, metrics: StepMetrics) -> None:
        pass

    def note(self, step: int, name: str, text: str) -> None: ...

    def warning(self, step: int, name: str, text: str) -> None:
        pass

    def checkpoint(self, position: Position, *, best: bool) -> None:
        pass
