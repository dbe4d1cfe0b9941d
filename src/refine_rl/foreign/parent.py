"""A process that does not outlive the one that began it, however that ends: also when it is killed.

Linux alone knows of that; elsewhere nothing here does anything. The standard library alone is needed: this
file is also run as a script, `python parent.py PARENT COMMAND...`, which becomes the command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

LINUX = sys.platform.startswith("linux")
_DEATH_SIGNAL = 1


def die_with_parent(parent: int, by: int = signal.SIGKILL) -> None:
    """This process gets the signal when its parent, or the parent's thread that began it, ends; a command
    that it becomes keeps to that."""
    if LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(_DEATH_SIGNAL, by, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def bound(command: Sequence[str]) -> list[str]:
    """The command, for a process of its own that is told to end (SIGTERM) as soon as the thread that begins
    it has ended, in whatever way."""
    if not LINUX:
        return list(command)
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(os.getpid()), *command]


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]), signal.SIGTERM)
    os.execvp(sys.argv[2], sys.argv[2:])
