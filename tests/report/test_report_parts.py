"""The evidence by facet, and whether answers depend on the prompt."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from make import part
from refine_rl.report.page import render
from refine_rl.report.parts import by_facet, openings, variety
from refine_rl.run import RunFolder
from refine_rl.types import Comparison, Variety


def comparison(run: RunFolder, **more: object) -> Comparison:
    found = run.comparison()
    assert found is not None
    return dataclasses.replace(found, **more)  # type: ignore[arg-type]


def test_combinations_come_first_and_long_facets_are_cut(run: RunFolder) -> None:
    many = {f"v{i}": part(1, 0.5) for i in range(45)}
    together = {"seen": part(20, 0.5), "unseen": part(4, 0.25)}
    blocks = by_facet(comparison(run, facets={"style": many}, combinations=together))
    assert [(b.title, len(b.rows), b.left_out) for b in blocks] == [
        ("all facets together", 2, 0),
        ("style", 40, 5),
    ]
    assert [(r.label, r.intervals, r.few) for r in blocks[0].rows] == [
        ("combinations that training had", True, False),
        ("combinations held out whole", False, True),
    ]
    assert by_facet(comparison(run, facets={}, combinations={})) == []


def test_the_page_shows_facets_with_intervals_where_there_are_enough_prompts(
    tmp_path: Path, make_run: Callable[..., RunFolder]
) -> None:
    run = make_run(tmp_path / "run", steps=1)
    facets = {"style": {"<b>pirate</b>": part(12, 0.5), "haiku": part(4, 0.25)}}
    together = {"seen": part(8, 0.125), "unseen": part(8, 0.375)}
    run.save_comparison(comparison(run, facets=facets, combinations=together))
    html = render(run)
    table = re.sub(r"<[^>]+>", " ", html[html.index('<table class="numbers by-facet">') :])
    rows = " ".join(table[: table.index("Do the answers")].split())
    assert "combinations that training had 8 0.25 0.12 to 0.38 0.38 0.25 to 0.50 +0.12 0.00 to 0.25" in rows
    assert "combinations held out whole 8" in rows
    assert "&lt;b&gt;pirate&lt;/b&gt; 12 0.25 0.12 to 0.38 0.75 0.62 to 0.88 +0.50 0.38 to 0.62" in rows
    assert "haiku 4 0.25 0.50 +0.25" in rows  # too few for an interval
    assert "combination of all facets training had and had not" in html
    plain = make_run(tmp_path / "plain", steps=1)
    plain.save_comparison(comparison(plain, facets={}, combinations={}))
    assert "By facet" not in render(plain)


def test_values_that_are_numbers_stand_in_their_order(
    tmp_path: Path, make_run: Callable[..., RunFolder]
) -> None:
    """On record the most frequent come first; the page counts up, and cuts off the rarest all the same."""
    frequent_first = ["10", "9", "-1.5", "100", "+2", "0.5"]
    numbers = {value: part(20 - n, 0.5) for n, value in enumerate(frequent_first)}
    words = {value: part(20 - n, 0.5) for n, value in enumerate(["ten", "9", "many"])}
    run = make_run(tmp_path / "run", steps=1)
    run.save_comparison(comparison(run, facets={"size": numbers, "said": words}, combinations={}))
    found = run.comparison()
    assert found is not None
    assert [[row.label for row in block.rows] for block in by_facet(found)] == [
        ["-1.5", "0.5", "+2", "9", "10", "100"],
        ["ten", "9", "many"],
    ]
    html = render(run)
    table = html[html.index('<table class="numbers by-facet">') :]
    shown = re.findall(r'<td class="value">([^<]*)</td>', table[: table.index("</table>")])
    assert shown == ["-1.5", "0.5", "+2", "9", "10", "100", "ten", "9", "many"]
    many = {str(n): part(1 + (n % 45), 0.5) for n in range(45)}
    rarest_last = dict(sorted(many.items(), key=lambda item: -item[1].prompts))
    (block,) = by_facet(comparison(run, facets={"size": rarest_last}, combinations={}))
    assert [int(row.label) for row in block.rows] == list(range(5, 45))  # 0 to 4 are the rarest
    assert block.left_out == 5


def test_the_page_without_anything_to_compare(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tmp_path / "run", steps=1, held_out=4)
    nothing = {"base": None, "tuned": None, "difference": None, "facets": {}}
    run.save_comparison(
        comparison(run, verdict="not possible", prompts=0, prompts_missing=4, details={}, **nothing)
    )
    html = render(run)
    assert "Trained, but a comparison was not possible:" in html
    assert "They are compared on 0 of them" in html
    assert "whisker" not in html[html.index("<body>") :]
    assert 'id="answers"' in html  # the answers can be read all the same


def test_the_page_has_no_interval_over_too_few_prompts(
    tmp_path: Path, make_run: Callable[..., RunFolder]
) -> None:
    html = render(make_run(tmp_path / "run", steps=1, held_out=3))
    evidence = html[html.index('id="evidence"') : html.index('id="answers"')]
    assert 'class="mean"' in evidence
    assert 'class="ci"' not in evidence
    assert 'class="whisker"' not in evidence
    assert "From so few prompts no interval can be had." in evidence


def test_variety_of_both_sides_and_openings_of_a_few_steps(run: RunFolder) -> None:
    sides = {
        "base": Variety(distinct_share=1.0),
        "tuned": Variety(distinct_share=0.25, openings={"Ahoy, the": 0.5}),
        "tuned_greedy": Variety(distinct_share=0.0, openings={"": 1.0}),
    }
    assert variety(comparison(run, variety=sides)) == [
        "base, sampled answers: 100\N{NO-BREAK SPACE}%.",
        "tuned, sampled answers: 25\N{NO-BREAK SPACE}%. "
        "Most frequent openings: “Ahoy, the” (50\N{NO-BREAK SPACE}%).",
        "tuned, greedy answers: 0\N{NO-BREAK SPACE}%. "
        "Most frequent openings: nothing at all (100\N{NO-BREAK SPACE}%).",
    ]
    assert variety(comparison(run, variety={"base": Variety(distinct_share=None)})) == []
    metrics = [{"step": n, "openings": {"So": 0.5} if n > 1 else {}} for n in range(1, 14)]
    assert [step for step, _ in openings(metrics)] == [2, 4, 6, 8, 10, 12, 13]
    assert openings(metrics)[0] == (2, "“So” (50\N{NO-BREAK SPACE}%)")
    assert openings([{"step": 1}, {"step": 2, "openings": {}}]) == []
    assert [step for step, _ in openings(metrics[:3])] == [2, 3]
