"""Games of several turns on the page and in the terminal."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import make
from games import LOST, SOLVED, game, games_run
from packed import carried
from refine_rl.evaluate.compare import dialogue_of
from refine_rl.report import screen
from refine_rl.report.data import examples
from refine_rl.report.dialogue import ending, exchanges, laid_out, lines, told
from refine_rl.report.page import render
from refine_rl.report.plots import training_plots
from refine_rl.report.tiles import pieces, tinted
from refine_rl.report.turns import said_in, turns
from refine_rl.run import RunFolder
from refine_rl.run.records import comparison_from, comparison_text
from refine_rl.types import Dialogue

HOSTILE = "<script>window.hacked=1</script>"
PROMPT = make.prompt(1, "Find it.")


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return games_run(tmp_path_factory.mktemp("games") / "run", HOSTILE)


def of(said: tuple[str, ...], rewards: tuple[float, ...] = (), **how: str) -> Dialogue:
    found = dialogue_of(game(PROMPT, said, rewards, **how), PROMPT)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_who_said_what_and_what_it_earned() -> None:
    found = exchanges(of(("25", "higher", "33", "lower", "29"), (0.0, 0.25)))
    assert [(e.number, e.said, e.heard, e.reward) for e in found] == [
        (1, "25", "higher", 0.0),
        (2, "33", "lower", 0.25),
        (3, "29", "", None),  # cut: the world did not see it
    ]
    tools = replace(
        of(("a", "b")),
        messages=({"role": "assistant", "content": "a"},) + 2 * ({"role": "tool", "content": "b"},),
    )
    assert [(e.said, e.heard) for e in exchanges(tools)] == [("a", "b\nb")]


@pytest.mark.parametrize(
    ("end", "why", "said"),
    [
        ("done", "", "done after 3 turns"),
        ("limit", "3 turns", "ended by a limit after 3 turns: 3 turns"),
        ("failed", "it hung", "the world failed after 3 turns: it hung"),
    ],
)
def test_the_three_ends(end: str, why: str, said: str) -> None:
    assert ending(of(SOLVED, (0, 0, 1), end=end, why=why)) == said


@pytest.mark.parametrize(
    ("turns", "before", "between", "behind"), [(8, 8, 0, 0), (9, 3, 3, 3), (40, 3, 34, 3)]
)
def test_long_games_are_folded(turns: int, before: int, between: int, behind: int) -> None:
    laid = laid_out(of(tuple(f"{k}" for k in range(2 * turns)), (0.0,) * turns))
    assert tuple(map(len, (laid.before, laid.between, laid.behind))) == (before, between, behind)
    shown = [*laid.before, *laid.between, *laid.behind]
    assert [e.number for e in shown] == list(range(1, turns + 1))
    assert not laid.long
    assert laid_out(of(("two\nlines", "b"))).long


def test_a_line_for_the_terminal() -> None:
    assert told(of(SOLVED, (0, 0, 1))) == "25 → higher · 33 → lower · 29 → right (done after 3 turns)"
    assert lines(of(("25", "higher", ""), (-0.5,), end="limit", why="a turn was cut")) == [
        " 1  25 → higher  [−0.50]",
        " 2  (nothing)",
        "ended by a limit after 2 turns: a turn was cut",
    ]
    many = told(of(tuple(f"{k}" for k in range(20)), (0.0,) * 10))
    assert "4 → 5 · … 4 more turns … · 14 → 15" in many


def test_tiles() -> None:
    assert [(p.text, p.colour) for p in pieces("🟩🟨 x⬛\ufe0fb")] == [
        ("", "green"),
        ("", "yellow"),
        (" ", ""),
        ("x", "black"),
        ("b", ""),
    ]
    assert pieces("no tile") == pieces("no tile")[:1]
    assert tinted("S🟩ok").plain == " S ok"


def test_tiles_of_marked_signs() -> None:
    told = "spree → 1s+ 2p? 3a- · c++ s+ p? no"
    assert [(p.text, p.colour) for p in pieces(told)] == [
        ("spree → ", ""),
        ("S", "green"),
        ("P", "yellow"),
        ("A", "black"),
        (" · c++ s+ p? no", ""),
    ]
    assert tinted("s+ p? a-\n   r- e+").plain == " S  P  A \n    R  E "
    assert [p.text for p in pieces("s+ p? a-x")] == ["s+ p? a-x"]


def terminal(games: RunFolder, monkeypatch: pytest.MonkeyPatch, **how: object) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200, highlight=False, **how)  # type: ignore[arg-type]
    monkeypatch.setattr(screen, "results", lambda: console)
    comparison = games.comparison()
    assert comparison is not None
    screen.print_comparison(comparison)
    return out.getvalue()


def test_the_terminal_shows_games(games: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    written = terminal(games, monkeypatch)
    assert "tuned   25 → higher · 33 → lower · 29 → right (done after 3 turns)" in written
    assert "C🟩R🟨A⬛" in written  # a file keeps the text
    coloured = terminal(games, monkeypatch, force_terminal=True, color_system="truecolor")
    assert "🟩" not in coloured
    assert "\x1b[1;37;48;2;47;125;71m C " in coloured


def test_a_comparison_comes_back_with_its_games(games: RunFolder) -> None:
    comparison = games.comparison()
    assert comparison is not None
    assert comparison_from(json.loads(comparison_text(comparison))) == comparison
    shown = comparison.examples[1]
    assert set(shown.dialogues) == {"base", "tuned"}
    assert [m["content"] for m in shown.dialogues["base"].messages] == list(LOST)
    assert shown.dialogues["tuned"].played.rewards == (0, 0, 1)
    assert shown.tuned == "29"


def test_overlong_turns_are_cut_on_the_page(games: RunFolder) -> None:
    comparison = games.comparison()
    assert comparison is not None
    example = replace(comparison.examples[0], dialogues={"base": of(("x" * 9000, "y"))})
    (shown,) = examples(replace(comparison, examples=(example,)))
    said = exchanges(shown.dialogues["base"])[0].said
    assert len(said) < 4100
    assert said.endswith("more characters in the run’s files)")


def test_the_page_carries_the_worlds_record(games: RunFolder) -> None:
    groups = carried(games)[1]["steps"][0]["groups"]
    assert [m["world"]["end"] for m in groups[0]["members"]] == ["done", "done", "limit", "failed"]
    assert groups[0]["members"][3]["world"]["why"] == "step raised ValueError: no such number"
    assert groups[1]["members"][0]["world"]["rewards"] == [0.1] * 11 + [-0.2]


def test_what_worlds_say_is_escaped(games: RunFolder) -> None:
    page = render(games)
    assert HOSTILE not in page
    assert "&lt;script&gt;window.hacked=1&lt;/script&gt;" in page
    assert '<span class="tile green" title="green">C</span>' in page
    assert "<summary>6 more turns</summary>" in page
    assert "ended by a limit" not in page.split('id="rollout-data"')[0]


def test_what_was_said_turn_by_turn(games: RunFolder) -> None:
    found = turns(games)
    assert found is not None
    assert [number for number, _ in found.rows] == [1, 2, 3, 4, 5]
    first = found.rows[0][1]
    assert [(s.label, s.reached, s.reward, s.different) for s in first] == [
        ("base", 1.0, 0.0, 1),
        ("tuned", 1.0, 0.0, 1),
    ]
    assert first[1].frequent == (("25", 1.0),)
    assert found.rows[2][1][1].reward == 1.0
    assert [s.label for s in found.rows[3][1]] == ["base"]  # the tuned one had won
    assert [line.partition(" turns")[0] for line in found.ends] == ["base: 5.0", "tuned: 3.0"]


def test_tools_have_their_turns_on_the_page_too(tmp_path: Path) -> None:
    run = games_run(tmp_path / "run", HOSTILE)
    assert 'id="turns"' in render(run)
    settings = run.settings()
    changed = settings.rollout.model_copy(update={"environment": "", "tools": ["tools.py:add"]})
    run.config.save(settings.model_copy(update={"rollout": changed}))
    assert 'id="turns"' in render(run)


def test_the_most_frequent_answers_of_a_turn() -> None:
    said = ["b", "a", "a", "c  c", "b", "x" * 60]
    played = [game(PROMPT, (text, "no"), (0.5,)) for text in said]
    some = [(t, t.played) for t in played if t.played is not None]
    found = said_in(0, "base", [*some, (game(PROMPT, (), ()), some[0][1])])
    assert found.reached == pytest.approx(6 / 7)
    assert found.different == 4
    assert [text for text, _ in found.frequent] == ["a", "b", "c c", "x" * 39 + "…"]
    assert [part for _, part in found.frequent[:2]] == [pytest.approx(1 / 3)] * 2


def test_the_turns_over_the_steps(games: RunFolder) -> None:
    def drawn(metrics: list[dict[str, Any]]) -> dict[str, str]:
        return {chart.title: chart.alt for family in training_plots(metrics, []) for chart in family.charts}

    charts = drawn(games.metrics())
    assert "3.50 at step 1 to 2.50 at step 2" in charts["Turns of a trajectory, mean"]
    assert "0.25 at step 1" in charts["Share of trajectories that a limit ended"]
    assert "Share of trajectories whose world failed" not in charts
    failed = [{**m, "ends": {"done": 0.5, "failed": 0.5}} for m in games.metrics()]
    assert "Share of trajectories whose world failed" in drawn(failed)
