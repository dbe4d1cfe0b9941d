"""The corpus: documents made from grammars, as many as wanted, from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from refine_rl.assets.make_tiny.invented import invent_word, replace_words
from refine_rl.assets.make_tiny.rewriting import attempt
from refine_rl.assets.make_tiny.small_tasks import echo_task, small_task
from refine_rl.recipes.dots.prompts import count_task, repeat_task
from refine_rl.recipes.dots.prompts import split_of as split_of_letters
from refine_rl.recipes.style.prompts import (
    UNSEEN,
    Message,
    draw_message,
    grammar,
    instruct,
    split_of,
    styles,
)

KINDS = {"style": 0.56, "dots": 0.18, "echo": 0.11, "small": 0.15}
INVENTED = 0.5
"""Share of the messages to rewrite in which some words are exchanged for invented ones."""
FREE = 0.3
"""Share of the messages that follow no template, so that any text can be copied."""
SYSTEM = 0.08
"""Share of the documents with a system message; style requests: that name the style there too."""
_SMALL_WORDS = """the a an my your his her our their and or but so because if when while with without for
from of to in on at by about into over under we you they he she it I is are was were has have had will
would can could should not never only also just too there here this that some any every more less than
all"""
_SYSTEMS = ("You are a helpful assistant.", "Answer briefly.", "You are polite.", "Follow the instruction.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A chat of one turn: what is asked, what is answered, and an optional system message."""

    request: str
    answer: str
    system: str = ""


def documents(seed: int) -> Iterator[Document]:
    """Documents without end; the same ones for the same seed.

    The style messages and letter rows that the recipes hold out never occur.
    """
    rng = random.Random(f"tiny/{seed}")
    while True:
        kind = rng.choices(list(KINDS), weights=list(KINDS.values()))[0]
        if kind == "style":
            yield style_document(rng)
            continue
        if kind == "dots":
            request, answer = _dots(rng)
        else:
            request, answer = echo_task(rng) if kind == "echo" else small_task(rng)
        yield Document(request=request, answer=answer, system=_system(rng))


def style_document(rng: random.Random) -> Document:
    """A message to rewrite and an attempt at it, often an imperfect one."""
    style = rng.choice(tuple(styles()))
    if rng.random() < FREE:
        text = _spliced(rng, style) if rng.random() < 0.6 else _shuffled(rng)
    else:
        message = _train_message(rng, style)
        text = message.text
        if rng.random() < INVENTED:
            text = replace_words(rng, text, message.words, rng.choice((0.3, 0.6, 0.9)))
    answer = attempt(rng, text, style)
    if rng.random() < SYSTEM:
        how = rng.choice(styles()[style]["how"])
        return Document(request=text, answer=answer, system=f"Rewrite every message {how}.")
    return Document(request=instruct(rng, style, text), answer=answer, system=_system(rng))


def _spliced(rng: random.Random, style: str) -> str:
    """Pieces of two messages, small words between them, single words exchanged."""
    first, second = (_train_message(rng, style).text for _ in range(2))
    head, tail = first.rstrip(".?!").split(), second.split()
    small_words = _SMALL_WORDS.split()
    words = head[: rng.randint(1, len(head))]
    words += rng.sample(small_words, rng.randint(0, 2))
    words += tail[rng.randint(0, len(tail) - 1) :]
    for _ in range(rng.choice((0, 0, 1, 2))):
        place = rng.randrange(len(words))
        words[place] = rng.choice((invent_word(rng), rng.choice(small_words), str(rng.randint(1, 2030))))
    text = " ".join(words[: rng.randint(12, 20)])
    return text[0].upper() + text[1:]


def _shuffled(rng: random.Random) -> str:
    """Four to fourteen words in no order, a third invented, with a stop or a comma here and there."""
    words, _ = grammar()
    lists, small_words = tuple(words.values()), _SMALL_WORDS.split()
    parts = []
    for _ in range(rng.randint(4, 14)):
        draw = rng.random()
        if draw < 0.35:
            word = rng.choice(small_words)
        else:
            word = invent_word(rng) if draw < 0.68 else rng.choice(rng.choice(lists))
        parts.append(word + rng.choices(("", ",", "."), weights=(20, 2, 1))[0])
    text = " ".join(parts).rstrip(",.") + rng.choice(".....?!")
    return text[0].upper() + text[1:]


def _train_message(rng: random.Random, style: str) -> Message:
    while True:
        message = draw_message(rng)
        if split_of(message.words) == "train" and (style, message.topic) != UNSEEN:
            return message


def _dots(rng: random.Random) -> tuple[str, str]:
    """A request of the recipe `dots` and an answer, right in about half of the cases."""
    counting = rng.random() < 0.75
    while True:
        request, answer, key = count_task(rng) if counting else repeat_task(rng)
        if split_of_letters(key) == "train":
            break
    return request, _count_answer(rng, int(answer)) if counting else _pattern_answer(rng, answer)


def _count_answer(rng: random.Random, right: int) -> str:
    draw = rng.random()
    if draw < 0.6:
        number = right
    elif draw < 0.85:
        number = right + 1
    else:
        number = max(1, right + rng.choice((-2, -1, 2)))
    form = rng.random()
    return str(number) if form < 0.5 else f"There are {number} dots." if form < 0.8 else f"{number} dots"


def _pattern_answer(rng: random.Random, right: str) -> str:
    items = right.split()
    draw = rng.random()
    if draw < 0.45:
        answer = right
    elif draw < 0.7:
        answer = " ".join(items[:3])
    elif draw < 0.85:
        answer = " ".join(items[: rng.randint(2, len(items))])
    else:
        answer = " ".join([*items, *items[:3]])
    return f"The pattern is {answer}" if rng.random() < 0.2 else answer


def _system(rng: random.Random) -> str:
    return rng.choice(_SYSTEMS) if rng.random() < SYSTEM else ""
