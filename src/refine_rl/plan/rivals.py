"""What the rivals of the tuned model take: answers sampled, groups scored, thoughts of an LLM."""

from __future__ import annotations

from dataclasses import dataclass

from refine_rl.plan.counts import Counts
from refine_rl.settings import Settings
from refine_rl.settings.evaluate import MINIBATCH, TRIED_EACH, measured_prompts

Range = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class RivalGroups:
    """Groups of `answers` that are scored to make a rival or, for the best of n, to choose: low and high."""

    rival: str
    groups: Range
    answers: int


def rival_groups(settings: Settings, counts: Counts, *, relative: bool) -> list[RivalGroups]:
    """Of every rival that the settings name. Where a reward is `relative`, a prompt's trials stand beside the
    base model's answers."""
    found, n, most = [], settings.best_of, settings.rival_calls
    for name in settings.evaluate.rivals:
        if name == "best_of_n":
            groups, answers = counts.held_out * settings.evaluate.samples, n
            found.append(RivalGroups(rival=name, groups=(groups, groups), answers=answers))
        elif name == "sft":
            groups = min(counts.train, max(1, most // n))
            found.append(RivalGroups(rival=name, groups=(groups, groups), answers=n))
        else:
            answers = TRIED_EACH * (2 if relative else 1)
            least = 2 * measured_prompts(counts.train, most // answers)
            found.append(
                RivalGroups(rival=name, groups=(least, max(least, most // answers)), answers=answers)
            )
    return found


def thoughts(settings: Settings, counts: Counts, *, relative: bool) -> Range:
    """How often an LLM writes another system prompt: once where a first text is enough, at most in as many
    rounds as rival_calls allows."""
    if "prompt" not in settings.evaluate.rivals or not settings.reflects:
        return 0, 0
    answers = TRIED_EACH * (2 if relative else 1)
    most = settings.rival_calls // answers
    rounds = (most - 2 * measured_prompts(counts.train, most)) // MINIBATCH
    return min(1, rounds), max(0, rounds)


def sampled(settings: Settings, counts: Counts, *, relative: bool) -> list[Range]:
    """(prompts, answers to each) that are sampled for the rivals in all, at most: while they are made, and
    when they answer the held-out prompts."""
    samples, found = settings.evaluate.samples, []
    for one in rival_groups(settings, counts, relative=relative):
        found.append((one.groups[1], one.answers))
        if one.rival != "best_of_n":
            found += [(counts.held_out, samples), (counts.held_out, 1)]
    return found
