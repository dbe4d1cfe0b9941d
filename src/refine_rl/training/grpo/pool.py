"""The pool of informative prompts: which ones a step takes, and which ones rest.

A group whose rewards are all equal teaches nothing. Its prompt rests: after its n-th such group in a row
for rest * 2**(n-1) steps (at most 8 * rest), where `rest` is one pass over the pool. Then it gets another
chance: the policy has moved, and what was never solved may be solved now and then. A group with spread
sets n back to 0.

All of it is a function of the outcomes on record; nothing is remembered from step to step, so a resumed
run chooses what the unbroken one would have chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from refine_rl.randomness import generator
from refine_rl.types import RIGHT_STEPS, Group, Prompt, decimals, reaches, same_value

LEAST_REST = 2  # steps
LONGEST = 3  # doublings of the rest


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A group that was sampled at `step` (1, 2 ...; 0 for a probe before training). `values` are the
    rewards of the members that have a score, or what told them apart instead (`worth`); with fewer than two
    it is a turn, but no evidence.

    >>> Seen(step=1, prompt_id="p0001", values=(0.5, 0.5)).flat
    True
    """

    step: int
    prompt_id: str
    values: tuple[float, ...]

    @classmethod
    def of(cls, group: Group) -> Seen:
        """What the pool needs of a scored group."""
        values = worth((s.value, s.breakdown) for s in group.scores)
        return cls(step=group.step, prompt_id=group.prompt.id, values=values)

    @property
    def flat(self) -> bool | None:
        """Whether all rewards were equal; None where that cannot be said."""
        return None if len(self.values) < 2 else same_value(self.values)


def worth(members: Iterable[tuple[float | None, Mapping[str, float]]]) -> tuple[float, ...]:
    """The rewards of a group's members, given as (reward, breakdown); or, where graded steps tell its wrong
    answers apart, the shares of right steps.

    >>> worth([(0.0, {}), (1.0, {}), (None, {})])
    (0.0, 1.0)
    >>> worth([(0.0, {"right_steps": 0.5}), (0.0, {"right_steps": 0.25})])
    (0.5, 0.25)
    """
    known = [(reward, breakdown) for reward, breakdown in members if reward is not None]
    shares = tuple(breakdown[RIGHT_STEPS] for _, breakdown in known if RIGHT_STEPS in breakdown)
    return shares if shares and not same_value(shares) else tuple(reward for reward, _ in known)


@dataclass(frozen=True, kw_only=True, slots=True)
class Aside:
    """A prompt that rests: since which step's group, why, and the first step at which it is back."""

    prompt_id: str
    step: int
    why: str
    returns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """What a curriculum draws from (curriculum.py): the probability with which the group of each prompt that
    it drew will have spread, by id, and how many training prompts are in which state."""

    promised: Mapping[str, float]
    pool: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A step's prompts; the prompts that were newly set aside since the step before, and the ids of those
    that came back; of a curriculum, what it drew from instead."""

    prompts: tuple[Prompt, ...]
    aside: tuple[Aside, ...]
    back: tuple[str, ...]
    drawn: Drawn | None = None


def choose(
    prompts: Sequence[Prompt],
    step: int,
    per_step: int,
    seed: int,
    outcomes: Iterable[Seen],
    *,
    known: int | None = None,
    told: int | None = None,
    top: float | None = 1.0,
) -> Chosen:
    """The prompts of `step`: those that do not rest, the longest unused first, of these the ones with the
    fewest turns; among equals the order is drawn anew for each pass, as `choose_prompts` draws it. Where
    fewer than `per_step` are left, the ones that return soonest fill up. No step holds a prompt twice.

    `outcomes` are those of earlier steps, in any order; later ones are ignored. Rewards count up to step
    `known` (without it, all before `step`); those after it are turns only, as when a step is sampled before
    the one before it is scored. `told` is the `known` of the step before: what became known since is in
    `aside`. `top` is the highest reward there is, for the reasons; None where no reward means "solved".
    """
    if len(prompts) < per_step:
        raise ValueError(f"{per_step} prompts a step from a pool of {len(prompts)}")
    known = step - 1 if known is None else known
    told = known - 1 if told is None else told
    past = sorted((o for o in outcomes if o.step < step), key=lambda o: o.step)
    used = {o.prompt_id: o.step for o in past}
    turns = Counter(o.prompt_id for o in past)
    rest = _rest(len(prompts), per_step)
    before, now = _resting(past, ((told, step - 1), (known, step)), rest, top)

    which_pass = (step - 1) // (len(prompts) // per_step)
    order = generator(seed, "order", which_pass).permutation(len(prompts))
    drawn = [prompts[i] for i in order]
    drawn.sort(key=lambda p: (now[p.id].returns if p.id in now else 0, used.get(p.id, 0), turns[p.id]))
    return Chosen(
        prompts=tuple(drawn[:per_step]),
        aside=tuple(now[p.id] for p in prompts if p.id in now and now[p.id] != before.get(p.id)),
        back=tuple(p.id for p in prompts if p.id in before and p.id not in now),
    )


def resting(
    prompts: Sequence[Prompt], step: int, per_step: int, outcomes: Iterable[Seen], *, known: int | None = None
) -> set[str]:
    """The ids of the prompts that rest at `step`; the arguments are those of `choose`."""
    past = sorted((o for o in outcomes if o.step < step), key=lambda o: o.step)
    known = step - 1 if known is None else known
    return _resting(past, ((known, step),), _rest(len(prompts), per_step), None)[0].keys() & {
        p.id for p in prompts
    }


def _rest(prompts: int, per_step: int) -> int:
    """One pass over the pool, in steps."""
    return max(LEAST_REST, -(-prompts // per_step))


def _resting(
    past: Sequence[Seen], times: Sequence[tuple[int, int]], rest: int, top: float | None
) -> list[dict[str, Aside]]:
    """For each (known, step), in rising order: who rests at `step`, by what the groups up to step `known`
    showed."""
    rows: dict[str, tuple[int, Seen]] = {}  # flat groups in a row, and the last of them
    found = []
    groups = iter(past)
    waiting = next(groups, None)
    for known, step in times:
        while waiting is not None and waiting.step <= known:
            flat, prompt_id = waiting.flat, waiting.prompt_id
            if flat:
                rows[prompt_id] = (rows[prompt_id][0] + 1 if prompt_id in rows else 1, waiting)
            elif flat is not None:
                rows.pop(prompt_id, None)
            waiting = next(groups, None)
        aside = (_aside(*row, rest, top) for row in rows.values())
        found.append({a.prompt_id: a for a in aside if a.returns > step})
    return found


def _aside(in_a_row: int, last: Seen, rest: int, top: float | None) -> Aside:
    return Aside(
        prompt_id=last.prompt_id,
        step=last.step,
        why=_why(last.values, top),
        returns=last.step + 1 + rest * 2 ** min(in_a_row - 1, LONGEST),
    )


def _why(values: Sequence[float], top: float | None) -> str:
    """The reason in words.

    >>> _why([1.0] * 8, 1.0), _why([0.0, 0.0], 1.0)
    ('all 8 answers got 1.000 (always solved)', 'both answers got 0.000 (never solved)')
    """
    who = "both" if len(values) == 2 else f"all {len(values)}"
    if top is not None and reaches(values[0], top):
        what = "always solved"
    elif top is not None and values[0] <= 0:
        what = "never solved"
    else:
        what = "no spread"
    return f"{who} answers got {decimals(values[0])} ({what})"
