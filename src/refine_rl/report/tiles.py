"""Coloured tiles for what a world says of letters: "1s+ 2p+ 3a- 4r? 5e+" or "s+ p+ a- r? e+", a sign and its
mark each, perhaps with its place before it. The world's words stay plain, for the model; only people see
tiles.
"""

from __future__ import annotations

import re

from rich.text import Text

_TILE = re.compile(r"\d?(\w)([+?-])")
_COLOURS = {"+": "bold white on green", "?": "bold black on yellow", "-": "bold white on grey37"}
_FEWEST = 3  # signs, lest a word like "c++" becomes a tile


def tiles(text: str) -> list[tuple[str, str]]:
    """Signs and their marks; [] for a text that is anything else.

    >>> tiles("1s+ 2p+ 3a-"), tiles("s+ is right")
    ([('S', '+'), ('P', '+'), ('A', '-')], [])
    """
    found = [_TILE.fullmatch(word) for word in text.split()]
    signs = [(tile[1].upper(), tile[2]) for tile in found if tile]
    return signs if len(signs) == len(found) >= _FEWEST else []


def tiled(text: str) -> Text | None:
    """The tiles for a terminal; where it has no colours the marks stand beside the signs. None where the text
    has none."""
    signs = tiles(text)
    if not signs:
        return None
    line = Text()
    for sign, mark in signs:
        line.append(f" {sign}{mark if mark != '-' else ' '}", style=_COLOURS[mark])
        line.append(" ")
    return line
