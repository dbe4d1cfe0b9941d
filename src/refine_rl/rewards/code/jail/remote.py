"""The examiner's side of a program: its objects as proxies, its plain data as plain data.

An object of the program's equals nothing of the tests'. Two of its objects are compared by its own `__eq__`;
operators between one of its objects and a value of the tests are refused, so that no expected value is ever
handed to the program.
"""

from __future__ import annotations

import builtins
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from refine_rl.rewards.code.jail.wire import GONE, Broken, TooLate, decode, encode, receive, send

T = TypeVar("T")


class Gone(BaseException):
    """The program is not there any more, did not answer in time, or sent no answer. No `except Exception` of
    the tests takes it for an exception that they wait for."""


class CannotBePassed(BaseException):
    """The tests hand the program something that cannot be passed: their fault."""


_NOT_RAISED = (AssertionError, StopIteration, StopAsyncIteration, UnicodeError, ExceptionGroup)


class Ending(Protocol):
    """Ends a program."""

    def __call__(self, *, gone: bool = False) -> str:
        """How it had ended by itself, "" where it had not. `gone`: it has closed its end of the channel."""


class Session:
    """A program at work. `until` is when it has to have answered, by time.monotonic."""

    def __init__(self, fd: int, died: Ending, *, most: int) -> None:
        self.until = time.monotonic()
        self.gone = ""
        self._fd = fd
        self._died = died
        self._most = most
        self._number = 0
        self._functions: list[Callable[..., Any]] = []

    def run(self, code: str) -> None:
        """Runs the program's code; raises what it raises."""
        self._ask({"code": code})

    def names(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Those of the names that the program has now."""
        found = self.value({"do": "names", "names": list(names)})
        if type(found) is not dict or not found.keys() <= set(names):
            raise self._end("it sent no names")
        return found

    def value(self, asked: dict[str, Any]) -> Any:
        """What the program gives; raises the exception that it raises."""
        return self._read(self._ask(asked).get("value"))

    def of(self, remote: Remote, what: str, *given: Any) -> Any:
        """What is done with an object of the program."""
        return self.value({"do": what, "it": remote._refine_id, "given": self._written(list(given))})

    def next(self, remote: Remote) -> Any:
        reply = self._ask({"do": "next", "it": remote._refine_id})
        if reply.get("over") is True:
            raise StopIteration
        return self._read(reply.get("value"))

    def call(self, remote: Remote, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """A call. Lists, dicts and sets that the program changed are changed here as well."""
        reply = self._ask(
            {
                "do": "call",
                "it": remote._refine_id,
                "given": self._written(list(given)),
                "named": self._written(named),
            }
        )
        after = reply.get("after")
        for mine, new in zip(given, after if isinstance(after, list) else (), strict=False):
            if new is not None and isinstance(mine, list | dict | set):
                _become(mine, self._read(new))
        return self._read(reply.get("value"))

    def close(self) -> str:
        """Ends the program; how it ended by itself, if it did."""
        os.close(self._fd)
        return self._died()

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        if self.gone:
            raise Gone(self.gone)
        self._number += 1
        try:
            send(self._fd, {**asked, "number": self._number})
            while True:
                reply = receive(self._fd, most=self._most, until=self.until)
                if not isinstance(reply, dict):
                    raise Broken("no answer")
                if "back" not in reply:
                    break
                send(self._fd, self._called_back(reply))
        except TooLate:
            raise self._end("it took too long") from None
        except Broken as error:
            raise self._end(str(error)) from None
        if reply.get("to") != self._number:
            raise self._end("it answered what nobody had asked")
        if "error" in reply:
            raise _exception(reply["error"])
        return reply

    def _end(self, why: str) -> Gone:
        how = self._died(gone=why == GONE)
        self.gone = (how or "it is gone") if why == GONE else why
        return Gone(self.gone)

    def _called_back(self, reply: dict[str, Any]) -> dict[str, Any]:
        number = reply["back"]
        if not isinstance(number, int) or not 0 <= number < len(self._functions):
            raise Broken("it called a function that it was not given")
        given = self._read(reply.get("given"))
        try:
            return {"value": self._written(self._functions[number](*given))}
        except Exception as error:
            return {"error": {"kind": type(error).__name__, "text": str(error)}}

    def _read(self, found: Any) -> Any:
        try:
            return decode(found, self._handle)
        except Broken as error:
            raise self._end(str(error)) from None

    def _handle(self, found: dict[str, Any]) -> Remote:
        number, kind = found["r"], found["kind"]
        if type(number) is not int or type(kind) is not str:
            raise ValueError("no handle")
        return Remote(self, number, kind)

    def _written(self, value: Any) -> Any:
        return encode(value, self._kept)

    def _kept(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Remote):
            return {"r": value._refine_id, "kind": ""}
        if callable(value) and not isinstance(value, type):
            self._functions.append(value)
            return {"back": len(self._functions) - 1, "kind": ""}
        raise CannotBePassed(
            f"a {type(value).__name__} cannot be handed to a program: numbers, texts, lists, tuples, dicts, "
            "sets and functions can"
        )


class Remote:
    """An object of the program's."""

    __slots__ = ("_refine_id", "_refine_kind", "_refine_session")
    _refine_session: Session
    _refine_id: int
    _refine_kind: str

    def __init__(self, session: Session, number: int, kind: str) -> None:
        object.__setattr__(self, "_refine_session", session)
        object.__setattr__(self, "_refine_id", number)
        object.__setattr__(self, "_refine_kind", kind)

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._refine_session.call(self, given, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._refine_session.of(self, "attribute", name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("attributes of the program's objects cannot be set")

    def __getitem__(self, key: Any) -> Any:
        return self._refine_session.of(self, "item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._refine_session.of(self, "set_item", key, value)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._refine_session.of(self, "iter")
        if not isinstance(iterator, Remote):
            raise TypeError("no iterator")
        return _Iterated(iterator)

    def __next__(self) -> Any:
        return self._refine_session.next(self)

    def __instancecheck__(self, one: Any) -> bool:
        if not isinstance(one, Remote):
            return False
        return self._refine_session.of(self, "instance", one) is True

    def __enter__(self) -> Any:
        return self._refine_session.of(self, "enter")

    def __exit__(self, *error: object) -> None:
        self._refine_session.of(self, "exit")

    def __len__(self) -> int:
        return _of_type(int, self._refine_session.of(self, "len"))

    def __bool__(self) -> bool:
        return _of_type(bool, self._refine_session.of(self, "bool"))

    def __int__(self) -> int:
        return _of_type(int, self._refine_session.of(self, "int"))

    def __index__(self) -> int:
        return _of_type(int, self._refine_session.of(self, "index"))

    def __float__(self) -> float:
        return _of_type(float, self._refine_session.of(self, "float"))

    def __str__(self) -> str:
        return _of_type(str, self._refine_session.of(self, "str"))

    def __repr__(self) -> str:
        return _of_type(str, self._refine_session.of(self, "repr"))

    def __abs__(self) -> Any:
        return self._refine_session.of(self, "abs")

    def __neg__(self) -> Any:
        return self._refine_session.of(self, "neg")

    def __hash__(self) -> int:
        return hash(object.__getattribute__(self, "_refine_id"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._refine_session.of(self, "eq", other) is True

    def __ne__(self, other: object) -> bool:
        return not isinstance(other, Remote) or self._refine_session.of(self, "ne", other) is True


class _Iterated:
    """The program's iterator as one of Python's own."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._remote)


def _between(name: str) -> Callable[[Remote, object], Any]:
    def operator(self: Remote, other: object) -> Any:
        if not isinstance(other, Remote):
            return NotImplemented
        return self._refine_session.of(self, name, other)

    return operator


for _name in ("lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod"):
    setattr(Remote, f"__{_name}__", _between(_name))


def _of_type(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise TypeError(f"the program gave no {kind.__name__}")
    return value


def _become(mine: list[Any] | dict[Any, Any] | set[Any], new: Any) -> None:
    if isinstance(mine, list) and type(new) is list:
        mine[:] = new
    elif isinstance(mine, dict) and type(new) is dict:
        mine.clear()
        mine.update(new)
    elif isinstance(mine, set) and type(new) is set:
        mine.clear()
        mine |= new


def _exception(found: Any) -> Exception:
    """What the program raised, as the next of Python's own exceptions that it is."""
    fields = found if isinstance(found, dict) else {}
    name, kind, text = (str(fields.get(key, "")) for key in ("name", "kind", "text"))
    own = getattr(builtins, kind, None)
    if not isinstance(own, type) or not issubclass(own, Exception) or issubclass(own, _NOT_RAISED):
        return RuntimeError(f"{name}: {text}")
    error: Exception = own(text if name == kind else f"{name}: {text}")
    return error
