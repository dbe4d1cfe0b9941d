"""docs/judges.md against what is really sent, read and written."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.rewards.judges.absolute import read_grade
from refine_rl.rewards.judges.pairwise import read_winner
from refine_rl.rewards.steps.judge import read_first_wrong

PAGE = (Path(__file__).parents[1] / "docs" / "judges.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    """The text of the fenced block below `<!-- name -->`."""
    (found,) = re.findall(rf"<!-- {re.escape(name)} -->\n```\w*\n(.*?)\n```", PAGE, re.S)
    return str(found)


def test_the_command_sends_the_request_of_the_page_and_writes_its_scores(
    refine: Callable[..., Any], llm_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = llm_server(brain=lambda body: block("a good reply"))
    (tmp_path / "groups.jsonl").write_text(block("groups.jsonl") + "\n")
    program, *arguments = shlex.split(block("the command"))
    assert program == "refine"
    arguments[arguments.index("--base-url") + 1] = server.base_url
    done = refine(*arguments)
    assert done.code == 0, done.err
    (request,) = server.requests
    system, user = request.pop("messages")
    assert (system["role"], system["content"]) == ("system", block("the system message"))
    assert (user["role"], user["content"]) == ("user", block("the user message"))
    assert request == json.loads(block("the body"))
    assert json.loads((tmp_path / "scored.jsonl").read_text()) == json.loads(block("scored.jsonl"))
    (kept,) = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    assert (kept["reply"], kept["messages"]) == (block("a good reply"), [system, user])


@pytest.mark.parametrize(
    ("kind", "read", "value"),
    [
        ("absolute", read_grade, 9.0),
        ("pairwise", read_winner, 1.0),
        ("reward.steps", lambda reply: read_first_wrong(reply, steps=3), 2),
    ],
)
def test_the_replies_of_the_other_kinds_can_be_read(
    kind: str, read: Callable[[object], tuple[float, str]], value: float
) -> None:
    (written,) = re.findall(rf"\| `{re.escape(kind)}` \| `(\{{.*?\}})`", PAGE)
    found, explanation = read(json.loads(written))
    assert found == value
    assert explanation
