"""refine play: a person in a world, and the model after them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from refine_rl.cli.model import line_editing, next_message

if TYPE_CHECKING:
    from refine_rl.pipeline.game import Table
    from refine_rl.types import Prompt


def play(
    target: str = typer.Argument(..., metavar="RUN|RECIPE", help="A run's folder, a task, or a recipe."),
    prompt: str | None = typer.Option(None, "--prompt", help="The id of a held-out prompt."),
    game: int = typer.Option(0, "--game", min=0, help="The number of the first game."),
) -> None:
    """Play in the world of a run or recipe, turn by turn. Where there is a tuned model it plays the same game
    after you. An empty line gives up."""
    from refine_rl.pipeline.game import Game, lay_table
    from refine_rl.report.screen import results, say, talk

    table = lay_table(target)
    say(talk(), f"{table.settings.task.strip()} An empty line gives up.")
    if table.speaker is None:
        say(talk(), "You play alone: a tuned model is in a run's folder (refine play runs/NAME).")
    line_editing()
    one = table.prompt(game, prompt)
    yours = Game(table=table, prompt=one, number=game, rewards=[])
    said = yours.start()
    for message in one.messages:
        say(results(), message["content"])
    _show(said)
    while not yours.over and (reply := next_message()):
        _show(yours.step(reply))
    say(results(), f"you:   {_summary(yours.rewards)}")
    _model(table, one, game)


def _model(table: Table, prompt: Prompt, number: int) -> None:
    from refine_rl.report.screen import results, say

    played = table.model_plays(prompt, number)
    if played is None:
        return
    for message in played.messages[len(prompt.messages) :]:
        if message["role"] == "assistant":
            say(results(), f"> {message['content']}")
        else:
            _show(message["content"])
    rewards = played.played.rewards if played.played else ()
    say(results(), f"model: {_summary(rewards)}")


def _summary(rewards: list[float] | tuple[float, ...]) -> str:
    turns = "turn" if len(rewards) == 1 else "turns"
    return f"{len(rewards)} {turns}, rewards {' '.join(f'{r:+z.2f}' for r in rewards) or 'none'}"


def _show(said: str) -> None:
    from refine_rl.report.screen import coloured, results, say, shown
    from refine_rl.report.tiles import tinted

    if not said:
        return
    if coloured(results()):
        results().print(tinted(shown(said)))
    else:
        say(results(), said)
    sys.stdout.flush()
