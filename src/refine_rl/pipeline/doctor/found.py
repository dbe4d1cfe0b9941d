"""What was found, a line each; what fails does not stop what comes behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from refine_rl.errors import GuardStop, Interrupted, RefineError

Status = Literal["ok", "warning", "error", "skipped"]
_LESS = (
    "Close what else uses it, or take a smaller model (model.name), or less of it at once:\n"
    "[model]\ngradient_checkpointing = true"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A thing that was looked at. `check` is its short name, `advice` what to do: a command, or lines for the
    task file ("" where the text has it, or nothing is to be done).

    >>> Finding(check="disk", status="ok", text="2 MB of 80 GB").advice
    ''
    """

    check: str
    status: Status
    text: str
    advice: str = ""


class Examination:
    """Everything that was found so far; `tell` hears of each as it comes."""

    def __init__(self, tell: Callable[[Finding], None] = lambda found: None) -> None:
        self.findings: list[Finding] = []
        self._tell = tell

    def _add(self, check: str, status: Status, text: str, advice: str) -> None:
        found = Finding(check=check, status=status, text=text, advice=advice)
        self.findings.append(found)
        self._tell(found)

    def ok(self, check: str, text: str) -> None:
        self._add(check, "ok", text, "")

    def warn(self, check: str, text: str, advice: str = "") -> None:
        self._add(check, "warning", text, advice)

    def fail(self, check: str, text: str, advice: str = "") -> None:
        self._add(check, "error", text, advice)

    def skip(self, check: str, why: str, advice: str = "") -> None:
        """What could not be looked at, or was not to be."""
        self._add(check, "skipped", why, advice)

    def looking(self, check: str) -> Look:
        """Inside, what a run would stop at is put down as an error of `check`, and the next look goes on. A
        person's Ctrl-C goes through."""
        return Look(self, check)


class Look:
    """One look; `failed` says how it ended."""

    def __init__(self, exam: Examination, check: str) -> None:
        self._exam, self._check, self.failed = exam, check, False

    def __enter__(self) -> Look:
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> bool:
        if isinstance(error, Interrupted) or not isinstance(error, Exception):
            return False
        if isinstance(error, GuardStop):
            self._exam.fail(self._check, error.what, error.advice)
        elif isinstance(error, RefineError):
            same = [f.check for f in self._exam.findings if f.status == "error" and f.text == str(error)]
            if same:
                self._exam.skip(self._check, f"Stops for the same reason as `{same[0]}`")
            else:
                self._exam.fail(self._check, str(error))
        elif _no_memory(error):
            self._exam.fail(self._check, "Out of memory.", _LESS)
        else:
            return False
        self.failed = True
        return True


def _no_memory(error: Exception) -> bool:
    """Whether there was too little memory, a card's included; without importing torch."""
    kind = type(error).__name__ in ("OutOfMemoryError", "MemoryError")
    return kind or "can't allocate memory" in str(error)
