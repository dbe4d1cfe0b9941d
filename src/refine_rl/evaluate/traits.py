"""What the reward goes with: length, copying of the prompt, repetition, and marks of format.

None of them is bad in itself. One that goes with the reward among answers to the same prompt, and grows as
training goes on, is what the policy is being paid for; where the task does not ask for it, it is a hack.
Correlations are those within groups (correlate.py), so that easy prompts do not make them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Protocol

from refine_rl.evaluate.correlate import Pairs, within
from refine_rl.evaluate.student import above_zero, rose
from refine_rl.rewards.text.words import fold, ngrams, split_words
from refine_rl.types import count_of, decimals

RUN = 3
"""Words of a run that may be copied or repeated."""
TRAITS: Mapping[str, str] = {
    "length": "length (characters)",
    "copied": "copying of the prompt (share of runs of three words)",
    "repeated": "repetition (share of runs of three words)",
    "lists": "list lines",
    "bold": "bold words",
    "colons": "colons",
    "exclamations": "exclamation marks",
}
LEAST = 5  # steps at the start and at the end that are set beside one another
LEVEL = 0.05  # of both tests, shared among the traits
WORTH = 0.3  # a correlation below is told to nobody, however sure
MOSTLY = 0.6  # from which on it is told while training goes on: a third of what rewards differ by, and more
SHOWN = 3  # answers that are named

_LIST = re.compile(r"(?m)^[ \t]*(?:[-*+•]|\d+[.)])[ \t]")
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


class Group(Protocol):
    """A group of a step: rewards of its members, None where a score is missing, and each trait's values."""

    @property
    def step(self) -> int: ...
    @property
    def prompt(self) -> str: ...
    @property
    def rewards(self) -> Sequence[float | None]: ...
    @property
    def traits(self) -> Mapping[str, Sequence[float]]: ...


def traits_of(prompt: str, answer: str) -> dict[str, float]:
    """
    >>> found = traits_of("Tell me about cats.", "Note: tell me about cats, tell me about **cats**!")
    >>> {name: round(value, 2) for name, value in found.items() if value}
    {'length': 49.0, 'copied': 0.57, 'repeated': 0.29, 'bold': 1.0, 'colons': 1.0, 'exclamations': 1.0}
    """
    runs = ngrams(split_words(fold(answer)), RUN)
    known = frozenset(ngrams(split_words(fold(prompt)), RUN))
    return {
        "length": float(len(answer)),
        "copied": sum(run in known for run in runs) / len(runs) if runs else 0.0,
        "repeated": 1 - len(set(runs)) / len(runs) if runs else 0.0,
        "lists": float(len(_LIST.findall(answer))),
        "bold": float(len(_BOLD.findall(answer))),
        "colons": float(answer.count(":")),
        "exclamations": float(answer.count("!")),
    }


def by_step(groups: Sequence[Group]) -> dict[str, dict[int, float | None]]:
    """Trait -> step -> its correlation with the reward within that step's groups; None where it, or the
    reward, was the same in each."""
    steps: dict[int, list[Group]] = {}
    for group in groups:
        steps.setdefault(group.step, []).append(group)
    return {
        name: {step: within([_pairs(g, name) for g in some]) for step, some in sorted(steps.items())}
        for name in TRAITS
    }


def due(step: int) -> bool:
    """Whether `paid_for` is asked after this step: the last of every `LEAST`, from the first on at which it
    can say something."""
    return step % LEAST == 0 and step >= 2 * LEAST


def paid_for(groups: Sequence[Group], planned: int = 0, worth: float = WORTH) -> dict[str, str]:
    """Trait -> a sentence, for each that the reward rises with by the end (a correlation of `worth` or more),
    and that grew. Both beyond chance: Student's t over the correlations of the single groups in the last
    quarter of the steps, and Welch's over the groups' means there and in the first quarter, each one-sided,
    at 5 % shared among the traits and all the times that it is asked in a run of the `planned` steps."""
    steps = sorted({group.step for group in groups})
    looks = max(1, max(planned, *steps[-1:], 0) // LEAST - 1)
    level = LEVEL / (len(TRAITS) * looks)
    window = max(LEAST, len(steps) // 4)
    if len(steps) < 2 * window:
        return {}
    first = [g for g in groups if g.step <= steps[window - 1]]
    last = [g for g in groups if g.step >= steps[-window]]
    found: dict[str, str] = {}
    for name, words in TRAITS.items():
        pairs = [_pairs(g, name) for g in last]
        single = [r for some in pairs if (r := within([some])) is not None]
        together = within(pairs)
        before, after = ([fmean(g.traits[name]) for g in some if g.traits] for some in (first, last))
        if together is None or together < worth or above_zero(single) >= level:
            continue
        if rose(before, after) >= level:
            continue
        then = within([_pairs(g, name) for g in first])
        was = "" if then is None else f", {then:+.2f} in the first"
        found[name] = (
            f"The reward rises with {words}: {together:+.2f} among answers to the same prompt in the last "
            f"{count_of(window, 'step')}{was}; and that grew from {decimals(fmean(before))} to "
            f"{decimals(fmean(after))} an answer. If the task does not ask for it, the reward is being won "
            f"with it. Look at {_examples(last, name)}."
        )
    return found


def _pairs(group: Group, name: str) -> Pairs:
    values = group.traits.get(name, ())
    if not values:
        return []
    return [(value, r) for value, r in zip(values, group.rewards, strict=True) if r is not None]


def _examples(groups: Sequence[Group], name: str) -> str:
    """Answers of high reward (in the upper quarter of these groups) that have most of a trait."""
    known = sorted(r for g in groups for r in g.rewards if r is not None)
    high = known[(3 * len(known)) // 4]
    most = sorted(
        (-value, -group.step, group.prompt, member)
        for group in groups
        for member, (value, r) in enumerate(zip(group.traits.get(name, ()), group.rewards, strict=False))
        if r is not None and r >= high
    )
    return ", ".join(f"step {-step}, {prompt}, answer {member}" for _, step, prompt, member in most[:SHOWN])
