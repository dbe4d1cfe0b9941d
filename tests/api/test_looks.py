"""How what the verbs give back looks, in a terminal and below a notebook's cell."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import refine_rl as refine
from make import comparison as compared
from make import contrast
from refine_rl.api import html
from refine_rl.progress import Quiet
from refine_rl.run import RunFolder
from refine_rl.settings.file import settings_from_dict

Small = Callable[..., dict[str, Any]]
WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud"]
EVIL = '<script>alert("x")</script> & <b>'


class Balanced(HTMLParser):
    """Fails where a tag is not closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "a <b> run", settings_from_dict({"task": "t"}, tmp_path))


def test_a_run_in_a_terminal(tmp_path: Path) -> None:
    run = refine.Run(folder=Path("runs/a"), comparison=compared())
    first, verdict, report, model = repr(run).splitlines()
    assert (first, verdict) == ("Run runs/a", f"  {run.comparison}")
    assert (report, model) == ("  report: runs/a/report.html", "  model:  runs/a/model")
    losses = refine.SFTRun(folder=Path("runs/b"), before=2.0, after=1.5, training=1.0)
    assert repr(losses).splitlines()[:2] == ["SFTRun runs/b", "  validation loss 2.0000 -> 1.5000"]
    assert "training loss 1.0000" in repr(replace(losses, before=None, after=None))
    again = refine.Evaluation(folder=Path("runs/a"), file=Path("runs/a/e.json"), comparison=run.comparison)
    assert repr(again).splitlines()[0] == "Evaluation of runs/a"


def test_a_run_in_a_notebook(folder: RunFolder) -> None:
    comparison = compared("better", contrast(0.2, 0.8))
    assert comparison.reward is not None
    named = replace(comparison, details={f"component:{EVIL}": comparison.reward})
    text = html.run(folder, named)
    assert Balanced(text).tags == {"div", "b", "code", "table", "thead", "tbody", "tr", "th", "td"}
    assert EVIL not in text
    assert "&lt;script&gt;alert(&quot;x&quot;)" in text
    assert "a &lt;b&gt; run" in text
    numbers = re.findall(r"<td[^>]*>([^<]*)</td>", text)
    assert numbers[0] == "reward"
    assert numbers[1] == f"{comparison.reward.base.mean:.2f}"


def test_the_report_is_linked_once_it_is_there(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path.parent)
    assert "<a " not in html.run(folder, compared())
    folder.save_report("<p>")
    assert '<a href="a%20%3Cb%3E%20run/report.html"' in html.run(folder, compared())


def test_a_curve() -> None:
    text = html.curve([(1, 0.0), (2, 0.5), (3, 1.0)], [(2, 0.25)], "reward")
    Balanced(text)
    (line,) = re.findall(r'points="([^"]*)"', text)
    (dot,) = re.findall(r'<circle cx="([^"]*)" cy="([^"]*)"', text)
    assert line == "4.0,106.0 210.0,55.0 416.0,4.0"
    assert dot == ("210.0", "80.5")
    assert "reward of training, step 1: 0.00; step 3: 1.00" in text
    assert html.curve([(1, 0.5)], [], "reward") == ""
    Balanced(html.curve([(1, 0.5), (2, 0.5)], [], "reward"))


def test_prompts_are_a_list_that_can_be_kept(tmp_path: Path) -> None:
    rows = [{"prompt": f"{EVIL} number {n} of the list"} for n in range(12)]
    found = refine.prompts("Be brief.", prompts=rows, observer=Quiet())
    assert len(found) == 12
    assert isinstance(found[0], refine.Prompt)
    assert [p.id for p in found[:2]] == [p.id for p in list(found)[:2]]
    assert len(found.of("train")) + len(found.of("validation")) + len(found.of("held_out")) == 12
    assert repr(found).splitlines()[:2] == ["12 prompts", "  12 prompts read from a list"]
    text = found._repr_html_()
    Balanced(text)
    assert EVIL not in text
    file = found.save(tmp_path / "kept.jsonl")
    assert {json.loads(line)["id"] for line in file.read_text().splitlines()} == {p.id for p in found}
    again = refine.prompts("Be brief.", prompts=file, observer=Quiet())
    assert {p.text for p in again} == {p.text for p in found}
    with pytest.raises(refine.UserError, match="exists already; name a new file"):
        found.save(file)


def test_a_plan_is_a_few_lines(make_model: Callable[..., Path]) -> None:
    prompts = [f"say something about the {a} and a {b}" for a in WORDS for b in WORDS if a < b]
    model = {"name": str(make_model("llama")), "dtype": "float32"}
    rollout = {"max_tokens": 20}
    grpo = {"prompts_per_step": 2, "steps": 3}
    rules = [{"rule": "words", "max": 3}]
    planned = refine.plan("Be brief.", model=model, prompts=prompts, rules=rules, rollout=rollout, grpo=grpo)
    lines = repr(planned).splitlines()
    assert lines[0] == "Plan"
    assert [line.split(":")[0].strip() for line in lines[1:6]] == [
        "prompts",
        "calls",
        "time",
        "memory",
        "disk",
    ]
    assert "none to LLMs" in lines[2]
    judged = refine.plan(
        "Be brief.", model=model, prompts=prompts, judge="ollama/j", rollout=rollout, grpo=grpo
    )
    assert re.search(r"calls: +\d[^ ]* to LLMs: the price of ollama/j is unknown", repr(judged))
