"""Prompts of the recipe `summaries`: notes and reports to sum up, from a grammar (`notes.toml`).

The subject and the first two facts of a text decide, by a hash, to which split it belongs.
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
FACTS, FILLERS = 6, 5
"""Sentences of each sort in a text."""
INSTRUCTIONS = (
    "Summarise this text in at most 60 words.\n\n{text}",
    "{text}\n\nSum up the text above in at most 60 words.",
    "What does somebody who was not there need to know? Answer in at most 60 words.\n\n{text}",
    "Write a summary of no more than 60 words.\n\nText:\n{text}",
)
_SLOT = re.compile(r"\{([a-z]+)(\d?)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """What a text says, as a question, its answer, and the list of words that the answer is from."""

    ask: str
    answer: str
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Notes:
    """A text to sum up, of what kind it is, and the facts in it."""

    text: str
    kind: str
    facts: tuple[Fact, ...]


@cache
def grammar() -> Mapping[str, Any]:
    """`notes.toml`: the words by list, and the sentences by kind of text."""
    return tomllib.loads((HERE / "notes.toml").read_text(encoding="utf-8"))


def draw_notes(rng: random.Random, kind: str) -> Notes:
    """A random text of a kind: `FACTS` sentences that say something, `FILLERS` that do not.

    No entry of a list is used twice in a text, so that each answer stands in it once.
    """
    words, sentences = grammar()["words"], grammar()["kinds"][kind]
    left = {name: rng.sample(entries, len(entries)) for name, entries in words.items()}
    title, _ = _fill(sentences["title"], left)
    chosen = [sentences["facts"][i] for i in sorted(rng.sample(range(len(sentences["facts"])), FACTS))]
    facts, said = [], []
    for fact in chosen:
        text, used = _fill(fact["say"], left)
        facts.append(Fact(ask=fact["ask"], answer=used[fact["answer"]], words=tuple(words[fact["answer"]])))
        said.append(text)
    for text in rng.sample(sentences["filler"], FILLERS):
        said.insert(rng.randint(0, len(said)), text)
    return Notes(text=f"{title}\n\n{' '.join(said)}", kind=kind, facts=tuple(facts))


def _fill(template: str, left: Mapping[str, list[str]]) -> tuple[str, dict[str, str]]:
    """The template with its slots filled from the lists, and the entry of each slot."""
    used = {name + number: left[name].pop() for name, number in _SLOT.findall(template)}
    text = _SLOT.sub(lambda slot: used[slot[1] + slot[2]], template)
    return text[0].upper() + text[1:], used


def split_of(notes: Notes) -> str:
    """The split that owns a text: a hash of its title and its first two answers; one text in ten is
    validation, two are held out."""
    key = "|".join([notes.text.split("\n")[0], *(fact.answer for fact in notes.facts[:2])])
    bucket = hashlib.blake2b(key.encode(), digest_size=4).digest()[0] % 10
    return "validation" if bucket == 0 else "held_out" if bucket in (1, 2) else "train"


def prompts(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` different prompts of a split, as many of each kind; the same ones for the same seed.

    `data` has the text as `source`: the quiz asks about it.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    rng = random.Random(f"summaries/{split}/{seed}")
    kinds = tuple(grammar()["kinds"])
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        notes = draw_notes(rng, kinds[len(found) % len(kinds)])
        if split_of(notes) == split and notes.text not in found:
            found[notes.text] = {
                "prompt": rng.choice(INSTRUCTIONS).format(text=notes.text),
                "facets": {"kind": notes.kind},
                "data": {"source": notes.text},
            }
    return list(found.values())
