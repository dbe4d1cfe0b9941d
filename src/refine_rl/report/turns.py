"""What each model said turn by turn in a world of several turns, from its answers on record.

What a policy has discovered shows here first: where it says the same in its first turn again and again, what
it says is a plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from refine_rl.report.data import share
from refine_rl.run import RunFolder
from refine_rl.types import End, Outcome, Played, Trajectory, mean_of

TURNS = 6  # that are shown, from the first on
FREQUENT = 5  # answers that are named
LONGEST = 40  # characters of one

_ENDS: dict[End, str] = {"done": "done", "limit": "ended by a limit", "failed": "the world failed"}
_SIDES = {"base": "base", "sft": "after SFT", "tuned": "tuned"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A turn of one model: the share of its trajectories that came so far, the mean reward of the turn (None
    where the world saw it nowhere), how many different answers it gave, and the most frequent ones with their
    shares."""

    label: str
    reached: float
    reward: float | None
    different: int
    frequent: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """The turns with what each model said in them; and a line a model on how its trajectories ended."""

    rows: tuple[tuple[int, tuple[Said, ...]], ...]
    ends: tuple[str, ...]


def turns(run: RunFolder) -> Turns | None:
    """What the sampled answers to the held-out prompts were; None where no model took several turns."""
    found = {label: _sampled(run.outcomes(side) or ()) for side, label in _SIDES.items()}
    played = {label: games for label, games in found.items() if games}
    longest = max((len(t.answers) for games in played.values() for t, _ in games), default=0)
    if longest < 2:
        return None
    return Turns(
        rows=tuple(
            (
                n + 1,
                tuple(
                    said_in(n, label, games)
                    for label, games in played.items()
                    if any(len(t.answers) > n for t, _ in games)
                ),
            )
            for n in range(min(TURNS, longest))
        ),
        ends=tuple(how_ended(label, games) for label, games in played.items()),
    )


Game = tuple[Trajectory, Played]


def _sampled(outcomes: Sequence[Outcome]) -> list[Game]:
    return [(t, t.played) for o in outcomes for t, _ in o.sampled if t.played is not None]


def said_in(place: int, label: str, games: Sequence[Game]) -> Said:
    """Turn `place`, counted from 0, of those of the games that came so far, at least one."""
    said = [" ".join(t.answers[place].split()) for t, _ in games if len(t.answers) > place]
    given = [played.rewards[place] for _, played in games if len(played.rewards) > place]
    counted = Counter(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…" for text in said)
    # Among equally frequent ones the order of the texts, so that the page is the same each time.
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return Said(
        label=label,
        reached=len(said) / len(games),
        reward=mean_of(given) if given else None,
        different=len(counted),
        frequent=tuple((text, count / len(said)) for text, count in ordered[:FREQUENT]),
    )


def how_ended(label: str, games: Sequence[Game]) -> str:
    """The shares of the ends, and the mean number of turns.

    >>> import refine_rl.types as types
    >>> done = types.Trajectory(prompt_id="p", member=0, messages=(), segments=(), stop_reason="stop",
    ...                         played=types.Played(rewards=(0.0, 1.0), end="done"))
    >>> print(how_ended("tuned", [(done, done.played)]).replace(chr(160), " "))
    tuned: 2.0 turns on average; done 100 %.
    """
    ends = Counter(played.end for _, played in games)
    mean = mean_of([max(len(t.answers), len(played.rewards)) for t, played in games])
    shares = (f"{what} {share(ends[end] / len(games))}" for end, what in _ENDS.items() if ends[end])
    return f"{label}: {mean:.1f} turns on average; {', '.join(shares)}."
