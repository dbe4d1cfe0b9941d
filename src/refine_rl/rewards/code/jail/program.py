"""The program's side: runs its code once, then does what the examiner asks for, until it is killed.

Nothing here is a secret and nothing here is relied on: the program may change all of it, as it stands in the
same interpreter. Whatever it sends is read as plain data by the examiner (remote.py).
"""

from __future__ import annotations

import builtins
import operator
import sys
import types
from collections.abc import Callable
from typing import Any

from refine_rl.rewards.code.jail.wire import decode, encode, receive, send

_TEXT = 300  # characters of an error's message
TWO: dict[str, Callable[[Any, Any], Any]] = {
    name: getattr(operator, name)
    for name in ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod")
}
"""Operators between two objects of the program."""
ONE: dict[str, Callable[[Any], Any]] = {
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "int": int,
    "float": float,
    "index": operator.index,
    "iter": iter,
    "abs": abs,
    "neg": operator.neg,
    "enter": lambda it: type(it).__enter__(it),
}
"""What is asked of one object of the program."""


class Program:
    """The code of a completion, run, and its objects that the examiner knows of."""

    def __init__(self, fd: int, most: int) -> None:
        self._fd = fd
        self._most = most
        self._objects: list[Any] = []
        self._module = types.ModuleType("program")

    def serve(self) -> None:
        """Answers until the other side is gone."""
        self._answer(lambda asked: self._run(asked["code"]))
        while True:
            self._answer(self._done)

    def _answer(self, do: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        asked = receive(self._fd, most=sys.maxsize)
        try:
            reply = do(asked)
        except BaseException as error:
            reply = {"error": describe(error)}
        send(self._fd, {**reply, "to": asked["number"]})

    def _run(self, code: str) -> dict[str, Any]:
        sys.modules["program"] = self._module
        exec(compile(code, "<program>", "exec"), self._module.__dict__)  # noqa: S102 - what this is for
        return {"value": None}

    def _done(self, asked: dict[str, Any]) -> dict[str, Any]:
        what = asked["do"]
        if what == "names":
            found = {n: getattr(self._module, n) for n in asked["names"] if hasattr(self._module, n)}
            return {"value": encode(found, self._keep)}
        it = self._objects[asked["it"]]
        given = decode(asked.get("given", []), self._given)
        if what == "call":
            value = it(*given, **decode(asked["named"], self._given))
            after = [encode(g, self._keep) if isinstance(g, list | dict | set) else None for g in given]
            return {"value": encode(value, self._keep), "after": after}
        if what == "next":
            try:
                return {"value": encode(next(it), self._keep)}
            except StopIteration:
                return {"over": True}
        if what == "set_item":
            it[given[0]] = given[1]
            return {"value": None}
        return {"value": encode(_simple(what, it, given), self._keep)}

    def _keep(self, value: Any) -> dict[str, Any]:
        self._objects.append(value)
        return {"r": len(self._objects) - 1, "kind": type(value).__name__[:_TEXT]}

    def _given(self, found: dict[str, Any]) -> Any:
        if "r" in found:
            return self._objects[found["r"]]
        return lambda *given: self._call_back(found["back"], given)

    def _call_back(self, number: int, given: tuple[Any, ...]) -> Any:
        """Calls a function that the tests gave."""
        send(self._fd, {"back": number, "given": encode(list(given), self._keep)})
        reply = receive(self._fd, most=sys.maxsize)
        if "error" in reply:
            kind = getattr(builtins, reply["error"]["kind"], RuntimeError)
            raise kind(reply["error"]["text"])
        return decode(reply["value"], self._given)


def _simple(what: str, it: Any, given: list[Any]) -> Any:
    if what == "attribute":
        return getattr(it, given[0])
    if what == "item":
        return it[given[0]]
    if what == "instance":
        return isinstance(given[0], it)
    if what == "exit":
        return bool(type(it).__exit__(it, None, None, None))
    return TWO[what](it, given[0]) if what in TWO else ONE[what](it)


def describe(error: BaseException) -> dict[str, str]:
    """An exception as plain text: its own name, the name of the next of Python's own that it is, its text."""
    kinds = [k.__name__ for k in type(error).__mro__ if k.__module__ == "builtins"]
    try:
        text = str(error)
    except BaseException:
        text = ""
    line = ""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<program>":
            line = f" (line {trace.tb_lineno} of the program)"
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        text, line = str(error.msg), f" (line {error.lineno} of the program)"
    return {"name": type(error).__name__[:_TEXT], "kind": kinds[0], "text": text[:_TEXT] + line}
