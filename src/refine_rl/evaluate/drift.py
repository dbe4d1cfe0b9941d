"""Whether the reward rises while another eye sees the answers get worse: Goodhart's law, at work.

Every look at the validation prompts has, for each prompt, the mean reward and the mean value that the other
eye gives to the same answers. A look is compared with every look before it, prompt by prompt:

- the reward rose surely: Student's t of its differences, one-sided, at 5 %;
- the other eye's value fell surely: the same at 5 % over all pairs of looks that the run will have
  (Bonferroni), so that a run in which nothing drifts is suspected in at most about one of twenty.

Both must hold between the same two looks. (That the reward rose needs no such correction: it only makes the
alarm rarer.) What it cannot see: a fall that these prompts are too few to show, and an eye that is deceived
as the reward is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from refine_rl.evaluate.student import above_zero
from refine_rl.types import MIN_PROMPTS, decimals

LEVEL = 0.05
MOST_GAINS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What both say of each validation prompt's answers at a step, by the prompt's id.

    >>> Look(step=3, reward={"p1": 0.5, "p2": 1.0}, eye={"p1": 0.25, "p2": 0.75}).eye["p2"]
    0.75
    """

    step: int
    reward: Mapping[str, float]
    eye: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """From the look at step `since` to that at step `now`: the means of the prompts that both have."""

    since: int
    now: int
    reward: tuple[float, float]
    eye: tuple[float, float]

    def __str__(self) -> str:
        """
        >>> print(Drift(since=2, now=8, reward=(0.25, 0.75), eye=(0.5, 0.125)))
        From step 2 to step 8 the validation reward rose from 0.250 to 0.750 and the other eye's \
value fell from 0.500 to 0.125
        """
        reward, eye = (" to ".join(map(decimals, both)) for both in (self.reward, self.eye))
        return (
            f"From step {self.since} to step {self.now} the validation reward rose from {reward} and the "
            f"other eye's value fell from {eye}"
        )


def looks_of(validation: Iterable[Mapping[str, Any]]) -> list[Look]:
    """The looks among a run's validations that have another eye's values."""
    return [
        Look(
            step=line["step"],
            reward={name: pair[0] for name, pair in line["eye"]["prompts"].items()},
            eye={name: pair[1] for name, pair in line["eye"]["prompts"].items()},
        )
        for line in validation
        if "eye" in line
    ]


def drift(looks: Sequence[Look], planned: int) -> Drift | None:
    """The drift that the newest of the looks shows, from that earlier one on at which the other eye's value
    was highest; `planned` is the number of looks that the run will have."""
    if len(looks) < 2:
        return None
    now = looks[-1]
    planned = max(planned, len(looks))
    level = LEVEL / (planned * (planned - 1) / 2)
    found: list[Drift] = []
    for then in looks[:-1]:
        shared = [name for name in now.eye if name in then.eye]
        if len(shared) < MIN_PROMPTS:
            continue
        rose = [now.reward[name] - then.reward[name] for name in shared]
        fell = [then.eye[name] - now.eye[name] for name in shared]
        if above_zero(rose) < LEVEL and above_zero(fell) < level:
            reward, eye = (
                (fmean(before[name] for name in shared), fmean(after[name] for name in shared))
                for before, after in ((then.reward, now.reward), (then.eye, now.eye))
            )
            found.append(Drift(since=then.step, now=now.step, reward=reward, eye=eye))
    return max(found, key=lambda one: one.eye[0], default=None)


def gains(
    answers: Iterable[tuple[str, str, float, float]], before: Mapping[str, Sequence[float]]
) -> list[dict[str, Any]]:
    """The answers (prompt, text, reward, the other eye's value) that are most to be looked at: above the mean
    reward `before` training of their prompt, and below what the other eye gave to its answers then; those
    first for which the product of both distances, which knows no scale, is largest.

    >>> found = gains([("p", "ha ha", 0.75, 0.25), ("p", "well", 0.75, 0.75)], {"p": (0.25, 0.5)})
    >>> [(one["answer"], one["reward_before"], one["eye_before"]) for one in found]
    [('ha ha', 0.25, 0.5)]
    """
    found: dict[tuple[str, str], tuple[float, dict[str, Any]]] = {}
    for prompt, text, reward, eye in answers:
        if prompt not in before:
            continue
        then, seen = before[prompt]
        if reward > then and eye < seen:
            told = {"prompt_id": prompt, "answer": text, "reward": reward, "eye": eye}
            told |= {"reward_before": then, "eye_before": seen}
            found[prompt, text] = ((reward - then) * (seen - eye), told)
    order = sorted(found, key=lambda key: (-found[key][0], key))
    return [found[key][1] for key in order[:MOST_GAINS]]
