"""docs/python.md: made from the docstrings, and its beginning runs as it stands."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import refine_rl as refine
from refine_rl import api
from refine_rl.api.docs import python_markdown
from refine_rl.progress import Quiet

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def blocks(text: str) -> list[str]:
    return re.findall(r"(?ms)^```python\n(.*?)^```", text)


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == python_markdown(), (
        "stale: python -m refine_rl.api.docs > docs/python.md"
    )


def test_every_public_name_is_on_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    verbs = [name for name in api.__all__ if name.islower()]
    assert [name for name in verbs if f"### {name}\n" not in text] == []
    assert [
        name for name in refine.__all__ if not re.search(rf"(?m)^### {name}$|^\| `{name}` \|", text)
    ] == []


@pytest.mark.parametrize("name", [name for name in api.__all__ if name.islower()])
def test_every_parameter_is_said_what_it_is(name: str) -> None:
    function = getattr(api, name)
    doc = inspect.getdoc(function) or ""
    if name == "plan":
        assert "The arguments are those of `train`." in doc
        return
    listed = re.findall(r"(?m)^    ([\w, ]+): ", doc.partition("Args:\n")[2])
    told = {each for names in listed for each in names.split(", ")}
    parameters = set(inspect.signature(function).parameters)
    assert parameters <= told or (name == "open_run" and "folder" in doc), parameters - told
    assert told <= parameters, told - parameters
    assert "Raises" in doc or "raises" in doc


def test_the_beginning_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head = PAGE.read_text(encoding="utf-8").partition("## Training")[0]
    train: Callable[..., Any] = api.train
    few = {"grpo": {"steps": 1, "prompts_per_step": 2}, "rollout": {"max_tokens": 12, "group_size": 2}}
    quiet = {"observer": Quiet(), "evaluate": {"samples": 1}}
    monkeypatch.setattr(refine, "train", lambda task, **given: train(task, **{**few, **quiet, **given}))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(head):
        exec(compile(block, "docs/python.md", "exec"), names)  # noqa: S102  the page is ours
    said = capsys.readouterr().out
    assert said.count("\nPlan\n") == 2
    (shown,) = re.findall(r"(?ms)^```\n(rewards is .*?)^```", head)
    assert said.endswith(shown)
