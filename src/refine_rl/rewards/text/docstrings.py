"""A docstring taken apart: its summary, and what its sections name, in Google, NumPy or reST style.

The sections are read by the package docstring-parser, which tells the styles apart by what they give.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Style = Literal["google", "numpy", "rest"]

_LINES, _WIDTH, _BRACKETS = 400, 300, 5  # what is read: the parser's patterns take their time on worse
_FENCE = re.compile(r"\A```[\w-]*[ \t]*\n(.*?)\n?```\Z", re.DOTALL)
_QUOTED = re.compile(r"""\A[rR]?(\"{3}|'{3})(.*?)\1?\Z""", re.DOTALL)
_TITLES = (
    "arg(?:ument)?s?|other arguments|other parameters|param(?:eter)?s?|keyword arg(?:ument)?s|returns?|"
    "yields?|raises?|except(?:ion)?s?|attributes|examples?|notes?|warn(?:ing)?s?|see also|references"
)
_GOOGLE = re.compile(rf"^[ \t]*(?:{_TITLES}):[ \t]*$", re.IGNORECASE)
_NUMPY = re.compile(rf"^[ \t]*(?:{_TITLES})[ \t]*$", re.IGNORECASE)
_DASHES = re.compile(r"^[ \t]*-{3,}[ \t]*$")
_FIELD = re.compile(
    r"^[ \t]*:(?:param(?:eter)?|arg(?:ument)?|key(?:word)?|type|returns?|rtype|yields?|raises?|"
    r"except(?:ion)?|attribute|[ic]?var|deprecated)\b[^:]*:"
)
_NAME = re.compile(r"\\?\*{0,2}\\?\*?(\w+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Docstring:
    """`text` is the docstring alone, without quotes or a fence around it; `summary` what stands before its
    first section.

    `marks` counts the headings and fields of sections by style, and `described` is the share of their entries
    that have a description, in the style with the most marks. `parameters` and `raises` are the names of
    entries, `returns` the text of what is returned or yielded, None without such a section.
    """

    text: str
    summary: str
    marks: dict[Style, int]
    described: float
    parameters: tuple[str, ...]
    returns: str | None
    raises: tuple[str, ...]

    @property
    def style(self) -> Style | None:
        """That of most of its headings and fields; None without any."""
        best = max(self.marks, key=lambda style: self.marks[style])
        return best if self.marks[best] else None


def bare(text: str) -> str:
    """The docstring alone: without a Markdown fence and without quotes around it.

    >>> bare('```python\\n\\"\\"\\"Adds.\\"\\"\\"\\n```')
    'Adds.'
    """
    text = text.strip()
    if fenced := _FENCE.match(text):
        text = fenced[1].strip()
    if quoted := _QUOTED.match(text):
        text = quoted[2]
    if _GOOGLE.match(text.lstrip().split("\n", 1)[0]):  # what is indented below belongs to that heading
        return text.strip()
    return inspect.cleandoc(text).strip()


def read_docstring(text: str) -> Docstring:
    """
    >>> found = read_docstring("Adds.\\n\\nArgs:\\n    a: One.\\n    b: Other.\\n\\nReturns:\\n    The sum.")
    >>> found.style, found.summary, found.parameters, found.returns
    ('google', 'Adds.', ('a', 'b'), 'The sum.')
    """
    text = bare(text)
    lines = [_tame(line) for line in text.split("\n")[:_LINES]]
    numpy = [i for i in range(len(lines) - 1) if _NUMPY.match(lines[i]) and _DASHES.match(lines[i + 1])]
    google = [i for i, line in enumerate(lines) if _GOOGLE.match(line)]
    rest = [i for i, line in enumerate(lines) if _FIELD.match(line)]
    places: dict[Style, list[int]] = {"google": google, "numpy": numpy, "rest": rest}
    first = min((i for found in places.values() for i in found), default=len(lines))
    marks = {style: len(found) for style, found in places.items()}
    entries = (
        _entries("\n".join(lines), max(marks, key=lambda style: marks[style])) if any(marks.values()) else []
    )
    parameters = [
        e.arg_name for e in entries if e.args and _is(e, "DocstringParam") and e.args[0] != "attribute"
    ]
    returns = [e.description or e.type_name or "" for e in entries if _is(e, "DocstringReturns")]
    raises = [e.type_name for e in entries if _is(e, "DocstringRaises") and e.type_name]
    return Docstring(
        text=text,
        summary="\n".join(lines[:first]).strip(),
        marks=marks,
        described=sum(map(_is_described, entries)) / len(entries) if entries else 0.0,
        parameters=tuple(name for given in parameters for name in _names(given)),
        returns=" ".join(returns).strip() if returns else None,
        raises=tuple(
            name.strip().rpartition(".")[2] for given in raises for name in re.split(r"[,|]| or ", given)
        ),
    )


def _tame(line: str) -> str:
    line = line[:_WIDTH]
    return line if line.count("(") <= _BRACKETS else line.replace("(", " ")


def _entries(text: str, style: Style) -> list[Any]:
    """What docstring-parser makes of the sections; nothing where it cannot."""
    import docstring_parser

    by: dict[Style, Callable[[str], Any]] = {
        "google": docstring_parser.google.parse,
        "numpy": docstring_parser.numpydoc.parse,
        "rest": docstring_parser.rest.parse,
    }
    try:
        return list(by[style](f"Summary.\n\n{text}").meta)
    except (docstring_parser.ParseError, re.error, ValueError, IndexError):
        return []


def _is(entry: Any, kind: str) -> bool:
    return type(entry).__name__ == kind


def _is_described(entry: Any) -> bool:
    if _is(entry, "DocstringExample"):
        return bool(entry.snippet or entry.description)
    return bool((entry.description or "").strip()) or (
        _is(entry, "DocstringReturns") and bool(entry.type_name)
    )


def _names(given: str) -> list[str]:
    """`x, y` and `*args` of an entry by their names; what is no name stays as it is."""
    found = []
    for part in given.split(","):
        match = _NAME.fullmatch(part.strip())
        found.append(match[1] if match else part.strip())
    return [name for name in found if name]
