"""A training of a second, through the Python door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.progress import Quiet

collect_ignore = ["typed.py"]  # a caller's file, for a type checker: not to be run
MakeModel = Callable[..., Path]


@pytest.fixture
def small(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """small(...) -> arguments of a training of a second, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def arguments(**changes: Any) -> dict[str, Any]:
        usual: dict[str, Any] = {
            "model": {"name": str(make_model("llama")), "device": "cpu", "dtype": "float32", "rank": 2},
            "rollout": {"group_size": 3, "max_tokens": 8},
            "grpo": {"steps": 2, "prompts_per_step": 2, "all_cut_patience": 99, "validate_every": 0},
            "evaluate": {"samples": 1, "bootstrap": 100},
            "observer": Quiet(),
        }
        return {**usual, **changes}

    return arguments
