"""The part of a docstring that is to be learnt: its first sentence, its first paragraph, or all of it."""

from __future__ import annotations

import re
from typing import Literal

Part = Literal["sentence", "paragraph", "all"]

_DOCTEST = re.compile(r"^\s*>>>")
# A section of the Google style ("Args:"), a field of reST (":param x:"), a directive (".. note::").
_SECTION = re.compile(
    r"^\s*(?:(?:Args|Arguments|Parameters|Params|Keyword Args|Returns?|Yields?|Raises?|Examples?|Usage|"
    r"Notes?|Attributes|References|See Also|Warnings?|Todo|Other Parameters)\s*:\s*$|(?!:\w+:`)"
    r"[:@]\w+[^:]*:|\.\. \w+)",
    re.IGNORECASE,
)
_UNDERLINE = re.compile(r"^\s*(?:-{3,}|={3,}|~{3,})\s*$")
_ROLE = re.compile(r":(?:\w+:)?[a-z]+:`~?([^`]*)`")  # :meth:`~json.loads`
_SIGNATURE = re.compile(r"^[\w.]+\(.*\)(?:\s*->.*)?\s*$")
# The end of a sentence: not behind a shortened word, an initial or the number of a list.
_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)(?<!\bno)(?<!\bresp)(?<!\b[A-Z])(?<!^\d)"
    r"[.!?][)\"'`]*(?=\s+[A-Z`'\"(:*]|\s*$)",
)


def part_of(docstring: str, part: Part) -> str:
    """That part of a clean docstring; "" where it has none (a docstring of examples alone).

    A sentence and a paragraph are one line, and end before sections, fields, directives and examples; a
    signature above them is left out, and a role of reST is what it names.

    >>> text = "Return :attr:`x`, e.g. 3. It is cached.\\n\\nArgs:\\n    y: why"
    >>> part_of(text, "sentence"), part_of(text, "paragraph")
    ('Return `x`, e.g. 3.', 'Return `x`, e.g. 3. It is cached.')
    >>> part_of(">>> f(1)\\n2", "all")
    ''
    """
    if part == "all":
        return docstring.strip() if _prose(docstring) else ""
    paragraph = _paragraph(docstring)
    if part == "paragraph":
        return paragraph
    end = _END.search(paragraph)
    return paragraph[: end.end()] if end else paragraph


def _paragraph(docstring: str) -> str:
    for block in re.split(r"\n[ \t]*\n", docstring.strip()):
        lines: list[str] = []
        for line in block.split("\n"):
            if _SECTION.match(line) or _DOCTEST.match(line):
                break
            if _UNDERLINE.match(line):  # what is above is a heading
                lines = lines[:-1]
                break
            lines.append(line.strip())
        text = _ROLE.sub(r"`\1`", " ".join(" ".join(lines).split()))
        if not _SIGNATURE.match(text):
            return text
    return ""


def _prose(docstring: str) -> bool:
    """Whether a docstring has more than examples."""
    blocks = re.split(r"\n[ \t]*\n", docstring.strip())
    return any(block.strip() and not _DOCTEST.match(block) for block in blocks)
