"""Rules of the recipe `style`: each looks at one completion and gives a score in [0, 1] and a reason.

The parameters `style` and `source` come from the prompt's data. Multiply the components: each alone
can be had by doing something silly (closers without end, a plain copy), all together cannot.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from refine_rl.types import Score

EXTRA_WORDS = 18
"""A rewrite may have this many words more than its source."""
_WORD = re.compile(r"[a-z0-9]+(?:['’-][a-z0-9]+)*")
_FUNCTION_WORDS_TEXT = """a an the this that these those there there's here it it's its i i'm me my mine
we us our you your he she they them his her their who which what where when and or but so because if than
then as of to in on at by for from with into is are am be was were been being do does did has have had
will would shall should can could may must please too also just now over all"""
_FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_TEXT.split())


@cache
def _styles() -> Mapping[str, Mapping[str, Any]]:
    return tomllib.loads((Path(__file__).parent / "styles.toml").read_text(encoding="utf-8"))


def _entry(style: str) -> Mapping[str, Any]:
    try:
        return _styles()[style]
    except KeyError:
        raise ValueError(f"unknown style {style!r}: styles.toml has {', '.join(_styles())}") from None


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation.

    >>> words_of("Ahoy, matey! Don't drop Ben's x-ray.")
    ['ahoy', 'matey', "don't", 'drop', "ben's", 'x-ray']
    """
    return _WORD.findall(text.lower().replace("’", "'"))


def content_words(text: str) -> list[str]:
    """The words that carry the meaning, in order.

    >>> content_words("The cat is on my chair.")
    ['cat', 'chair']
    """
    return [word for word in words_of(text) if word not in _FUNCTION_WORDS]


def find_marks(text: str, marks: Sequence[str]) -> list[str]:
    """The marks that occur in the text as whole words, each once.

    >>> find_marks("Arr, shiver me timbers! Arr!", ["arr", "timbers", "me", "ye"])
    ['arr', 'timbers', 'me']
    """
    line = f" {' '.join(words_of(text))} "
    return [mark for mark in marks if f" {' '.join(words_of(mark))} " in line]


def style(prompt: str, completion: str, style: str, source: str) -> Score:
    """How much of the requested style there is: different marks found / marks needed.

    Halved for each mark that only other styles use; scaled down when a style that is written in
    lines has too few of them. Marks that the source itself contains do not count.
    """
    entry = _entry(style)
    in_source = set(find_marks(source, [mark for other in _styles().values() for mark in other["marks"]]))
    own = [mark for mark in find_marks(completion, entry["marks"]) if mark not in in_source]
    known = in_source | set(entry["marks"])
    foreign = [
        mark
        for name, other in _styles().items()
        if name != style
        for mark in find_marks(completion, other["marks"])
        if mark not in known
    ]
    value = min(1.0, len(own) / entry["needed"]) * 0.5 ** len(foreign)
    why = f"{len(own)} of {entry['needed']} marks of {style} ({', '.join(own) or 'none'})"
    if foreign:
        why += f"; marks of another style: {', '.join(foreign)}"
    if "lines" in entry:
        lines = sum(bool(line.strip()) for line in completion.splitlines())
        value *= min(1.0, lines / entry["lines"])
        why += f"; {lines} of {entry['lines']} lines"
    return Score(value=value, explanation=why)


def fidelity(prompt: str, completion: str, style: str, source: str) -> Score:
    """The share of the source's content words that the completion keeps, in their order.

    A word that the style may swap (`swaps` in styles.toml) may appear as its replacement.
    """
    swaps = _entry(style).get("swaps", {})
    wanted = content_words(source)
    if not wanted:
        return Score(value=1.0, explanation="the source has no content words")
    accepted = [{word, *words_of(swaps.get(word, ""))} for word in wanted]
    kept = _longest_common(accepted, words_of(completion))
    lost = [word for word, there in zip(wanted, kept, strict=True) if not there]
    why = f"{len(wanted) - len(lost)} of {len(wanted)} content words kept in order"
    if lost:
        why += f"; lost: {', '.join(lost)}"
    return Score(value=1 - len(lost) / len(wanted), explanation=why)


def _longest_common(accepted: Sequence[set[str]], words: Sequence[str]) -> list[bool]:
    """Which of `accepted` take part in a longest common subsequence with `words`."""
    rows, columns = len(accepted), len(words)
    best = [[0] * (columns + 1) for _ in range(rows + 1)]  # best[i][j]: of accepted[i:] and words[j:]
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            if words[j] in accepted[i]:
                best[i][j] = best[i + 1][j + 1] + 1
            else:
                best[i][j] = max(best[i + 1][j], best[i][j + 1])
    kept, i, j = [False] * rows, 0, 0
    while i < rows and j < columns:
        if words[j] in accepted[i]:
            kept[i] = True
            i, j = i + 1, j + 1
        elif best[i + 1][j] >= best[i][j + 1]:
            i += 1
        else:
            j += 1
    return kept


def length(prompt: str, completion: str, source: str) -> Score:
    """1 from the source's number of words to `EXTRA_WORDS` more; falls to 0 on either side."""
    n, low = len(words_of(completion)), len(words_of(source))
    high = low + EXTRA_WORDS
    value = n / low if n < low else max(0.0, 1 - (n - high) / EXTRA_WORDS) if n > high else 1.0
    return Score(value=value, explanation=f"{n} words; {low} to {high} are asked for")


def no_repetition(prompt: str, completion: str, source: str) -> Score:
    """1 without a repeated pair of neighbouring words; halved for each repeat.

    Pairs of function words ("on the") and those that the source itself repeats are free.
    """
    free = Counter(_pairs(source))
    extra = {pair: n - max(1, free[pair]) for pair, n in Counter(_pairs(completion)).items()}
    again = {pair: n for pair, n in extra.items() if n > 0}
    why = "repeated: " + ", ".join(" ".join(pair) for pair in again) if again else "no word pair repeated"
    return Score(value=0.5 ** sum(again.values()), explanation=why)


def _pairs(text: str) -> list[tuple[str, str]]:
    words = words_of(text)
    return [pair for pair in pairwise(words) if not _FUNCTION_WORDS.issuperset(pair)]


def no_instruction(prompt: str, completion: str, source: str) -> Score:
    """0 when four words in a row of the instruction (the prompt without the source) are copied."""
    instruction = f" {' '.join(words_of(prompt.replace(source, ' ')))} "
    words = words_of(completion)
    allowed = f" {' '.join(words_of(source))} "
    for start in range(len(words) - 3):
        run = f" {' '.join(words[start : start + 4])} "
        if run in instruction and run not in allowed:
            return Score(value=0.0, explanation=f"copied from the instruction: {run.strip()}")
    return Score(value=1.0, explanation="nothing copied from the instruction")
