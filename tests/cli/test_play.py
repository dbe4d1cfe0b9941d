"""`refine play`: a person in a world, alone and before the model."""

from __future__ import annotations

import re
import sys

import pytest
from typer.testing import CliRunner

from refine_rl.cli import app
from refine_rl.errors import UserError
from refine_rl.pipeline.game import Game, lay_table
from refine_rl.recipes.wordle import rules, world

runner = CliRunner()


def test_a_person_plays_a_recipe_alone() -> None:
    table = lay_table("wordle")
    answer = table.prompt(0, None).data["answer"]
    assert answer in rules.answers("held_out")
    wrong = next(word for word in rules.words() if word != answer)
    played = runner.invoke(app, ["play", "wordle"], input=f"{wrong}\n{answer}\n")
    assert played.exit_code == 0
    assert "you play alone" in played.stderr.lower()
    lines = played.stdout.splitlines()
    assert lines[0] == "play"
    assert lines[1] == world.show(wrong, rules.feedback(wrong, answer))
    assert lines[-1] == "you:   2 turns, rewards +0.00 +0.90"


def test_whoever_gives_up_is_told_so_and_another_prompt_can_be_named() -> None:
    table = lay_table("wordle")
    other = table.prompts[5]
    played = runner.invoke(app, ["play", "wordle", "--prompt", other.id], input=f"{other.data['answer']}\n")
    assert played.stdout.splitlines()[-1] == "you:   1 turn, rewards +1.00"
    assert runner.invoke(app, ["play", "wordle"], input="\n").stdout.splitlines()[-1] == (
        "you:   0 turns, rewards none"
    )
    with pytest.raises(UserError, match="no held-out prompt 'p9'; there are"):
        table.prompt(0, "p9")


def test_turns_run_out_for_people_too() -> None:
    table = lay_table("wordle")
    game = Game(table=table, prompt=table.prompt(0, None), number=0, rewards=[])
    assert game.start() == ""
    for left in reversed(range(6)):
        assert not game.over
        assert game.step("qqqqq") == "unknown"
        assert game.over is (left == 0)


def test_what_is_no_world_is_refused() -> None:
    with pytest.raises(UserError, match=r"style has no world to play in: it sets no rollout.environment"):
        lay_table("style")
    with pytest.raises(UserError, match="there is no recipe 'wordel'; did you mean 'wordle'"):
        lay_table("wordel")


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal")
def test_in_a_terminal_the_tiles_have_their_colours() -> None:
    import os
    import pty
    import subprocess

    table = lay_table("wordle")
    answer = table.prompt(0, None).data["answer"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "refine_rl", "play", "wordle"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color"},
    ) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        said = b""
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            if not more:
                break
            said += more
        assert process.wait(60) == 0
    os.close(ours)
    assert len(re.findall(rb"\x1b\[1;37;(?:42|48;[0-9;]+)m", said)) == 5
    assert b"1 turn, rewards +1.00" in said
