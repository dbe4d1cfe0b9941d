"""refine check: good and bad answers, scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Refine = Callable[..., Any]  # its results have .code, .out and .err


def test_what_is_shown(refine: Refine, task: Path, tmp_path: Path) -> None:
    answers = tmp_path / "a.jsonl"
    row = {"prompt": "say something about the cat and a dog", "good": ["meow"], "bad": ["far too many words"]}
    answers.write_text(json.dumps(row) + "\n")
    done = refine("check", task, "--answers", answers)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].endswith("say something about the cat and a dog")
    assert lines[1].split() == ["answer", "reward", "chars", "words", "advantage"]
    assert lines[2].split() == ["good", "1", "2.000", "1.000", "1.000", "+0.707"]
    assert lines[-1] == (
        "No bad answer gets as much as a good one of its prompt; the highest has 0.500. Every component "
        "tells answers apart."
    )
    made = json.loads(refine("check", task, "--answers", answers, "--json").out)
    good, bad = made["prompts"][0]["answers"]
    assert (good["reward"], good["worth"], good["status"], good["breakdown"]) == (
        2.0,
        "good",
        "scored",
        {"chars": 1.0, "words": 1.0},
    )
    assert bad["reward"] < good["reward"]
    assert (made["components"], made["findings"], made["calls"]) == ({"chars": 1.0, "words": 1.0}, [], 0)


def test_made_up_answers_and_what_is_found(refine: Refine, task: Path) -> None:
    found = refine("check", task, "--count", "1", "--set", 'reward.rules=[{rule = "chars", max = 500}]')
    assert found.code == 0
    assert "\nlook  `chars` gives" not in found.out  # an empty answer gets nothing
    assert "'refusal' gets 1.000 of at most 1.000 with 1 of 1 prompt" in found.out
    for kind in ("empty", "off the topic", "copied prompt", "phrase repeated", "refusal"):
        assert f"\n{kind} " in found.out


def test_from_where_on_a_bad_answer_scores_well_is_said(refine: Refine, task: Path, tmp_path: Path) -> None:
    answers = tmp_path / "a.jsonl"
    answers.write_text(
        json.dumps({"prompt": "hi", "answers": ["meow"], "bad": ["far too many words"]}) + "\n"
    )
    found = refine("check", task, "--answers", answers)
    assert found.out.splitlines()[-1] == (
        "No bad answer gets 80 % of the top (1.600); the highest has 0.500. Every component tells answers "
        "apart."
    )


def test_a_function_that_raises_ends_with_2_after_the_table(
    refine: Refine, task: Path, tmp_path: Path
) -> None:
    import shutil

    folder = Path(shutil.copytree(task.parent, tmp_path / "broken"))
    (folder / "rewards.py").write_text("def f(prompt, completion):\n    return completion.nothing\n")
    found = refine("check", folder, "--set", 'reward.functions=["rewards.py:f"]')
    assert found.code == 2
    assert "missing" in found.out
    assert "`f`: " in found.err
    assert "AttributeError" in found.err
    assert "Traceback" not in found.out.partition("\n")[0]


def test_nobody_is_asked_before_a_person_agrees(
    refine: Refine, task: Path, llm_server: Callable[..., Any], llm_brain: Callable[..., str]
) -> None:
    server = llm_server(brain=llm_brain)
    flags = [
        "--set",
        'reward.judges=["mine/j"]',
        "--set",
        f'endpoints.mine.base_url="{server.base_url}"',
        "--set",
        'endpoints.mine.prices={"*" = {input = 1000.0, output = 2000.0}}',
        "--count",
        "1",
    ]
    refused = refine("check", task, *flags)
    assert refused.code == 2
    assert "Scoring 10 answers takes up to 1 calls to mine/j, at most about $" in refused.err
    assert "say --yes" in refused.err
    assert not server.requests
    agreed = refine("check", task, *flags, "--yes")
    assert agreed.code == 0
    assert "1 call, $" in agreed.out
    assert len(server.requests) == 1
    cap = ("--set", "budget.dollars=0.0001", "--set", "endpoints.mine.concurrency=1")
    capped = refine("check", task, *flags, "--yes", "--count", "3", *cap)
    assert capped.code == 3
    assert "--set budget.dollars=" in capped.err


def test_what_is_wrong_is_told_before_anything(refine: Refine, task: Path) -> None:
    assert "Name a task.toml (refine check task.toml)" in refine("check").err
    assert "no such file; give a file with a line" in refine("check", task, "--answers", "no.jsonl").err
