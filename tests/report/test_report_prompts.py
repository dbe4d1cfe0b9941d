"""The page's section on prompts: coverage, where they came from, a few of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import make
from refine_rl.report import data
from refine_rl.report.page import render
from refine_rl.run import RunFolder
from refine_rl.types import Prompt, Split

MakeRun = Callable[..., RunFolder]
NOTES = (
    "31 prompts written by openrouter/writer",
    "7 rejected: it is a refusal, such as “<i>I'm sorry”",
    "kept 4 train, 1 validation, 3 held-out",
    "system message: You <b>answer</b>.",
)


def prompt(number: int, split: Split, **facets: str) -> Prompt:
    text, origin = f"<u>Question {number}</u>", "writer:openrouter/writer"
    return make.prompt(number, text, split=split, facets=facets, origin=origin)


def with_prompts(tmp_path: Path, make_run: MakeRun) -> RunFolder:
    run = make_run(tmp_path / "run", steps=1, compared=False)
    run.save_prompts(
        [
            *(prompt(n, "train", tone="calm", topic=f"<t{n}>") for n in range(4)),
            prompt(4, "validation", tone="angry", topic="<t0>"),
            prompt(5, "held_out", tone="calm", topic="<t0>"),
            prompt(6, "held_out", tone="angry", topic="<t1>"),
            prompt(7, "held_out", tone="angry", topic="<t1>"),
        ]
    )
    table = "facet  value  train  validation  held-out\ntone   calm 4 0 1"
    run.event("curation", "rubric", "not this one")
    run.event("curation", "prompts", "\n".join((*NOTES, table)))
    return run


def test_what_the_page_knows_of_the_prompts(tmp_path: Path, make_run: MakeRun) -> None:
    run = with_prompts(tmp_path, make_run)
    found = data.prompts(run, run.events())
    assert found is not None
    assert found.notes == NOTES
    assert found.facets == (
        ("tone", (("calm", (4, 0, 1)), ("angry", (0, 1, 2))), 0),
        (
            "topic",
            (("<t0>", (1, 1, 1)), ("<t1>", (1, 0, 2)), ("<t2>", (1, 0, 0)), ("<t3>", (1, 0, 0))),
            0,
        ),
    )
    assert found.whole == (("tone: angry, topic: <t1>", 2),)
    assert [(split, [p.id for p in some]) for split, some in found.examples] == [
        ("train", ["p0", "p1", "p2"]),
        ("validation", ["p4"]),
        ("held-out", ["p5", "p6", "p7"]),
    ]
    facts = data.facts(run, run.settings(), [], None)
    assert facts["Prompts"] == "4 train, 1 validation, 3 held-out, written by openrouter/writer"


def test_the_section_shows_it_escaped(tmp_path: Path, make_run: MakeRun) -> None:
    html = render(with_prompts(tmp_path, make_run))
    section = html[html.index('<section id="prompts"') : html.index('<section id="times"')]
    assert '<a href="#prompts">' in html
    assert "2 of 3 held-out prompts have a combination of facets that no other prompt has" in section
    assert "<li>system message: You &lt;b&gt;answer&lt;/b&gt;.</li>" in section
    assert "facet  value" not in section
    assert "&lt;u&gt;Question 0&lt;/u&gt;" in section
    assert "<u>" not in section
    rows = re.findall(r"<td>([^<]*)</td>((?:<td class=\"num[^>]*>\d+</td>)+)", section)
    assert [(value, re.findall(r">(\d+)<", counts)) for value, counts in rows[:3]] == [
        ("calm", ["4", "0", "1"]),
        ("angry", ["0", "1", "2"]),
        ("&lt;t0&gt;", ["1", "1", "1"]),
    ]
    assert "<li>tone: angry, topic: &lt;t1&gt; (2 prompts)</li>" in section


def test_many_values_are_cut_and_the_cut_is_said(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", steps=1, compared=False)
    run.save_prompts([prompt(n, "train", topic=f"t{n}") for n in range(45)])
    found = data.prompts(run, [])
    assert found is not None
    assert (len(found.facets[0][1]), found.facets[0][2], found.notes) == (40, 5, ())
    assert "5 more values; prompts.jsonl" in render(run)


def test_without_prompts_or_facets(tmp_path: Path, make_run: MakeRun) -> None:
    settings = make_run(tmp_path / "other", steps=1).settings()
    empty = RunFolder.create(tmp_path / "empty", settings)
    assert data.prompts(empty, []) is None
    assert 'id="prompts"' not in render(empty)
    empty.save_prompts([prompt(0, "train"), prompt(1, "held_out")])
    html = render(empty)
    assert 'id="prompts"' in html
    assert 'class="coverage"' not in html
    assert "Held out whole" not in html
