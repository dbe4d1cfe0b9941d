"""Invented words. A model that must copy words which occur nowhere else learns to copy."""

from __future__ import annotations

import random
import re

_ONSETS = """b bl br c ch cl cr d dr f fl fr g gl gr h j k kl l m n p pl pr qu r s sc sh sk sl sp st t th tr v
w y z"""
_VOWELS = "a e i o u a e i o u ai au ea ee ie oa oo ou y"
_CODAS = "b ck d ff g k l ll m mp n nd ng nt p r rd rk rm rt s sh sk ss st t tch x z"
_ENDINGS = "er or ing ed ly ness ment tion able ful ist ity ous ette ware ship le"
_NO_CODA = 0.1
_NO_ENDING = 0.26


def invent_word(rng: random.Random) -> str:
    """One to three syllables, often with an English ending; now and then letters at random."""
    if rng.random() < 0.1:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7)))
    stem = "".join(_syllable(rng) for _ in range(rng.choice((1, 1, 1, 2, 2, 3))))
    return stem if rng.random() < _NO_ENDING else stem + rng.choice(_ENDINGS.split())


def _syllable(rng: random.Random) -> str:
    coda = "" if rng.random() < _NO_CODA else rng.choice(_CODAS.split())
    return rng.choice(_ONSETS.split()) + rng.choice(_VOWELS.split()) + coda


def replace_words(rng: random.Random, text: str, words: tuple[str, ...], share: float) -> str:
    """The text with each of `words` exchanged for an invented one with probability `share`.

    A word keeps its capital letter.
    """
    for word in words:
        if rng.random() < share:
            new = invent_word(rng)
            if word[0].isupper():
                new = new.capitalize()
            text = re.sub(rf"\b{re.escape(word)}\b", new, text, count=1)
    return text[0].upper() + text[1:]
