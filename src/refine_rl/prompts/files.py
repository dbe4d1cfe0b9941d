"""Prompts of a file or a data set of the hub: every row checked, all broken ones named at once."""

from __future__ import annotations

from pathlib import Path

from refine_rl.errors import UserError
from refine_rl.prompts.candidates import Candidate, RowError, candidate
from refine_rl.prompts.columns import AS_THEY_ARE, Columns
from refine_rl.prompts.json_rows import NoColumnError, first_broken
from refine_rl.prompts.rows import RowSource, read_rows


def read_prompts(source: str, folder: Path, columns: Columns = AS_THEY_ARE) -> list[Candidate]:
    """Every row of a source that `read_rows` knows, in its order; `columns` says where prompt and data stand.

    Raises what `read_rows` raises, and UserError that names the broken rows by line (in a .json list by
    item), ids given twice, or a source without prompts.
    """
    return check_rows(read_rows(source, folder, key="prompts.source", wrong=columns.missing), columns)


def check_rows(source: RowSource, columns: Columns = AS_THEY_ARE) -> list[Candidate]:
    """Make candidates of the rows; all broken ones are named in one UserError."""
    found: list[Candidate] = []
    broken: list[tuple[str, RowError]] = []
    first_with_id: dict[str, str] = {}
    for name, row in source.rows:
        try:
            if isinstance(row, RowError):
                raise row
            new = candidate(row, f"{source.origin}:{name}", columns)
            if new.id is not None and first_with_id.setdefault(new.id, name) != name:
                raise RowError(f"has the id {new.id!r}, which {first_with_id[new.id]} has already")
        except RowError as error:
            broken.append((name, error))
        else:
            found.append(new)
    if broken:
        raise UserError(told(source.name, broken, all_alike=not found))
    if not found:
        raise UserError(f"{source.name}: there are no prompts in it")
    return found


def told(source: str, broken: list[tuple[str, RowError]], *, all_alike: bool) -> str:
    """The broken rows by name; once where the same is wrong with every row of the source."""
    if all_alike and len(broken) > 1 and len({str(error) for _, error in broken}) == 1:
        return f"{source}:{broken[0][0]} {broken[0][1]} (so it is with all {len(broken)} rows)"
    aside = {id(e): e.aside for _, e in broken if isinstance(e, NoColumnError)} if not all_alike else {}
    return first_broken([f"{source}:{name} {aside.get(id(error), error)}" for name, error in broken])
