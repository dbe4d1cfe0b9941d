"""Tests as text -> set-up and assertions, without running anything."""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
from collections.abc import Iterator
from dataclasses import dataclass

_SHOWN = 100  # characters of an assertion
_APART = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


class BadTests(Exception):  # noqa: N818
    """The tests cannot be used, whatever the program is; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A statement of the tests: one assertion, or set-up for those behind it. `asks` says that something of
    the program stands in it."""

    node: ast.stmt
    line: int
    text: str
    asserts: bool
    asks: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """All statements in their order, and the names that the program has to give."""

    parts: tuple[Part, ...]
    names: tuple[str, ...]

    @property
    def assertions(self) -> int:
        """The number of assertions: what a score is a share of."""
        return sum(part.asserts for part in self.parts)


def read_exam(tests: str) -> Exam:
    """The exam of these tests. An assertion is a statement with `assert` in it (a loop over cases is one), or
    one that calls a function of the tests that has one; all others are set-up. Raises BadTests.

    >>> exam = read_exam("xs = [3, 1]\\nassert f(xs) == [1, 3]")
    >>> [part.asserts for part in exam.parts], exam.names
    ([False, True], ('f',))
    """
    try:
        tree = ast.parse(tests)
        table = symtable.symtable(tests, "<tests>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadTests(f"they do not parse as Python: {_syntax(error)}") from None
    _hold_imports(tree)
    names = _program_names(table)
    checkers = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any(isinstance(n, ast.Assert) for n in ast.walk(node))
    }
    told = set(names)
    parts = []
    for node in tree.body:
        used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        if asks := bool(used & told):
            told |= used - set(dir(builtins))
            if isinstance(node, _APART[:3]):
                told.add(node.name)
        asserts = _asserts(node, checkers)
        if asserts and not asks:
            raise BadTests(f"line {node.lineno} asks nothing of the program: {_shown(node)}")
        parts.append(Part(node=node, line=node.lineno, text=_shown(node), asserts=asserts, asks=asks))
    if not any(part.asserts for part in parts):
        unused = f"; nobody calls `{min(checkers)}`" if checkers else ""
        raise BadTests(f"they hold no assertion{unused}: write `assert f(2) == 4`")
    return Exam(parts=tuple(parts), names=names)


def _asserts(node: ast.stmt, checkers: set[str]) -> bool:
    return any(
        isinstance(one, ast.Assert)
        or (isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id in checkers)
        for one in _outside_of_functions(node)
    )


def _outside_of_functions(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if not isinstance(node, _APART):
        for child in ast.iter_child_nodes(node):
            yield from _outside_of_functions(child)


def _program_names(table: symtable.SymbolTable) -> tuple[str, ...]:
    """The names that the tests use and do not make themselves. Python's own stay Python's own: a program
    cannot give the tests another `isinstance`."""
    own = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
    own |= {child.get_name() for child in table.get_children()}
    used: set[str] = set()
    waiting = [table]
    while waiting:
        here = waiting.pop()
        waiting += here.get_children()
        used |= {
            s.get_name() for s in here.get_symbols() if s.is_referenced() and (s.is_global() or here is table)
        }
    return tuple(sorted(used - own - set(dir(builtins))))


def _hold_imports(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            modules = ["." * node.level + (node.module or "")]
        for module in modules:
            if module.partition(".")[0] not in sys.stdlib_module_names:
                raise BadTests(
                    f"line {node.lineno} imports `{module}`: the standard library alone is there, and the "
                    "program's own names are there without an import"
                )


def _shown(node: ast.stmt) -> str:
    text = ast.unparse(node).partition("\n")[0]
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _syntax(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    return f"{type(error).__name__}: {error}"
