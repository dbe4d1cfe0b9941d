"""What a reward is, and a reward made of a scorer of one completion."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from refine_rl.errors import GuardStop, MachineError, UserError
from refine_rl.foreign.failures import FAILURES, describe_failure
from refine_rl.rewards.text.patterns import TooSlow
from refine_rl.types import LOGGED, Prompt, Score, Trajectory

_LONG = 0.1  # seconds of a rule


class Reward(Protocol):
    """Scores the trajectories of one prompt."""

    @property
    def name(self) -> str:
        """The component's name in breakdowns, weights and plots."""

    def check_prompt(self, prompt: Prompt) -> None:
        """Raise a UserError when `prompt` lacks something that this reward needs."""

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        """One score a trajectory, in the same order."""


class Scorer(Reward, Protocol):
    """A reward that says what its numbers mean: in training, in validation, in the exam."""

    @property
    def relative(self) -> bool:
        """Whether scores compare only within one group."""

    @property
    def top(self) -> float | None:
        """The highest reward there is, for components in [0, 1]; None where no reward means "solved"."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each component by its name in the breakdown, the overlong penalty included."""

    def success(self, score: Score) -> bool:
        """Whether one of its scores is a full success."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Around:
    """A scorer around another: what it does not say itself, the one within says."""

    reward: Scorer

    @property
    def name(self) -> str:
        return self.reward.name

    @property
    def relative(self) -> bool:
        return self.reward.relative

    @property
    def top(self) -> float | None:
        return self.reward.top

    @property
    def weights(self) -> Mapping[str, float]:
        return self.reward.weights

    def check_prompt(self, prompt: Prompt) -> None:
        self.reward.check_prompt(prompt)

    def success(self, score: Score) -> bool:
        return self.reward.success(score)


async def scored(work: Awaitable[list[Score]], members: int) -> list[Score]:
    """What a reward gives to a group of so many members; missing scores that say why, where it fails. What
    stops a whole run (MachineError, GuardStop) is let through."""
    try:
        scores = await work
        if len(scores) != members:
            raise RuntimeError(f"{len(scores)} scores for {members} trajectories")
    except (MachineError, GuardStop):
        raise
    except FAILURES as error:
        return [Score.missing(describe_failure(error))] * members
    return scores


def untokenized(prompt: Prompt, texts: Iterable[str], *, first: int = 0) -> list[Trajectory]:
    """Answers to a prompt that no model gave here, as its members `first`, `first` + 1 ...

    >>> prompt = Prompt(id="p1", split="train", messages=({"role": "user", "content": "Say hi."},))
    >>> [(t.member, t.completion, t.completion_tokens) for t in untokenized(prompt, ["Hi!", "No."])]
    [(0, 'Hi!', 0), (1, 'No.', 0)]
    """
    return [
        Trajectory(
            prompt_id=prompt.id,
            member=member,
            messages=(*prompt.messages, {"role": "assistant", "content": text}),
            segments=(),
            stop_reason="stop",
        )
        for member, text in enumerate(texts, first)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionReward:
    """A reward out of a quick synchronous function of one completion.

    `score` gets the prompt and the completion; what it raises makes that one score missing.
    `check` raises a UserError for a prompt that cannot be scored.
    """

    name: str
    score: Callable[[Prompt, str], Score]
    check: Callable[[Prompt], None]

    def check_prompt(self, prompt: Prompt) -> None:
        self.check(prompt)

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        scores = []
        for trajectory in trajectories:
            began = time.monotonic()
            scores.append(self._score(prompt, trajectory.said))
            if time.monotonic() - began > _LONG:
                await asyncio.sleep(0)  # the loop can be told to stop
        return scores

    def _score(self, prompt: Prompt, completion: str) -> Score:
        try:
            return self.score(prompt, completion)
        except (UserError, TooSlow) as error:
            return Score.missing(str(error))
        except FAILURES as error:
            return Score.missing(describe_failure(error))


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupReward:
    """A reward out of a synchronous function of all completions of a prompt, which takes its time.

    It runs in a thread of the loop's. What it raises makes all of its scores missing. Numbers in its
    breakdowns are logged under the reward's name: they have a curve, and no weight.
    """

    name: str
    score: Callable[[Prompt, Sequence[str]], list[Score]]
    check: Callable[[Prompt], None]

    def check_prompt(self, prompt: Prompt) -> None:
        self.check(prompt)

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        texts = [trajectory.said for trajectory in trajectories]
        scores = await scored(asyncio.to_thread(self.score, prompt, texts), len(texts))
        return [
            replace(s, breakdown={f"{LOGGED}{self.name}/{key}": value for key, value in s.breakdown.items()})
            for s in scores
        ]


Check = Callable[[Prompt, str], tuple[float, str]]
"""A rule with its parameters filled in: prompt and completion -> a value in [0, 1] and one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupCheck:
    """A rule that looks at all completions of a prompt together, as where a model reads them.

    `score` gets the prompt and its completions, none of them empty, and gives a score each; it runs in a
    thread, and what its breakdowns hold is logged. `check` raises a UserError for a prompt that cannot be
    scored.
    """

    score: Callable[[Prompt, Sequence[str]], list[Score]]
    check: Callable[[Prompt], None]


RuleFactory = Callable[..., Check | GroupCheck]
"""A rule: takes its parameters by keyword and returns its check."""


def rule(table: dict[str, RuleFactory]) -> Callable[[RuleFactory], RuleFactory]:
    """A decorator that puts a rule into `table` under its function's name.

    A parameter's trailing underscore (`max_`) is no part of its name in the settings; its
    description is the text of its `Annotated` type. The factory raises a SettingsError for values
    that are impossible together, and its docstring says what the score is.
    """

    def add(factory: RuleFactory) -> RuleFactory:
        table[factory.__name__] = factory
        return factory

    return add
