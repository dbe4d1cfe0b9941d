"""Other prompts in place of groups whose rewards are all equal (DAPO's dynamic sampling, arXiv 2503.14476).

A step's groups come in waves: first the prompts chosen for it, then as many others as groups were without
spread, and so on until each is replaced, or `grpo.resample` groups were added, or no prompt is left. Every
group stays on record; with `grpo.flat = "drop"`, as DAPO has it, those without spread do not count in the
loss. Which prompts a wave takes is a function of the seed, the step, the wave, what is on record of steps
before (choice.py) and what the step held before: a step that is made again is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from refine_rl.randomness import generator
from refine_rl.training.grpo.advantages import Scored
from refine_rl.types import Group, Prompt, Score, same_value


def draw(
    prompts: Sequence[Prompt], count: int, *, seed: int, step: int, wave: int, used: Collection[str]
) -> list[Prompt]:
    """Up to `count` prompts, none of those whose ids are `used`: a prompt's draws are keyed by the step, so
    that a second group of it would be the first again."""
    left = [p for p in prompts if p.id not in used]
    order = generator(seed, "resample", step, wave).permutation(len(left))
    return [left[i] for i in order[:count]]


def without_spread(scores: Sequence[Score]) -> bool:
    """Whether two members or more have a score, and all the same.

    >>> without_spread([Score(value=1.0), Score(value=1.0), Score.missing("no reply")])
    True
    >>> without_spread([Score(value=1.0), Score.missing("no reply")])
    False
    """
    values = [s.value for s in scores if s.value is not None]
    return len(values) > 1 and same_value(values)


def filled_up(
    scored: Sequence[Scored],
    others: Callable[[int, int, Collection[str]], Sequence[Prompt]],
    sampled: Callable[[Sequence[Prompt]], Sequence[Scored]],
    *,
    budget: int,
) -> list[Scored]:
    """The step's groups, and behind them those of the further waves, at most `budget` groups, which `sampled`
    makes of the prompts of a wave. `others(count, wave, used)` gives these prompts: up to so many, none of
    those whose ids are used."""
    found, wave = list(scored), 0
    lacking = sum(without_spread(s) for _, _, s in scored)
    while count := min(lacking, budget):
        wave += 1
        fresh = others(count, wave, {p.id for p, _, _ in found})
        if not fresh:
            break
        more = sampled(fresh)
        found += more
        budget -= len(more)
        lacking -= sum(not without_spread(s) for _, _, s in more)
    return found


def waves(groups: Sequence[Group], per_step: int) -> list[Sequence[Group]]:
    """A step's recorded groups as they were sampled together."""
    found = [groups[:per_step]]
    rest, lacking = groups[per_step:], sum(without_spread(g.scores) for g in groups[:per_step])
    while rest:
        size = lacking or len(rest)  # 0: recorded under another grpo.prompts_per_step
        found.append(rest[:size])
        rest = rest[size:]
        lacking -= sum(not without_spread(g.scores) for g in found[-1])
    return found
