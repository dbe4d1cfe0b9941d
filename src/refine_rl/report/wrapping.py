"""Lines that fit a terminal: broken between words, and commands so that a shell takes them back whole."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import cell_len

_VERBS = (
    "demo|train|sft|recipes|init|prompts|plan|check|score|eval|compare|report|replay|runs|chat|play|export|"
    "bench"  # as cli/__init__.py
)
# A command: in backticks up to their end; else, at a line's beginning or behind a colon, up to the end of
# the line or of the sentence; or a whole line that begins with a variable's value.
_COMMAND = re.compile(
    rf"`(?:\S*refine|\S+ -m refine_rl) (?:{_VERBS})\b[^`]*`"
    rf"|(?:(?<=: )|^ *)(?:\S*refine|\S+ -m refine_rl) (?:{_VERBS})\b.*?(?=[.;,] |$)"
    r"|^ *[A-Z][A-Z0-9_]*=\S+ \w.*$"
)
_WORD = re.compile(  # of a command: what is quoted stays in one, and a flag with its value
    r"(?:--[\w-]+ (?!-))?(?:'[^']*'|[^\s'])(?:'[^']*'|\S)*"
)
_PLAIN = re.compile(
    r"\[[^\s\[\]]+, [^\s\[\]]+\]\S*|\S+"
)  # of other text: both ends of an interval stay together
LEAST = 30  # columns for a text, however narrow the terminal is


def wrap(text: str, width: int, *, first: int = 0, under: int | None = None) -> str:
    """The text in lines of at most `width` columns.

    A line is broken between words; what goes on stands under its beginning, or in column `under`. `first` is
    how many columns of the first line are taken already. A word that is longer than a line is left whole: the
    terminal goes on with it below, and whoever copies it gets it in one piece. A command goes on behind a
    backslash, so that it can be copied too.

    >>> print(wrap("one two three", 30), wrap("note  " + "long words " * 4, 30, under=6), sep="\\n")
    one two three
    note  long words long words
          long words long words
    >>> print(wrap("To go on: refine train --resume runs/a --set grpo.steps=9", 40))
    To go on: refine train --resume runs/a \\
      --set grpo.steps=9
    >>> print(wrap("GPU=1 vllm serve a/b --port 8000 --dtype bfloat16", 40))
    GPU=1 vllm serve a/b --port 8000 \\
      --dtype bfloat16
    """
    lines: list[str] = []
    for number, line in enumerate(text.split("\n")):
        taken = first if number == 0 else 0
        lines += _broken(line, max(width, LEAST), taken, under)
    return "\n".join(lines)


def _broken(line: str, width: int, taken: int, under: int | None) -> Iterator[str]:
    """The lines that one line becomes."""
    if taken + cell_len(line) <= width:
        yield line
        return
    start = len(line) - len(line.lstrip())
    column = start if under is None else under
    column = min(column, width - LEAST // 2)
    made, used = line[:start], taken + start
    empty = taken == 0
    for gap, word, in_command in _words(line[start:]):
        end = 2 if in_command else 0  # room for the backslash
        if not empty and used + len(gap) + cell_len(word) + end > width:
            yield made + (" \\" if in_command and gap else "")
            left = width - end - cell_len(word)  # a long word moves to the left before it is broken
            made = " " * min(column + 2 * in_command, left if left >= 0 else width)
            used, gap = len(made), ""
        made, used, empty = made + gap + word, used + len(gap) + cell_len(word), False
    yield made


def _words(text: str) -> Iterator[tuple[str, str, bool]]:
    """The gap before each word, the word, and whether it goes on a command that the word before it began."""
    place = 0
    for command in _COMMAND.finditer(text):
        yield from ((gap, word, False) for gap, word in _apart(text[place : command.start()], _PLAIN))
        before = text[place : command.start()]
        gap = before[len(before.rstrip()) :]
        for number, (own, word) in enumerate(_apart(command[0], _WORD)):
            yield (gap if number == 0 else own), word, number > 0
        place = command.end()
    yield from ((gap, word, False) for gap, word in _apart(text[place:], _PLAIN))


def _apart(text: str, form: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    place = 0
    for word in form.finditer(text):
        yield text[place : word.start()], word[0]
        place = word.end()
