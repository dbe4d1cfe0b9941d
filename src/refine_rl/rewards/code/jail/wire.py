"""Messages between the processes, and the values that may pass: plain data, built anew on the other side.

A message is four bytes of length and JSON. A value that is no plain data is kept where it is, and a handle to
it passes. What comes from a program is not trusted: it is read up to a length, and builds nothing but plain
values and handles.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from collections.abc import Callable
from typing import Any

_EXACT = 2**53  # from here on whole numbers go in hexadecimal: JSON's are read in quadratic time
_HEAD = struct.Struct(">I")
GONE = "the other side is gone"


class Broken(Exception):  # noqa: N818
    """The other side is gone, or what it sent is no message."""


class TooLate(Exception):  # noqa: N818
    """Nothing came in time."""


def send(to: int, message: object) -> None:
    """Writes a message to a file descriptor; Broken where nobody reads."""
    body = json.dumps(message).encode()
    rest = memoryview(_HEAD.pack(len(body)) + body)
    try:
        while rest:
            rest = rest[os.write(to, rest) :]
    except OSError:
        raise Broken(GONE) from None


def receive(source: int, *, most: int, until: float | None = None) -> Any:
    """The next message, of at most `most` bytes. Broken where there is none any more, TooLate where it is not
    there at `until` (of time.monotonic)."""
    (length,) = _HEAD.unpack(_exactly(source, _HEAD.size, until))
    if length > most:
        raise Broken(f"a message of {length} bytes, where {most} are allowed")
    try:
        return json.loads(_exactly(source, length, until))
    except (ValueError, RecursionError) as error:
        raise Broken(f"no message: {error}") from None


def _exactly(source: int, length: int, until: float | None) -> bytes:
    found = bytearray()
    while len(found) < length:
        if until is not None:
            left = until - time.monotonic()
            if left <= 0 or not select.select([source], [], [], left)[0]:
                raise TooLate
        try:
            more = os.read(source, min(length - len(found), 1 << 16))
        except OSError:
            raise Broken(GONE) from None
        if not more:
            raise Broken(GONE)
        found += more
    return bytes(found)


def encode(value: Any, keep: Callable[[Any], dict[str, Any]]) -> Any:
    """A value as JSON; what is no plain data is handed to `keep`, which gives the handle. What is of a
    subclass of a plain type (a named tuple, a Counter, an IntEnum) goes as that type.

    >>> encode((1, {"a": {2}}, 1j), repr)
    {'t': [1, {'d': [['a', {'s': [2]}]]}, {'c': [0.0, 1.0]}]}
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -_EXACT < value < _EXACT else {"i": hex(value)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list):
        return [encode(one, keep) for one in value]
    for key, kind in (("t", tuple), ("s", set), ("f", frozenset)):
        if isinstance(value, kind):
            return {key: [encode(one, keep) for one in value]}
    if isinstance(value, dict):
        return {"d": [[encode(k, keep), encode(v, keep)] for k, v in value.items()]}
    if isinstance(value, bytes | bytearray):
        return {"b": value.hex()}
    if isinstance(value, complex):
        return {"c": [value.real, value.imag]}
    if isinstance(value, range):
        return {"g": [hex(n) for n in (value.start, value.stop, value.step)]}
    return keep(value)


def decode(found: Any, handle: Callable[[dict[str, Any]], Any]) -> Any:
    """The value of what `encode` made, or of something else that claims to be that; Broken where it is not.
    Handles are made into something by `handle`.

    >>> decode({"t": [1, {"d": [["a", {"s": [2]}]]}]}, repr)
    (1, {'a': {2}})
    """
    try:
        return _decoded(found, handle)
    except (TypeError, ValueError, KeyError, RecursionError, OverflowError) as error:
        raise Broken(f"no value: {type(error).__name__}: {error}") from None


def _decoded(found: Any, handle: Callable[[dict[str, Any]], Any]) -> Any:
    if found is None or isinstance(found, bool | int | float | str):
        return found
    if isinstance(found, list):
        return [_decoded(one, handle) for one in found]
    if len(found) != 1:
        return handle(found)
    ((key, inner),) = found.items()
    if key in ("t", "s", "f"):
        return {"t": tuple, "s": set, "f": frozenset}[key](_decoded(one, handle) for one in inner)
    if key == "d":
        return {_decoded(k, handle): _decoded(v, handle) for k, v in inner}
    if key == "i":
        return int(inner, 16)
    if key == "b":
        return bytes.fromhex(inner)
    if key == "c":
        real, imaginary = inner
        return complex(float(real), float(imaginary))
    if key == "g":
        start, stop, step = inner
        return range(int(start, 16), int(stop, 16), int(step, 16))
    return handle(found)
