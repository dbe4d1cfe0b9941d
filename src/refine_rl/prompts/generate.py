"""Prompts from a Python file: its function `prompts(split, count, seed)` is called once a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from refine_rl.prompts.candidates import Candidate
from refine_rl.prompts.columns import AS_THEY_ARE, Columns
from refine_rl.prompts.files import check_rows
from refine_rl.prompts.own_code import own_function
from refine_rl.prompts.rows import RowSource
from refine_rl.types import Split


def generate_prompts(
    path: Path, counts: Mapping[Split, int], seed: int, columns: Columns = AS_THEY_ARE
) -> list[Candidate]:
    """Up to `counts` candidates a split, checked like the rows of a file.

    Raises UserError where the file or its function is missing, fails, or gives broken rows.
    """
    prompts = own_function(path, "prompts", "(split, count, seed)", key="prompts.source")

    def rows() -> Iterator[tuple[str, object]]:
        for split, count in counts.items():
            if count == 0:
                continue
            for number, row in enumerate(prompts(split, count, seed)[:count]):
                yield f"{split}[{number}]", {**row, "split": split} if isinstance(row, dict) else row

    return check_rows(RowSource(name=str(path), origin=f"file:{path.name}", rows=rows()), columns)
