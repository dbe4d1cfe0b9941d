"""Which prompts a step takes, and which weights sample it. Both are functions of the step and of what is on
record, never of how fast anything is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from refine_rl.randomness import generator
from refine_rl.training.grpo.curriculum import Curriculum
from refine_rl.training.grpo.pool import Chosen, Seen, choose, resting
from refine_rl.training.grpo.resample import draw
from refine_rl.types import Prompt


def choose_prompts(prompts: Sequence[Prompt], step: int, per_step: int, seed: int) -> list[Prompt]:
    """The prompts of step 1, 2 ...: each pass over the prompts has an order of its own, and a step
    never holds a prompt twice (the few left over at the end of a pass wait for the next)."""
    steps_per_pass = len(prompts) // per_step
    which_pass, place = divmod(step - 1, steps_per_pass)
    order = generator(seed, "order", which_pass).permutation(len(prompts))
    return [prompts[i] for i in order[place * per_step : (place + 1) * per_step]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Which weights sample which step. `ahead`: the answers of step s + 1 are sampled while those of step s
    are being judged, so with the weights before update s, one update older than they would be otherwise. The
    loss takes the sampler's own log-probs as the old ones, so its ratio and clipping account for that update.
    Checkpoints and validations are barriers: what follows them is sampled with the newest weights, so that a
    checkpoint is the whole state of a run."""

    ahead: bool = False
    checkpoint_every: int = 1
    validate_every: int = 0

    def sampled_after(self, step: int) -> int:
        """The number of updates behind the weights that sample `step` (1, 2 ...).

        >>> schedule = Schedule(ahead=True, checkpoint_every=3)
        >>> [schedule.sampled_after(step) for step in (1, 2, 3, 4, 5)]
        [0, 0, 1, 3, 3]
        """
        before = step - 1
        return before if not self.ahead or self._is_barrier(before) else before - 1

    def _is_barrier(self, step: int) -> bool:
        return step % self.checkpoint_every == 0 or (
            self.validate_every > 0 and step % self.validate_every == 0
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Of `per_step` prompts. `informative`: prompts whose groups showed no spread rest (pool.py); `top` is
    the highest reward there is, for the reasons that are put on record. Or a `curriculum` draws them."""

    prompts: Sequence[Prompt]
    per_step: int
    seed: int
    schedule: Schedule
    informative: bool = False
    top: float | None = None
    curriculum: Curriculum | None = None

    def of_step(self, step: int, seen: Sequence[Seen], under_way: Sequence[Prompt] = ()) -> Chosen:
        """The prompts of `step`, and who rests. `seen` are the groups so far; `under_way` the prompts of the
        step before, where it is not scored yet: these count as a turn and no more."""
        known = self.schedule.sampled_after(step)
        if self.curriculum is not None:
            return self.curriculum.of_step(step, seen, known, {p.id for p in under_way})
        if not self.informative:
            chosen = choose_prompts(self.prompts, step, self.per_step, self.seed)
            return Chosen(prompts=tuple(chosen), aside=(), back=())
        turns = [Seen(step=step - 1, prompt_id=p.id, values=()) for p in under_way]
        return choose(
            self.prompts,
            step,
            self.per_step,
            self.seed,
            [*seen, *turns],
            known=known,
            told=self.schedule.sampled_after(step - 1) if step > 1 else -1,
            top=self.top,
        )

    def others(
        self, step: int, seen: Sequence[Seen], count: int, wave: int, used: Collection[str]
    ) -> list[Prompt]:
        """Up to `count` prompts for a step's further `wave`, none of those whose ids are `used`; prompts that
        rest do not take the place of others."""
        if self.curriculum is not None:
            return self.curriculum.others(step, seen, count, wave, used)
        rest = resting(self.prompts, step, self.per_step, seen) if self.informative else set()
        return draw(self.prompts, count, seed=self.seed, step=step, wave=wave, used={*used, *rest})
