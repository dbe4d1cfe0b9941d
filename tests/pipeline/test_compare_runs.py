"""What is said before two runs are set beside one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refine_rl.pipeline.compare_runs import _formats
from refine_rl.pipeline.players import Player
from refine_rl.run import RunFolder
from refine_rl.settings.file import settings_from_dict


def player(folder: Path, name: str, dtype: str) -> Player:
    table: dict[str, Any] = {"task": "Be brief.", "reward": {"rules": [{"rule": "words", "max": 5}]}}
    settings = settings_from_dict({**table, "model": {"name": "tiny", "dtype": dtype}}, folder)
    return Player(name=name, model="tiny", folder=RunFolder.create(folder / name, settings))


def test_runs_of_different_number_formats_are_told_apart(tmp_path: Path) -> None:
    coarse, exact = player(tmp_path, "coarse", "bfloat16"), player(tmp_path, "exact", "float32")
    (said,) = _formats(coarse, exact)
    assert said.startswith("The number formats differ: coarse in bfloat16, exact in float32. Each was")
    assert _formats(exact, player(tmp_path, "again", "float32")) == []
    assert _formats(coarse, Player(name="of the hub", model="tiny")) == []
