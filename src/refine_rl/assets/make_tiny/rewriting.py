"""Answers to "rewrite this message in that style": perfect ones, and the many ways to fall short."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from refine_rl.assets.make_tiny.invented import invent_word
from refine_rl.recipes.style.prompts import styles

_STARTERS = """The My We Your Our Please There Hey You Someone Somebody Nobody Take Where Is Can Are
After Because Tell Drink"""
"""First words of messages that lose their capital letter behind an opener."""


def rewrite(rng: random.Random, text: str, style: str) -> str:
    """A full rewrite: an opener of the style, the message with some words swapped, a closer."""
    entry = styles()[style]
    return _join(style, rng.choice(entry["openers"]), swap(rng, text, style), rng.choice(entry["closers"]))


def swap(rng: random.Random, text: str, style: str, share: float = 0.8) -> str:
    """The text with words that the style swaps exchanged, each with probability `share`."""
    swaps = styles()[style].get("swaps", {})

    def one(match: re.Match[str]) -> str:
        word = match[0]
        new = swaps.get(word.lower())
        if new is None or rng.random() > share:
            return word
        return new.capitalize() if word[0].isupper() else str(new)

    return re.sub(r"[A-Za-z']+", one, text)


def attempt(rng: random.Random, text: str, style: str) -> str:
    """An answer as the corpus has it: about half literal, a sixth perfect, the rest flawed."""
    entry, others = styles()[style], [name for name in styles() if name != style]
    ways: dict[Callable[[], str], float] = {
        lambda: text: 0.49,
        lambda: rewrite(rng, text, style): 0.17,
        lambda: _join(style, rng.choice(entry["openers"]), text, ""): 0.08,
        lambda: _join(style, "", text, rng.choice(entry["closers"])): 0.06,
        lambda: swap(rng, text, style): 0.04,
        lambda: rewrite(rng, text, rng.choice(others)): 0.09,
        lambda: _lost_words(rng, text, style): 0.04,
        lambda: _closers_again(rng, text, style): 0.03,
    }
    return rng.choices(list(ways), weights=list(ways.values()))[0]()


def _closers_again(rng: random.Random, text: str, style: str) -> str:
    closer = rng.choice(styles()[style]["closers"])
    return " ".join([rewrite(rng, text, style), closer, closer])


def _lost_words(rng: random.Random, text: str, style: str) -> str:
    """Styled, but some words of the message are gone or are other words."""
    words = text.split(" ")
    for _ in range(rng.randint(1, 2)):
        place = rng.randrange(len(words))
        words[place : place + 1] = [invent_word(rng)] if rng.random() < 0.2 else []
        words = words or [text]
    return rewrite(rng, " ".join(words), style)


def _join(style: str, opener: str, body: str, closer: str) -> str:
    """Opener, body and closer: on lines of their own where the style has lines, else in one."""
    first, _, rest = body.partition(" ")
    if opener and first in _STARTERS.split():
        body = f"{first.lower()} {rest}"
    return ("\n" if "lines" in styles()[style] else " ").join(part for part in (opener, body, closer) if part)
