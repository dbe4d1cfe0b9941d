"""Coloured tiles in what a world says: on the page, in the terminal, in `refine play`. The text stays what it
is everywhere else: in files, and for the policy. A world writes tiles in one of two ways.

- 🟩 🟨 ⬛ ⬜ 🟥 🟦, anywhere. A tile behind a letter, a digit or a sign ("S🟩P🟩A🟨R🟨E⬛") is shown as
  that character on a square of its colour; a tile behind another tile, a blank or nothing ("🟩🟩🟨🟨⬛") is
  a square by itself.
- Three or more signs with marks in a row, a blank between them: "1s+ 2p+ 3a- 4r? 5e+" or "s+ p+ a- r? e+". A
  sign with its mark, perhaps with its place before it: + green, ? yellow, - black.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rich.text import Text

TILES = {"🟩": "green", "🟨": "yellow", "⬛": "black", "⬜": "white", "🟥": "red", "🟦": "blue"}
_TILE = re.compile(f"([^\\s{''.join(TILES)}])?([{''.join(TILES)}])\ufe0f?")
_MARKED = re.compile(r"(\s*)\d?(\w)([+?-])")
_ROW = re.compile(r"(?<!\S)\d?\w[+?-](?:\s+\d?\w[+?-]){2,}(?!\S)")  # three, lest a word like "c++" is one
_MARKS = {"+": "green", "?": "yellow", "-": "black"}
_INK = {  # in the terminal: letters on a square
    "green": "bold white on rgb(47,125,71)",
    "yellow": "bold black on rgb(222,178,59)",
    "black": "bold white on rgb(82,88,94)",
    "white": "bold black on rgb(222,224,226)",
    "red": "bold white on rgb(178,52,60)",
    "blue": "bold white on rgb(43,98,168)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A part of a text: plain where `colour` is "", else what stands on one tile."""

    text: str
    colour: str = ""


def pieces(text: str) -> list[Piece]:
    """A text in its order, tiles apart (page.js does the same).

    >>> [(p.text, p.colour) for p in pieces("S🟩p⬛ no 🟨🟨")]
    [('S', 'green'), ('p', 'black'), (' no ', ''), ('', 'yellow'), ('', 'yellow')]
    >>> [(p.text, p.colour) for p in pieces("no: 1s+ 2p? 3a-")]
    [('no: ', ''), ('S', 'green'), ('P', 'yellow'), ('A', 'black')]
    """
    found: list[Piece] = []
    end = 0
    for row in _ROW.finditer(text):
        found += [*_squares(text[end : row.start()]), *_marked(row[0])]
        end = row.end()
    return [*found, *_squares(text[end:])]


def _marked(row: str) -> Iterator[Piece]:
    """The tiles of a row of signs with marks; of what stands between them, line ends alone."""
    for sign in _MARKED.finditer(row):
        if "\n" in sign[1]:
            yield Piece(text=sign[1])
        yield Piece(text=sign[2].upper(), colour=_MARKS[sign[3]])


def _squares(text: str) -> Iterator[Piece]:
    """A text in which tiles are written as such."""
    end = 0
    for tile in _TILE.finditer(text):
        if tile.start() > end:
            yield Piece(text=text[end : tile.start()])
        yield Piece(text=tile[1] or "", colour=TILES[tile[2]])
        end = tile.end()
    if end < len(text):
        yield Piece(text=text[end:])


def tinted(text: str, style: str = "") -> Text:
    """A text for a terminal with colours, in a `style`, its tiles in colour; `text` is safe to print."""
    found = Text()
    for piece in pieces(text):
        if piece.colour:
            found.append(f" {piece.text or ' '} ", _INK[piece.colour])
        else:
            found.append(piece.text, style)
    return found
