"""What a further look sees otherwise, where there is no group whose order could change.

At temperature 0 an equal request gets an equal reply, and looks that are copies of each other agree about
nothing. So every look after the first reads the points of the rubric in another order, every second one the
answer before what it was given to, and each names itself by an opaque sign: no two looks at one answer are
the same request. The first look is laid out as it stands in the texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from refine_rl.randomness import generator

_POINT = re.compile(r"[-*+]\s")
LETTERS = "abcdefghjkmnpqrstuvwxyz"
_SIGNS = LETTERS + "23456789"
_SIGN_LENGTH = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """How one look sees what it judges: the rubric as it reads it, its own sign ("" for the first look), and
    whether the material stands before its context.

    >>> View(rubric="- Be brief.").laid_out("the question", "the answer")
    'the question\\n\\nthe answer'
    >>> View(rubric="- Be brief.", sign="k7x2mq", turned=True).laid_out("the question", "the answer")
    'Reading k7x2mq: judge afresh.\\n\\nthe answer\\n\\nthe question'
    """

    rubric: str
    sign: str = ""
    turned: bool = False

    def laid_out(self, context: str, material: str) -> str:
        """The text of the request; an empty part is left out."""
        parts = (material, context) if self.turned else (context, material)
        first = f"Reading {self.sign}: judge afresh." if self.sign else ""
        return "\n\n".join(part for part in (first, *parts) if part)


def view_of(look: int, *, rubric: str, seed: int, context: str) -> View:
    """The view of look number `look`. It follows from (seed, context, look) alone: all answers of a group are
    seen alike in a look, so that they can be held against each other."""
    if look == 0:
        return View(rubric=rubric)
    draw = generator(seed, "view", blake2b(context.encode(), digest_size=16).hexdigest(), look)
    sign = opaque(draw, _SIGN_LENGTH)
    return View(rubric=_in_another_order(rubric, draw), sign=sign, turned=look % 2 == 1)


def opaque(draw: np.random.Generator, length: int) -> str:
    """A name that says nothing, of letters and digits that cannot be taken for each other."""
    return "".join(_SIGNS[i] for i in draw.integers(len(_SIGNS), size=length))


def all_different(count: int, draw: Callable[[], str]) -> list[str]:
    """So many names as `draw` gives them, no two the same."""
    names: list[str] = []
    while len(names) < count:
        if (new := draw()) not in names:
            names.append(new)
    return names


def _in_another_order(rubric: str, draw: np.random.Generator) -> str:
    """The rubric with the points of each of its lists in another order; what stands indented below a point
    goes with it. Numbered lists stay: their order may mean something."""
    found: list[str] = []
    points: list[str] = []

    def close() -> None:
        if len(points) > 1:
            order = [int(place) for place in draw.permutation(len(points))]
            if order == sorted(order):
                order.reverse()
            points[:] = [points[place] for place in order]
        found.extend(points)
        points.clear()

    for line in rubric.split("\n"):
        if _POINT.match(line):
            points.append(line)
        elif points and line[:1] in (" ", "\t") and line.strip():
            points[-1] += f"\n{line}"
        else:
            close()
            found.append(line)
    close()
    return "\n".join(found)
