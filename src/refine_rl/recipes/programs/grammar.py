"""The functions of the recipe `programs`: a request in words, the code that does it, and how code goes wrong.

A function keeps some numbers of a list, changes each, and makes one thing of all. Which three parts those are
is its template; a hash of the template says to which split it belongs, so that no held-out function does what
one of training does, though each of its parts occurs there.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

SPLITS = ("train", "validation", "held_out")

KEEP = {  # words, condition on x, and the condition that hurried people write
    "all": ("the numbers in xs", "", ""),
    "even": ("the even numbers in xs", "x % 2 == 0", "x % 2 == 0"),
    "odd": ("the odd numbers in xs", "x % 2 == 1", "x % 2 == 1"),
    "positive": ("the positive numbers in xs", "x > 0", "x >= 0"),
    "negative": ("the negative numbers in xs", "x < 0", "x < 0"),
    "above": ("the numbers in xs above {k}", "x > {k}", "x > {k}"),
    "below": ("the numbers in xs below {k}", "x < {k}", "x < {k}"),
    "at_least": ("the numbers in xs that are at least {k}", "x >= {k}", "x > {k}"),
    "at_most": ("the numbers in xs that are at most {k}", "x <= {k}", "x < {k}"),
    "multiple": ("the multiples of {k} in xs", "x % {k} == 0", "x % {k} == 0"),
    "other": ("the numbers in xs other than {k}", "x != {k}", "x != {k}"),
}
CHANGE = {  # words behind "after", and the expression
    "same": ("", "x"),
    "square": ("squaring each", "x * x"),
    "double": ("doubling each", "x * 2"),
    "times": ("multiplying each by {m}", "x * {m}"),
    "plus": ("adding {m} to each", "x + {m}"),
    "minus": ("taking {m} from each", "x - {m}"),
    "negate": ("negating each", "-x"),
    "absolute": ("taking the absolute value of each", "abs(x)"),
    "remainder": ("taking the remainder of each by {m}", "x % {m}"),
}
MAKE = {  # words, code around the generator {g}, and the code that hurried people write
    "sum": ("the sum of", "sum({g})", "sum({g})"),
    "count": ("the number of different values among", "len(set({g}))", "len([{g}])"),
    "largest": ("the largest of (0 if none)", "max(({g}), default=0)", "max({g})"),
    "smallest": ("the smallest of (0 if none)", "min(({g}), default=0)", "min({g})"),
    "list": ("the list of", "[{g}]", "[{g}]"),
    "ascending": ("in ascending order", "sorted({g})", "sorted({g})"),
    "descending": ("in descending order", "sorted(({g}), reverse=True)", "sorted({g})"),
    "reversed": ("in reversed order", "[{g}][::-1]", "[{g}]"),
    "first": ("the first two of", "[{g}][:2]", "[{g}][:2]"),
    "last": ("the last two of", "[{g}][-2:]", "[{g}][-2:]"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Function:
    """One function: what is asked, its right code, and its three parts with their numbers."""

    request: str
    code: str
    keep: str
    change: str
    make: str
    k: int
    m: int

    @property
    def template(self) -> str:
        return f"{self.keep}/{self.change}/{self.make}"


def draw_function(rng: random.Random, split: str = "train") -> Function:
    """A function of that split."""
    while True:
        keep, change, make = (rng.choice(list(parts)) for parts in (KEEP, CHANGE, MAKE))
        if split_of(f"{keep}/{change}/{make}") == split:
            return function(keep, change, make, rng.randint(2, 9), rng.randint(2, 9))


def function(keep: str, change: str, make: str, k: int, m: int) -> Function:
    """
    >>> print(function("even", "square", "sum", 2, 2).code)
    def f(xs):
        return sum(x * x for x in xs if x % 2 == 0)
    """
    words = f"{MAKE[make][0]} {KEEP[keep][0]}"
    if change != "same":
        words += f", after {CHANGE[change][0]}"
    return Function(
        request=f"Return {words}.".format(k=k, m=m),
        code=code_of(MAKE[make][1], CHANGE[change][1], KEEP[keep][1], k, m),
        keep=keep,
        change=change,
        make=make,
        k=k,
        m=m,
    )


def code_of(make: str, change: str, keep: str, k: int, m: int) -> str:
    """The code of these three pieces."""
    condition = f" if {keep.format(k=k)}" if keep else ""
    items = f"{change.format(m=m)} for x in xs{condition}"
    return f"def f(xs):\n    return {make.format(g=items)}"


def hurried(rng: random.Random, of: Function) -> str:
    """Its code as hurried people write it: wrong where the request has an edge (a bound that belongs to it,
    an empty list, equal values, an order), and now and then wrong somewhere else."""
    keep, change, make = KEEP[of.keep][2], CHANGE[of.change][1], MAKE[of.make][2]
    slip = rng.random()
    if slip < 0.08:
        keep = ""
    elif slip < 0.16:
        change = "x"
    elif slip < 0.24:
        make = MAKE[rng.choice(list(MAKE))][2]
    return code_of(make, change, keep, of.k, of.m)


def split_of(template: str) -> str:
    """The split that owns a template: one in ten is validation, two are held out."""
    bucket = hashlib.blake2b(template.encode(), digest_size=4).digest()[0] % 10
    return "validation" if bucket == 0 else "held_out" if bucket in (1, 2) else "train"
