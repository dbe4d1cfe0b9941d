"""The line at the bottom of a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from rich.text import Text

import make
import terminal
from refine_rl.report.bottom import Bottom
from refine_rl.report.screen import Screen

Told = Callable[[str], None]  # waits until the line has this in it
Shown = Callable[[Callable[[Screen, Told], object]], terminal.Screen]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What a terminal of 60 columns shows when something was told to a Screen on it."""

    def show(tell: Callable[[Screen, Told], object]) -> terminal.Screen:
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "60")
        with terminal.terminal() as (stream, seen), monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            with Screen() as screen:
                tell(screen, lambda text: terminal.until(lambda: text in "".join(seen)))
        seen_there = terminal.Screen(columns=60)
        seen_there.feed("".join(seen))
        return seen_there

    return show


def test_lines_scroll_above_it_and_it_goes_with_the_block(shown: Shown) -> None:
    def tell(screen: Screen, told: Told) -> None:
        screen.stage("Training, steps 1 to 3")
        screen.count("steps", 0, 3)
        for step in (1, 2):
            screen.step(make.metrics(step), 3)
        screen.count("groups", 1, 4)
        told("groups 1/4")

    seen = shown(tell)
    rows = [row for row in seen.rows if row]
    assert [row[10:].split("  ")[0] for row in rows] == ["Training, steps 1 to 3", "1/3", "2/3"]
    assert seen.rows[-1] == ""
    assert seen.unknown == []  # the cursor was neither hidden nor moved up, the screen not changed
    assert any("step 2/3  ━━━" in line for line in seen.drawn)
    assert any(line.endswith("groups 1/4") for line in seen.drawn)
    assert max(map(len, seen.drawn)) < 60


def test_what_others_write_goes_above_it(shown: Shown) -> None:
    def tell(screen: Screen, told: Told) -> None:
        screen.count("steps", 1, 3)
        print("a warning of a library", file=sys.stderr)
        sys.stderr.writelines(["two lines\n", "at once\n"])
        screen.step(make.metrics(2), 3)

    seen = shown(tell)
    assert [row for row in seen.rows if row][:3] == ["a warning of a library", "two lines", "at once"]
    assert "2/3" in seen.rows[3]
    assert len(seen.rows) == 5


def test_somebody_elses_line_is_left_alone_until_it_ends(shown: Shown) -> None:
    def tell(screen: Screen, told: Told) -> None:
        screen.count("steps", 1, 3)
        for share in (10, 50, 100):
            sys.stderr.write(f"\rdownload {share} %")
            screen.count("groups", 1, 3)
        screen.note("a note")
        sys.stderr.write("\rmore")
        sys.stderr.write(" and more\n")
        screen.note("the end")

    seen = shown(tell)
    assert [row.strip() for row in seen.rows] == ["download 100 %", "a note", "more and more", "the end", ""]


def test_a_line_of_a_person_is_as_wide_as_the_screen_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for columns in (20, 40, 60, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        with terminal.terminal() as (stream, seen), monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            with Screen() as screen:
                screen.stage("x" * 200)
                screen.count("steps", 11, 5000)
                screen.draw()
                screen.stage("y" * 200)
                screen.count("answers that have a name of some length", 1, 3000)
                screen.draw()
        there = terminal.Screen(columns=columns)
        there.feed("".join(seen))
        assert max(map(len, there.drawn)) < columns


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": "unknown"}])
def test_a_terminal_that_cannot_go_back_gets_lines(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with terminal.terminal() as (stream, seen), monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        with Screen() as screen:
            screen.count("steps", 1, 3)
            screen.step(make.metrics(2), 3)
    assert "\r\x1b" not in "".join(seen)
    assert "".join(seen).count("\n") == 1


def test_no_colour_leaves_the_bar_readable(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    def tell(screen: Screen, told: Told) -> None:
        screen.count("steps", 1, 2)
        told("step 1/2")

    seen = shown(tell)
    assert any("━━━" in line and "───" in line for line in seen.drawn)


def test_what_pretends_to_be_a_terminal_gets_no_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Screen() as screen:
        screen.count("steps", 1, 3)
        screen.step(make.metrics(2), 3)
    said = capsys.readouterr().err
    assert "\r" not in said
    assert "\x1b[2K" not in said


class Gone:
    """A terminal whose other end was closed."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError("Input/output error")

    def flush(self) -> None:
        raise OSError("Input/output error")


def test_a_terminal_that_goes_away_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Gone())
        with Screen() as screen:
            screen.stage("Training")
            screen.count("steps", 1, 3)
            screen.step(make.metrics(2), 3)
            screen.warning("nobody reads this")


def test_an_error_in_the_drawing_ends_nothing(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Bottom, text: Text) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Bottom, "show", broken)
    seen = shown(lambda screen, told: screen.step(make.metrics(2), 3))
    assert "2/3" in seen.text  # as a plain line


def test_an_error_inside_goes_on_and_leaves_no_half_line(shown: Shown) -> None:
    def tell(screen: Screen, told: Told) -> None:
        screen.count("steps", 1, 3)
        raise KeyError("of the run")

    with pytest.raises(KeyError, match="of the run"):
        shown(tell)
