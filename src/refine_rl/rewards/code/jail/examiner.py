"""The tests, run against a program that stands in a process of its own: what held, statement by statement.

Statements run in their order, as Python would run them, in one program. An assertion that does not hold stops
none behind it. Where the program ended, or an assertion took too long, it is begun anew for the next one and
the set-up before that is done again.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable
from typing import Any

from refine_rl.rewards.code.jail.exam import Exam, Part
from refine_rl.rewards.code.jail.remote import CannotBePassed, Gone, Session

Begin = Callable[[], Session]
"""Makes a program's process, with nothing run in it yet."""
Tell = Callable[[dict[str, Any]], None]
_TEXT = 300  # characters of a reason


class Unusable(Exception):  # noqa: N818
    """The tests fail by themselves, whatever the program does."""


def examine(exam: Exam, code: str, begin: Begin, tell: Tell, *, seconds: float) -> None:
    """Tells for each assertion whether it held, as {"line", "held", "why"}; before them {"begun"}. All of it
    takes at most `seconds`; an assertion with the set-up before it at most half of what is left, the last one
    all of it. {"unusable"} ends it where the tests are at fault."""
    end = time.monotonic() + seconds
    sitting = _Sitting(exam, code, begin)
    tell({"begun": True})
    left = exam.assertions
    try:
        for place, part in enumerate(exam.parts):
            now = time.monotonic()
            until = end if left <= 1 else now + (end - now) / 2
            why = sitting.come_to(place, until)
            if part.asserts:
                left -= 1
                tell({"line": part.line, "held": not why, "why": why[:_TEXT]})
    except Unusable as error:
        tell({"unusable": str(error)[:_TEXT]})
    finally:
        sitting.close()


class _Sitting:
    """A program and the tests' own variables, at a place in the tests."""

    def __init__(self, exam: Exam, code: str, begin: Begin) -> None:
        self._exam = exam
        self._code = code
        self._begin = begin
        self._session: Session | None = None
        self._space: dict[str, Any] = {}
        self._hopeless = ""  # why the program does not even begin

    def come_to(self, place: int, until: float) -> str:
        """Runs the statement at `place`; why it did not hold, "" where it did."""
        if self._hopeless:
            return self._hopeless
        if self._session is None:
            why = self._again(place, until)
            if why:
                return why
        return self._statement(self._exam.parts[place], until)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _again(self, place: int, until: float) -> str:
        """A new program, and the set-up before `place`."""
        session = self._session = self._begin()
        session.until = until
        self._space = {"__name__": "tests", "__builtins__": __builtins__}
        try:
            session.run(self._code)
        except (Exception, Gone) as error:
            self._hopeless = f"the program does not run: {_told(error)}"
            self.close()
            return self._hopeless
        for part in self._exam.parts[:place]:
            if not part.asserts:
                why = self._statement(part, until)
                if session.gone:
                    return why
        return ""

    def _statement(self, part: Part, until: float) -> str:
        session = self._session
        assert session is not None
        session.until = until
        try:
            if part.asks:
                self._space.update(session.names(self._exam.names))
            module = ast.Module(body=[part.node], type_ignores=[])
            exec(compile(module, "<tests>", "exec"), self._space)  # noqa: S102 - what this is for
            why = f"{part.text}: {session.gone}" if session.gone else ""
        except CannotBePassed as error:
            raise Unusable(f"line {part.line}: {error}") from None
        except AssertionError as error:
            why = f"{part.text}: {error}" if str(error) else f"{part.text} does not hold"
        except (Exception, Gone, SystemExit) as error:
            if not part.asks:
                raise Unusable(f"line {part.line}: {_told(error)}") from None
            why = f"{part.text}: {_told(error)}"
        if session.gone:
            self.close()
        return why


def _told(error: BaseException) -> str:
    plain = len(error.args) == 1 and isinstance(error.args[0], str)  # a KeyError shows it quoted
    text = str(error.args[0]) if plain else str(error)
    if isinstance(error, Gone):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
