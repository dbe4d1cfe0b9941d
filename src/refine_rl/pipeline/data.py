"""Data without a run: pairs from code, and what a file of rows holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from refine_rl.errors import UserError
from refine_rl.policy.words import token_counter
from refine_rl.progress import Pause, never
from refine_rl.prompts.describe import Description, describe
from refine_rl.prompts.harvest import Harvest, Wanted, harvest
from refine_rl.prompts.rows import read_rows
from refine_rl.run.files import as_line, write_whole


def harvest_docstrings(
    names: Sequence[str],
    out: Path,
    wanted: Wanted,
    *,
    force: bool = False,
    pause: Pause = never,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Harvest:
    """Writes the pairs that the named packages and folders give to the JSONL file `out`, whole or not at all.

    Raises UserError where `out` exists (unless `force`), where there is nothing of a name, or where no pair
    is left; then nothing is written.
    """
    if out.exists() and not force:
        raise UserError(f"{out} exists already; name a new file, or replace it with --force.")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}; make it first.")

    def each_file(done: int, of: int) -> None:
        pause()
        progress(done, of)

    found = harvest(names, wanted, each_file)
    if not found.pairs:
        lost = ", ".join(f"{count} {why}" for why, count in found.dropped.items())
        raise UserError(
            f"no pair is left of {found.documented} documented functions in {found.files} files"
            + (f" ({lost})" if lost else "")
        )
    write_whole(out, "".join(as_line(dataclasses.asdict(pair)) for pair in found.pairs))
    return found


def describe_rows(
    source: str, *, model: str, limit: int | None, max_tokens: int | None, prompt: str = "", answer: str = ""
) -> Description:
    """What the rows of a source are like: the first `limit` of them (None: all), measured in tokens of
    `model`. `source` is a path, or what `read_rows` reads. Raises what `read_rows` and `token_counter` raise,
    and UserError where there are no rows, or no column `prompt` or `answer`.
    """
    named = source if source.startswith(("file:", "hub:")) else f"file:{source}"
    if limit is not None and not named.endswith("]"):
        named = f"{named}[:{limit}]"  # so that no more than that is downloaded
    rows = read_rows(named, Path(), key="FILE")
    found = list(islice(rows.rows, limit))
    if not found:
        raise UserError(f"{rows.name}: there are no rows in it")
    return describe(
        rows.name, found, token_counter(model), max_tokens=max_tokens, prompt=prompt, answer=answer
    )


def as_json(found: Harvest, out: Path) -> str:
    """What was found, without the pairs themselves, as JSON."""
    return json.dumps(
        {
            "out": str(out),
            "pairs": len(found.pairs),
            "splits": found.splits(),
            "files": found.files,
            "unread": dict(found.unread),
            "functions": found.functions,
            "documented": found.documented,
            "dropped": found.dropped,
        }
    )
