"""Functions of a source file, each with its docstring and its code without it. Read by `ast`, never run."""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef
_LARGEST = 2_000_000  # bytes of a file; larger ones are data


class UnreadError(Exception):
    """Why a file is not read, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Function:
    """A function with a docstring. `name` is qualified (`JSONEncoder.encode`), `docstring` without its
    indentation, `node` the parsed function as it stood there, `inner` whether it lies in another function."""

    name: str
    docstring: str
    line: int
    node: AnyFunction
    inner: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file that was read: its lines, its functions with a docstring, the number of all of its functions."""

    lines: list[str]
    documented: list[Function]
    functions: int


def read_source(path: Path) -> Source:
    """A file's functions. Raises UnreadError with the reason: its encoding (PEP 263), null bytes, the syntax
    of another version of Python."""
    text = _text(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes and the like; not our code
            every = list(_functions(ast.parse(text), "", inner=False))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        what = getattr(error, "msg", None) or str(error)
        raise UnreadError(f"line {line}: {what}" if line else what) from None
    except (RecursionError, MemoryError):
        raise UnreadError("nested too deeply") from None
    documented = [
        Function(name=name, docstring=inspect.cleandoc(doc), line=_first_line(node), node=node, inner=inner)
        for name, node, inner in every
        if (doc := docstring_of(node)) is not None and doc.strip()
    ]
    return Source(lines=text.split("\n"), documented=documented, functions=len(every))


def docstring_of(node: AnyFunction) -> str | None:
    """The function's own docstring as it is written, or None."""
    first = node.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    value = first.value.value if is_text else None  # type: ignore[attr-defined]
    return value if isinstance(value, str) else None


def code_of(function: Function, lines: list[str]) -> str | None:
    """The function's code without its docstring, as it is written: decorators, comments and form stay, a
    method stands at the margin. None where it cannot be taken out so that the rest means the same.

    >>> source = 'class A:\\n    def f(self):  # why\\n        "Say it."\\n        return 1\\n'
    >>> node = ast.parse(source).body[0].body[0]
    >>> method = Function(name="A.f", docstring="Say it.", line=2, node=node, inner=False)
    >>> print(code_of(method, source.split("\\n")))
    def f(self):  # why
        return 1
    """
    node, (doc, *rest) = function.node, function.node.body
    if not rest:
        return None
    end = doc.end_lineno or doc.lineno
    kept = [(number, lines[number - 1]) for number in range(function.line, doc.lineno)]
    after = [(number, lines[number - 1]) for number in range(end + 1, (node.end_lineno or end) + 1)]
    if rest[0].lineno == end:  # "Say it."; return 1
        line = _cut(lines[doc.lineno - 1], end=doc.col_offset) + _cut(
            lines[end - 1], start=rest[0].col_offset
        )
        kept.append((end, line))
    else:
        while after and not after[0][1].strip():
            after.pop(0)
    kept += after
    margin = kept[0][1][: len(kept[0][1]) - len(kept[0][1].lstrip())]
    wanted = [*rest]
    # The lines within a text of several lines may look indented, and are not.
    for texts in (frozenset[int](), _lines_in_texts(node) if margin else None):
        if texts is not None:
            stripped = (line if number in texts else line.removeprefix(margin) for number, line in kept)
            code = "\n".join(stripped).rstrip()
            if _is(code, node, wanted):
                return code
    return None


def _is(code: str, node: AnyFunction, body: list[ast.stmt]) -> bool:
    """Whether the code is `node` with that body."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (found,) = ast.parse(code).body
        return (
            isinstance(found, type(node))
            and _same(found.body, body)
            and all(_same(getattr(found, f), getattr(node, f)) for f in node._fields if f != "body")
        )
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _same(one: object, other: object) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, ast.AST):
        return all(_same(getattr(one, f, None), getattr(other, f, None)) for f in one._fields)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


def _lines_in_texts(node: AnyFunction) -> frozenset[int]:
    """The lines that begin within a text (a constant or an f-string) of several lines."""
    found: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant | ast.JoinedStr):
            found.update(range(inner.lineno + 1, (inner.end_lineno or inner.lineno) + 1))
    return frozenset(found)


def _cut(line: str, *, start: int = 0, end: int | None = None) -> str:
    """A part of a line by ast's places, which count bytes of UTF-8."""
    return line.encode()[start:end].decode()


def _first_line(node: AnyFunction) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _functions(node: ast.AST, prefix: str, *, inner: bool) -> Iterator[tuple[str, AnyFunction, bool]]:
    """Every function below a node, in the file's order, with its qualified name, and whether it is in another
    function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, AnyFunction):
            name = f"{prefix}{child.name}"
            yield name, child, inner
            yield from _functions(child, f"{name}.", inner=True)
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.", inner=inner)
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _functions(child, prefix, inner=inner)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadError(f"cannot be read: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise UnreadError(f"more than {_LARGEST:,} bytes")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise UnreadError(f"its encoding: {error}") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
