"""A run that grows line by line, as a training of this process would write it, from the files of one that is
finished."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from refine_rl.run import RunFolder
from refine_rl.run.lock import LOCK, hold

BY_STEP = ("groups.jsonl", "validation.jsonl", "events.jsonl")  # metrics.jsonl comes last of a step


class Growing:
    """Nothing is there until `begin`. This process holds the run's lock until `end` or `die`."""

    def __init__(self, source: RunFolder, folder: Path) -> None:
        self.source, self.folder, self.step = source.path, folder, -1
        self._run: RunFolder | None = None

    def begin(self) -> None:
        self._run = RunFolder.claim(self.folder)
        for name in ("config.toml", "prompts.jsonl"):
            shutil.copy(self.source / name, self.folder / name)
        self._run.event("started", "started", "A new run.")

    def to(self, step: int) -> None:
        """All of the steps up to this one."""
        while self.step < step:
            self.step += 1
            for name in BY_STEP:
                self._append(name, [line for line in self._lines(name) if line["step"] == self.step])
            metrics = [line for line in self._lines("metrics.jsonl") if line["step"] == self.step]
            self._append("metrics.jsonl", metrics)

    def end(self) -> None:
        shutil.copy(self.source / "comparison.json", self.folder)
        RunFolder(self.folder).event("finished", "finished", "The tuned model is in model/.", self.step)
        self.let_go()

    def let_go(self) -> None:
        if self._run is not None:
            self._run.let_go()
            self._run = None

    def die(self) -> None:
        """As after kill -9: the lock's file names a process that is there no more."""
        held = hold(self.folder)
        assert held is not None
        self.let_go()
        (self.folder / LOCK).write_text(json.dumps(asdict(replace(held, began="long ago"))))

    def _lines(self, name: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.source / name).read_bytes().splitlines()]

    def _append(self, name: str, lines: list[dict[str, object]]) -> None:
        with (self.folder / name).open("a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
