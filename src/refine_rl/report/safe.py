"""Text of any origin, safe to print."""

from __future__ import annotations

import re

# What could move the cursor, recolour the screen or reverse the text: control characters but line end and
# tab, marks of writing direction, and halves of surrogate pairs.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    """Text of a model, a file or a judge, safe to print on a terminal.

    >>> print(shown("red: \\x1b[31m"))
    red: \\x1b[31m
    """
    return _UNSAFE.sub(lambda unsafe: repr(unsafe[0])[1:-1], text)
