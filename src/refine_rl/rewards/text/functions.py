"""What the source of a Python function says of it: its parameters, what it returns and raises, its words."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from refine_rl.rewards.text.words import split_lines

_FENCE = re.compile(r"\A```[\w-]*[ \t]*\n(.*?)\n?```\Z", re.DOTALL)
_TOKEN = re.compile(r"\w+|[^\w\s]")
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_BOUND = (["self"], ["cls"], ["mcs"], ["metacls"])
_UNTOLD = ("NotImplementedError", "StopIteration")  # of stubs and iterators: nobody is told
_GIVEN_FOR = {"property", "cached_property", "contextmanager", "asynccontextmanager", "setter", "overload"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Function:
    """A function, or a class with its constructor.

    `parameters` are those that a docstring should name, `known` all of them. `returns` says whether it gives
    something back ("unknown" for a stub, a class, a property). `raises` are the classes that its own body
    raises. `words`, `lines` and `tokens` are those of the source without its docstring.
    """

    name: str
    parameters: tuple[str, ...]
    known: frozenset[str]
    returns: Literal["yes", "no", "unknown"]
    raises: frozenset[str]
    words: frozenset[str]
    lines: frozenset[str]
    tokens: tuple[str, ...]


def tokens_of(text: str) -> list[str]:
    """
    >>> tokens_of("x[i] = a_b")
    ['x', '[', 'i', ']', '=', 'a_b']
    """
    return _TOKEN.findall(text)


@lru_cache(maxsize=4096)
def read_function(code: str) -> Function:
    """The first function (or class) of the code, which may be indented or stand in a Markdown fence.

    Raises ValueError that says why it cannot be read.

    >>> found = read_function("def add(a, b=0, *rest):\\n    return a + b")
    >>> found.name, found.parameters, found.returns
    ('add', ('a', 'b'), 'yes')
    """
    if fenced := _FENCE.match(code.strip()):
        code = fenced[1]
    code = code.strip("\r\n")
    if code[:1].isspace():  # a method: its strings may stand further to the left, so that it stays as it is
        code = f"if 1:\n{code}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in its strings
            tree = ast.parse(code)
    except SyntaxError as error:
        raise ValueError(f"is no Python ({error.msg})") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"is no Python ({error or type(error).__name__})") from None
    kinds = (*_Function.__args__, ast.ClassDef)
    found = next((node for node in ast.walk(tree) if isinstance(node, kinds)), None)
    if found is None:
        raise ValueError("holds no function")
    function = found if isinstance(found, _Function) else _constructor(found)
    needed, known = _parameters(function) if function else ([], set())
    rest = _without_docstring(code, found).removeprefix("if 1:\n")
    return Function(
        name=found.name,
        parameters=tuple(needed),
        known=frozenset(known),
        returns=_returns(found) if isinstance(found, _Function) else "unknown",
        raises=frozenset(_raises(function) if function else ()),
        words=frozenset(re.findall(r"\w+", rest)),
        lines=frozenset(split_lines(rest)),
        tokens=tuple(tokens_of(rest)),
    )


def _constructor(of: ast.ClassDef) -> _Function | None:
    return next((n for n in of.body if isinstance(n, _Function) and n.name == "__init__"), None)


def _parameters(function: _Function) -> tuple[list[str], set[str]]:
    """Those that should be named (not self, what is private, *args and **kwargs), and all of them."""
    given = function.args
    names = [a.arg for a in (*given.posonlyargs, *given.args)]
    bound = names[:1] if names[:1] in _BOUND and "staticmethod" not in _decorators(function) else []
    names += [a.arg for a in given.kwonlyargs]
    open_ = [a.arg for a in (given.vararg, given.kwarg) if a is not None]
    return [n for n in names[len(bound) :] if not n.startswith("_")], {*names, *open_}


def _decorators(function: _Function) -> set[str]:
    """The last name of each."""
    found = set()
    for node in function.decorator_list:
        inner = node.func if isinstance(node, ast.Call) else node
        found.add(inner.attr if isinstance(inner, ast.Attribute) else getattr(inner, "id", ""))
    return found


def _returns(function: _Function) -> Literal["yes", "no", "unknown"]:
    if _decorators(function) & _GIVEN_FOR:
        return "unknown"
    own = list(_own(function))
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in own):
        return "yes"
    if any(isinstance(node, ast.Return) and not _is_none(node.value) for node in own):
        return "yes"
    says = function.returns
    if says is not None and not _is_none(says) and getattr(says, "id", "") not in ("NoReturn", "Never"):
        return "yes"
    stub = all(isinstance(n, ast.Pass | ast.Raise) or _is_literal(n) for n in function.body)
    return "unknown" if stub and says is None else "no"


def _is_none(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value is None)


def _is_literal(node: ast.stmt) -> bool:
    """A docstring, or three dots."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _raises(function: _Function) -> Iterator[str]:
    for node in _own(function):
        if isinstance(node, ast.Raise) and node.exc is not None:
            inner = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = inner.attr if isinstance(inner, ast.Attribute) else getattr(inner, "id", "")
            if name[:1].isupper() and name not in _UNTOLD:
                yield name


def _own(function: _Function) -> Iterator[ast.AST]:
    """The nodes of the body, those of functions and classes within it left out."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (*_Function.__args__, ast.ClassDef, ast.Lambda)):
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def _without_docstring(code: str, found: _Function | ast.ClassDef) -> str:
    first = found.body[0]
    if ast.get_docstring(found, clean=False) is None:
        return code
    lines = code.split("\n")
    start, end = first.lineno - 1, first.end_lineno or first.lineno
    head = lines[start].encode()[: first.col_offset].decode()  # ast counts bytes
    return "\n".join([*lines[:start], head, *lines[end:]])
