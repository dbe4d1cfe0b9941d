"""A trajectory of several turns as a dialogue, on the page and in the terminal: who said what, the reward of
each turn, and how it ended. It is the same for every world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refine_rl.report.data import number
from refine_rl.types import Dialogue

FOLDED_FROM = 9  # turns: longer dialogues show the first and the last ones
SHOWN_BEFORE, SHOWN_BEHIND = 3, 3
LONG = 60  # characters of a text that has no room beside another


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """What the policy said in turn `number`, and what the world said to it; `reward` is None where the world
    did not see the turn."""

    number: int
    said: str
    heard: str
    reward: float | None


def exchanges(dialogue: Dialogue) -> list[Exchange]:
    """The turns of a dialogue.

    >>> from refine_rl.types import Played
    >>> game = Dialogue(played=Played(rewards=(0.0, 1.0), end="done"), messages=(
    ...     {"role": "assistant", "content": "25"}, {"role": "user", "content": "higher"},
    ...     {"role": "assistant", "content": "31"}))
    >>> [(e.number, e.said, e.heard, e.reward) for e in exchanges(game)]
    [(1, '25', 'higher', 0.0), (2, '31', '', 1.0)]
    """
    found: list[tuple[str, list[str]]] = []
    for message in dialogue.messages:
        if message["role"] == "assistant" or not found:
            found.append((message["content"], []))
        else:
            found[-1][1].append(message["content"])
    rewards = dialogue.played.rewards
    return [
        Exchange(
            number=n + 1,
            said=said,
            heard="\n".join(heard),
            reward=rewards[n] if n < len(rewards) else None,
        )
        for n, (said, heard) in enumerate(found)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Laid:
    """A dialogue as it is laid out: the first turns, those that are folded away, the last ones; whether some
    text is `long`, so that what was said and what came back stand below one another; how it ended."""

    before: Sequence[Exchange]
    between: Sequence[Exchange]
    behind: Sequence[Exchange]
    long: bool
    ending: str


def laid_out(dialogue: Dialogue) -> Laid:
    """How the page and the terminal show a dialogue (page.js lays those of the rollouts out in the same
    way)."""
    found = exchanges(dialogue)
    first, last = (
        (SHOWN_BEFORE, len(found) - SHOWN_BEHIND) if len(found) >= FOLDED_FROM else (len(found),) * 2
    )
    return Laid(
        before=found[:first],
        between=found[first:last],
        behind=found[last:],
        long=any(len(text) > LONG or "\n" in text for e in found for text in (e.said, e.heard)),
        ending=ending(dialogue),
    )


def ending(dialogue: Dialogue) -> str:
    """How a dialogue ended, in words.

    >>> from refine_rl.types import Played
    >>> ending(Dialogue(messages=(), played=Played(rewards=(0.0,) * 5, end="limit", why="5 turns")))
    'ended by a limit after 5 turns: 5 turns'
    """
    played = dialogue.played
    turns = sum(m["role"] == "assistant" for m in dialogue.messages) or len(played.rewards)
    how = {"done": "done", "limit": "ended by a limit", "failed": "the world failed"}[played.end]
    return f"{how} after {turns} turn{'' if turns == 1 else 's'}" + (f": {played.why}" if played.why else "")


def told(dialogue: Dialogue) -> str:
    """A dialogue in one line: what was said, what came back, and how it ended.

    >>> from refine_rl.types import Played
    >>> print(told(Dialogue(played=Played(rewards=(0.0, 1.0), end="done"), messages=(
    ...     {"role": "assistant", "content": "25"}, {"role": "user", "content": "higher"},
    ...     {"role": "assistant", "content": "31"}, {"role": "user", "content": "right"}))))
    25 → higher · 31 → right (done after 2 turns)
    """
    laid = laid_out(dialogue)
    turns = [_arrow(e) for e in laid.before]
    if laid.between:
        turns.append(f"… {len(laid.between)} more turns …")
    return f"{' · '.join([*turns, *map(_arrow, laid.behind)])} ({laid.ending})"


def _arrow(exchange: Exchange) -> str:
    said, heard = (" ".join(text.split()) for text in (exchange.said, exchange.heard))
    return f"{said or '(nothing)'} → {heard}" if heard else said or "(nothing)"


def lines(dialogue: Dialogue) -> list[str]:
    """A dialogue for the terminal, a turn a line with its reward, and how it ended."""
    found = [
        f"{e.number:>2}  {_arrow(e)}" + ("" if e.reward is None else f"  [{number(e.reward, sign=True)}]")
        for e in exchanges(dialogue)
    ]
    return [*found, ending(dialogue)]
