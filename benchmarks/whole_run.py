"""A whole `refine train` in a process of its own and a folder that is thrown away."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from refine_rl.run import RunFolder


@contextmanager
def whole_run(*task: str, sets: Sequence[str]) -> Iterator[RunFolder]:
    """The finished run of a task (a file, or "--recipe" and its name) with each of `sets` as a --set.
    Where it fails, the program ends with what it said."""
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        command = [sys.executable, "-m", "refine_rl", "train", *task, "--run", str(run)]
        for one in sets:
            command += ["--set", one]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        yield RunFolder.open(run)
