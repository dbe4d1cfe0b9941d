"""Prompts of the recipe `style`: "rewrite this message in that style", from a grammar.

`messages.toml` holds templates and words, `styles.toml` the styles; both can be edited. A split owns
word combinations: the first two words that fill a template decide, by a hash, to which split the
message belongs, so no split ever shows a pair of words that belongs to another one. The pairing
`UNSEEN` of a style and a topic occurs in the held-out prompts only.
"""

from __future__ import annotations

import hashlib
import random
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SPLITS = ("train", "validation", "held_out")
UNSEEN = ("pirate", "weather")
UNSEEN_SHARE = 8
"""One held-out prompt in this many is of the unseen pairing."""
INSTRUCTIONS = (
    "Rewrite this message {how}: {text}",
    "Rewrite the text {how}.\nText: {text}",
    "Say this {how}: {text}",
    "{text}\nRewrite the message above {how}.",
    "How would you say this {how}? {text}",
    "Turn this into {kind}: {text}",
    "Please rephrase {how}: {text}",
    "Style: {kind}. Message: {text}",
)
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A text to rewrite, the topic it came from and the words in its slots, in order."""

    text: str
    topic: str
    words: tuple[str, ...]


@cache
def styles() -> Mapping[str, Mapping[str, Any]]:
    """The styles by name, as `styles.toml` has them."""
    return tomllib.loads((HERE / "styles.toml").read_text(encoding="utf-8"))


@cache
def grammar() -> tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]:
    """The words by list and the templates by topic, as `messages.toml` has them."""
    data = tomllib.loads((HERE / "messages.toml").read_text(encoding="utf-8"))
    words = {name: tuple(text.split()) for name, text in data["words"].items()}
    return words, {topic: tuple(templates) for topic, templates in data["topics"].items()}


def draw_message(rng: random.Random, topic: str | None = None) -> Message:
    """A random message, of the given topic or of any."""
    words, topics = grammar()
    topic = topic or rng.choice(tuple(topics))
    template = rng.choice(topics[topic])
    used: list[str] = []
    for slot in _SLOT.findall(template):
        used.append(rng.choice([word for word in words[slot] if word not in used]))
    return Message(text=fill(template, used), topic=topic, words=tuple(used))


def fill(template: str, words: list[str]) -> str:
    """The template with its slots filled from left to right.

    >>> fill("The {animal} ate the {dish}.", ["cat", "soup"])
    'The cat ate the soup.'
    """
    rest = iter(words)
    text = _SLOT.sub(lambda _: next(rest), template)
    return text[0].upper() + text[1:]


def split_of(words: tuple[str, ...]) -> str:
    """The split that owns a message: a hash of its first two words, whatever their order.

    One message in ten is validation, two are held out.
    """
    pair = "|".join(sorted(word.lower() for word in words[:2]))
    bucket = hashlib.blake2b(pair.encode(), digest_size=4).digest()[0] % 10
    return "validation" if bucket == 0 else "held_out" if bucket in (1, 2) else "train"


def instruct(rng: random.Random, style: str, text: str) -> str:
    """The request to rewrite `text` in `style`, in one of several forms."""
    entry = styles()[style]
    return rng.choice(INSTRUCTIONS).format(how=rng.choice(entry["how"]), kind=entry["kind"], text=text)


def prompts(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` different prompts of a split; the same ones for the same seed.

    A prompt's `data` has what the rules need: `style` and `source`. Its facets are `style`, `topic`
    and `pairing` ("seen" or "unseen" in training).
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    rng = random.Random(f"style/{split}/{seed}")
    names = tuple(styles())
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        unseen = split == "held_out" and len(found) % UNSEEN_SHARE == UNSEEN_SHARE - 1
        style = UNSEEN[0] if unseen else names[len(found) % len(names)]
        message = draw_message(rng, UNSEEN[1] if unseen else None)
        if split_of(message.words) != split or message.text in found:
            continue
        if not unseen and (style, message.topic) == UNSEEN:
            continue
        found[message.text] = {
            "prompt": instruct(rng, style, message.text),
            "facets": {
                "style": style,
                "topic": message.topic,
                "pairing": "unseen" if unseen else "seen",
            },
            "data": {"style": style, "source": message.text},
        }
    return list(found.values())
