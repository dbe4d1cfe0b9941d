"""docs/serving.md: what it says of Python is run on a tuned model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
FEW = ("grpo.steps=1", "grpo.prompts_per_step=2", "grpo.validate_every=0", "evaluate.samples=1")


def block(name: str) -> str:
    (found,) = re.findall(rf"<!-- {re.escape(name)} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_exported_folders_load_as_the_page_says(
    refine: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    task = ROOT / "examples" / "short_answers"
    flags = [flag for setting in FEW for flag in ("--set", setting)]
    assert refine("train", task, "--run", "runs/demo", *flags).code == 0
    shown = re.findall(r"(?m)^refine (export [^#\n]* --out [^#\n]*)", PAGE)
    assert len(shown) == 2
    for command in shown:
        assert refine(*command.split()).code == 0
    merged: dict[str, Any] = {}
    capsys.readouterr()
    exec(block("use the merged model"), merged)  # noqa: S102  it is ours
    assert capsys.readouterr().out.strip()
    loaded: dict[str, Any] = {}
    exec(block("use the adapter"), loaded)  # noqa: S102
    ends = loaded["model"].generation_config.eos_token_id
    assert ends == merged["model"].generation_config.eos_token_id
    answers = [
        names["model"].float().generate(**merged["asked"], max_new_tokens=8, do_sample=False)[0].tolist()
        for names in (merged, loaded)
    ]
    assert answers[0] == answers[1]
