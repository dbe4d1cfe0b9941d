"""A run at work: what every stage of it has at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

from refine_rl.engines.base import Engine
from refine_rl.envs.stage import Stage
from refine_rl.evaluate.answer import Answers, ScoreGroups, answer
from refine_rl.llm.client import Connections
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose, Speaker
from refine_rl.progress import Pause, wait
from refine_rl.rewards.base import Scorer
from refine_rl.rewards.build import Scorers
from refine_rl.rewards.functions.trl import TrainerState, trainer_state
from refine_rl.rewards.nearness import NEARNESS, taught_by
from refine_rl.rewards.scoring import Promising, ScoringLoop
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.settings import GRPOSettings, Settings
from refine_rl.training.grpo.teacher import Teacher
from refine_rl.training.missing import missing_text, require_scores
from refine_rl.types import Prompt, Score, Trajectory

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run's folder, settings and model, and who scores and listens."""

    folder: RunFolder
    settings: Settings
    engine: Engine
    scorers: Scorers
    scoring: ScoringLoop
    cost: Callable[[], float | None]  # dollars since it was last asked
    journal: Journal
    pause: Pause
    connections: Connections | None = None
    teacher: Teacher | None = None  # who says how likely it would have written a token
    stage: Stage | None = None  # the environment, where answers have several turns
    began: float = 0.0  # time.perf_counter() when the process took up the run
    warned: set[str] = field(default_factory=set)  # names of warnings that were given before
    evaluation: str = ""  # the name of a later evaluation; "" in the run's own course

    @property
    def policy(self) -> Policy:
        """The model's texts and shape."""
        return self.engine.policy

    @property
    def speaker(self) -> Speaker:
        """The model as it is now, to be asked."""
        return self.engine.speaker

    def purpose(self, name: str, step: int = 0) -> Purpose:
        return Purpose(seed=self.settings.grpo.seed, step=step, name=name)

    def answers(
        self,
        prompts: Sequence[Prompt],
        purpose: Purpose,
        *,
        greedy: bool = True,
        speaker: Speaker | None = None,
        called: str = "answers",
    ) -> list[Answers]:
        """Answers of the policy as it is now, or of another speaker; `called` so where they are counted."""
        return answer(
            speaker or self.speaker,
            prompts,
            samples=self.settings.evaluate.samples,
            max_tokens=self.settings.rollout.max_tokens,
            purpose=purpose,
            greedy=greedy,
            stage=self.stage,
            pause=self.pause,
            counted=partial(self.journal.observer.count, called),
        )

    def waited_for(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine of the scoring loop gives."""
        return wait(self.scoring.start(work), self.pause)

    def scorer(
        self, scorer: Scorer, where: str, name: str, step: int | None = None, *, stops: bool = True
    ) -> ScoreGroups:
        """Scores many groups at once. The first missing score is told as soon as it is known, as the warning
        `name`; too many of them raise GuardStop, unless it `stops` nothing."""

        def score(prompts: Sequence[Prompt], groups: Sequence[Sequence[Trajectory]]) -> list[list[Score]]:
            with self.training_at(self.settings.grpo.steps + 1):
                taught = NEARNESS in scorer.weights  # nobody else asks of these answers, or not yet
                begin = partial(self.begin, scorer, taught=taught)
                futures = [begin(p, g) for p, g in zip(prompts, groups, strict=True)]
            new, scores = name not in self.warned, []

            def look() -> None:
                self.pause()
                done = sum(future.done() for future in futures)
                self.journal.observer.count("prompts scored", done, len(futures))

            for prompt, future in zip(prompts, futures, strict=True):
                scores.append(wait(future, look))
                self._warn_of_missing(scores[-1], f"{where}, prompt {prompt.id}", name)
            every = [s for group in scores for s in group]
            if text := missing_text(every):
                if new:
                    self.journal.event("warning", name, f"{where}: {text}", step)
                self.journal.observer.note(f"{where}: {text.partition(';')[0]}")
            if stops:
                require_scores(every, self.settings.reward.max_missing, where)
            return scores

        return score

    def _warn_of_missing(self, scores: Sequence[Score], where: str, name: str) -> None:
        missing = next((s for s in scores if s.status == "missing"), None)
        if missing is not None and name not in self.warned:
            self.warned.add(name)
            self.journal.observer.warning(
                f"{where}: the first missing score, and why:\n{missing.explanation}"
            )

    def begin(
        self, scorer: Scorer, prompt: Prompt, group: Sequence[Trajectory], *, taught: bool = True
    ) -> Future[list[Score]]:
        """A group's scores to come. A teacher that scores or is going to teach hears of the group in here, in
        the thread that has the models, where it is `taught`."""
        if self.teacher is None or not taught:
            return Promising(scorer, self.scoring).start(prompt, group)
        self.teacher.begin(group)
        with taught_by(self.teacher.of):
            return Promising(scorer, self.scoring).start(prompt, group)

    def training_at(self, step: int) -> AbstractContextManager[None]:
        """A block in which functions that ask are told that training is at the beginning of `step`."""
        return training_at(step, self.settings.grpo, self._prompts)

    @cached_property
    def _prompts(self) -> list[Prompt]:
        return self.folder.prompts()


def training_at(step: int, grpo: GRPOSettings, prompts: Sequence[Prompt]) -> AbstractContextManager[None]:
    """A block in which reward functions that ask are told that the training on these prompts is at the
    beginning of `step`."""
    passes = grpo.prompts_per_step / max(1, sum(p.split == "train" for p in prompts))
    return trainer_state(
        TrainerState(
            global_step=(step - 1) * grpo.updates_per_step * grpo.minibatches,
            max_steps=grpo.steps * grpo.updates_per_step * grpo.minibatches,
            epoch=(step - 1) * passes,
            num_train_epochs=math.ceil(grpo.steps * passes),
        )
    )
