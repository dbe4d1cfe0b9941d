"""When two functions are the same but for the names of their locals and the values of their constants."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from hashlib import blake2b

from refine_rl.prompts.harvest.functions import AnyFunction, docstring_of


def shape_of(node: AnyFunction) -> bytes:
    """A key that is equal for functions of the same form: names of arguments and of what is assigned become
    their number, constants their type; the function's own name, its docstring and its annotations do not
    count. Names from outside and of attributes do.

    >>> def shape(code): return shape_of(ast.parse(code).body[0])
    >>> shape("def f(a, b=1): return len(a) + b") == shape("def g(x, y=7): return len(x) + y")
    True
    >>> shape("def f(a): return a.x") == shape("def f(a): return a.y")
    False
    """
    own = {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    own |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    numbers: dict[str, int] = {}
    body = node.body[1:] if docstring_of(node) is not None else node.body
    words: list[str] = [type(node).__name__]
    for part in (node.args, *body, *node.decorator_list):
        words += _words(part, own, numbers)
    return blake2b("\0".join(words).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _words(node: ast.AST, own: set[str], numbers: dict[str, int]) -> Iterator[str]:
    yield type(node).__name__
    if isinstance(node, ast.Constant):
        yield type(node.value).__name__
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "ctx", "type_comment", "type_ignores"):
            continue
        if isinstance(value, ast.AST):
            yield from _words(value, own, numbers)
        elif isinstance(value, list):
            yield str(len(value))
            for each in value:
                if isinstance(each, ast.AST):
                    yield from _words(each, own, numbers)
                else:
                    yield str(each)
        elif isinstance(value, str) and value in own and name in ("id", "arg"):
            yield str(numbers.setdefault(value, len(numbers)))
        else:
            yield str(value)
