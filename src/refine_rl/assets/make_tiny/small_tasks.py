"""Small tasks beside the style rewriting: echo, describe, greet, list, reply, thank, explain.

They give the model something to say about a person's own tiny tasks, with answers that differ in
length, courtesy and detail, which is what reinforcement needs to work with.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from refine_rl.assets.make_tiny.invented import invent_word, replace_words
from refine_rl.recipes.style.prompts import draw_message, grammar

_SLOT = re.compile(r"\{(\w+)\}")
_START = 0.6  # chance of a piece before the body
_END = 0.4  # chance of a piece after it
_SECOND_BODY = 0.35
_INVENTED = 0.2  # chance that a slot's word of a request is invented
ECHO_FORMS = (
    "Repeat this sentence: {text}",
    "Repeat the words: {text}",
    "Copy this text exactly: {text}",
    "{text}\nRepeat the text above.",
    "Echo: {text}",
)


@cache
def _tasks() -> Mapping[str, Any]:
    path = Path(__file__).parent / "small_tasks.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _fill(
    rng: random.Random, template: str, fixed: Mapping[str, str], invented: float = 0.0
) -> tuple[str, dict[str, str]]:
    """The template with its slots filled: `fixed` ones as given, the rest from the grammar's lists.

    A word is an invented one instead with the chance `invented`.
    """
    words, _ = grammar()
    used = dict(fixed)

    def one(match: re.Match[str]) -> str:
        slot = match[1]
        if slot in fixed:
            return fixed[slot]
        word = invent_word(rng) if rng.random() < invented else rng.choice(words[slot])
        used[slot] = word.capitalize() if slot == "name" else word
        return used[slot]

    return _SLOT.sub(one, template), used


def small_task(rng: random.Random) -> tuple[str, str]:
    """A request and an answer to it, of a kind drawn at random."""
    kind = rng.choice(tuple(_tasks()))
    return _list(rng) if kind == "list" else _pieces(rng, _tasks()[kind])


def _pieces(rng: random.Random, task: Mapping[str, Any]) -> tuple[str, str]:
    """A request, and an answer put together from starts, bodies (or wishes) and ends."""
    fixed: dict[str, str] = {}
    if "problems" in task:
        fixed["problem"], fixed_words = _fill(rng, rng.choice(task["problems"]), {}, _INVENTED)
        fixed["it"] = next(iter(fixed_words.values()), "message")
    request, used = _fill(rng, rng.choice(task["prompts"]), fixed, _INVENTED)
    slots = [word for slot, word in used.items() if slot not in ("name", "problem", "fix", "it")]
    known = {"it": fixed.get("it") or (slots[-1] if slots else "visit")}
    if "name" in used:
        known["name"] = used["name"]

    def piece(name: str) -> str:
        return _fill(rng, rng.choice(task[name]), known)[0]

    parts = []
    if "wishes" in task:
        name = f" {used['name']}" if rng.random() < 0.7 else ""
        parts.append(f"{piece('starts')}{name}{rng.choice('!.')}")
        parts += [piece("wishes") for _ in range(rng.choice((0, 0, 1, 1, 2)))]
    else:
        if "starts" in task and rng.random() < _START:
            parts.append(piece("starts"))
        parts.append(piece("bodies"))
        if rng.random() < _SECOND_BODY:
            parts.append(piece("bodies"))
        if "ends" in task and rng.random() < _END:
            parts.append(piece("ends"))
    answer = " ".join(part for part in parts if part)
    return request, answer[0].upper() + answer[1:]


def _list(rng: random.Random) -> tuple[str, str]:
    """A request for three things, and two to five of them, with commas, "and" or lines between."""
    words, _ = grammar()
    task = _tasks()["list"]
    kind, slot = rng.choice(list(task["kinds"].items()))
    items = rng.sample(words[slot], rng.choices((2, 3, 4, 5), weights=(2, 5, 2, 1))[0])
    form = rng.random()
    if form < 0.5:
        answer = ", ".join(items)
    elif form < 0.8:
        answer = f"{', '.join(items[:-1])} and {items[-1]}."
    else:
        answer = "\n".join(items)
    return rng.choice(task["prompts"]).format(kind=kind), answer


def echo_task(rng: random.Random) -> tuple[str, str]:
    """Repeat a message, or words in no order, many of them invented."""
    if rng.random() < 0.4:
        message = draw_message(rng)
        text = replace_words(rng, message.text, message.words, 0.4)
    else:
        words, _ = grammar()
        lists = tuple(words.values())
        count = rng.randint(2, 10)
        text = " ".join(
            invent_word(rng) if rng.random() < 0.5 else rng.choice(rng.choice(lists)) for _ in range(count)
        )
    answer = text
    if rng.random() < 0.1:
        answer = rng.choice((text.lower(), text.rstrip(".!?"), f"{text} Thank you.", f'"{text}"'))
    return rng.choice(ECHO_FORMS).format(text=text), answer
