"""What a run keeps of the rivals of its tuned model: what was tried, and what came of the making."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from refine_rl.errors import UserError
from refine_rl.run.files import Record, as_line, read_text, record_of, replace, saving
from refine_rl.run.table import Table
from refine_rl.run.tables import QuizShelf

FOLDER = "rivals"


class RivalFiles:
    """The files of one rival: `shelf`, on which everything that was paid or waited for is put as soon as it
    is there; `made`, what it is in the end; and for one that is trained, its pairs and the folder of its
    run."""

    def __init__(self, root: Path, name: str, tried: Table[Record]) -> None:
        self._folder, self.name = root / FOLDER, name
        self.shelf = QuizShelf(tried)

    @property
    def run(self) -> Path:
        """The folder of its own run, within this one's."""
        return self._folder / self.name

    def begin(self) -> None:
        """Makes the folder of all rivals, where there is none."""
        with saving(self._folder):
            self._folder.mkdir(exist_ok=True)

    def save_pairs(self, rows: Sequence[Record]) -> Path:
        """The answers that it imitates, as a file for [sft]."""
        file = self._folder / f"{self.name}.pairs.jsonl"
        replace(file, "".join(map(as_line, rows)))
        return file

    def save_use(self, used: Record) -> None:
        """What its answers to the held-out prompts cost at use."""
        replace(self._used, as_line(used))

    def used(self) -> Record | None:
        """What `save_use` wrote; None where nothing is known, or it is damaged (answering again says it)."""
        if not self._used.is_file():
            return None
        record, _ = record_of(self._used.read_bytes())
        return record

    @property
    def _used(self) -> Path:
        return self._folder / f"{self.name}.use.json"

    @property
    def _made(self) -> Path:
        return self._folder / f"{self.name}.json"

    def made(self) -> Record | None:
        """What `save` wrote; None where nothing was made."""
        if not self._made.is_file():
            return None
        try:
            record: Record = json.loads(read_text(self._made))
            if not (isinstance(record["made"], dict) and isinstance(record["of"], dict)):
                raise TypeError("no tables")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._made} is damaged. Remove it: the rival is made again.") from error
        return record

    def save(self, of: Record, made: Record) -> None:
        """What it is, and `of` which settings."""
        text = json.dumps({"of": of, "made": made}, indent=1, ensure_ascii=False, allow_nan=False)
        replace(self._made, text + "\n")
