"""refine chat: a talk with the tuned model, and the untrained one beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from refine_rl.cli.interrupt import StopNow
from refine_rl.cli.model import CHECKPOINT, line_editing, next_message
from refine_rl.errors import UserError

if TYPE_CHECKING:
    from refine_rl.pipeline.chat import Chat
    from refine_rl.pipeline.weights import Weights
    from refine_rl.run import RunFolder


def chat(
    run: Path = typer.Argument(..., help="A run with a tuned model; one without with --checkpoint."),
    checkpoint: str | None = CHECKPOINT,
    base: bool = typer.Option(False, "--base", help="The untrained model's answer as well, beside it."),
    talk: bool = typer.Option(False, "--talk", help="Each model remembers what you and it said."),
    temperature: float = typer.Option(0.0, "--temperature", min=0.0, help="0: the most likely answer."),
    max_tokens: int | None = typer.Option(
        None, "--max-tokens", min=1, help="An answer is cut here; without it, the run's limit."
    ),
    system: str | None = typer.Option(None, "--system", help="Without it, the run's own system message."),
    as_json: bool = typer.Option(
        False, "--json", help="For programs: a message a line in, a JSON object a line out."
    ),
) -> None:
    """Talk to the tuned model. Every message stands alone, as in training, unless --talk says otherwise;
    /help says what else there is, an empty line ends, and Ctrl-C stops an answer."""
    from refine_rl.pipeline.chat import open_chat
    from refine_rl.pipeline.weights import choose_weights
    from refine_rl.report.screen import say
    from refine_rl.report.screen import talk as messages
    from refine_rl.run import RunFolder

    folder = RunFolder.open(run)
    weights = choose_weights(folder, checkpoint)
    say(messages(), f"Loading {folder.settings().model.called} ...")
    opened = open_chat(
        folder, weights, temperature=temperature, max_tokens=max_tokens, system=system, base=base
    )
    if talk:
        opened.command("/talk")
    _greet(folder, weights, opened)
    line_editing()
    while (text := _next(as_json)) and text != "/quit":
        try:
            if text.startswith("/") and not text.startswith("//"):
                _obey(opened, text)
            else:
                _answer(opened, text[1:] if text.startswith("//") else text, as_json)
        except UserError as mistake:
            _tell_mistake(mistake, text, as_json)


def _greet(folder: RunFolder, weights: Weights, opened: Chat) -> None:
    from refine_rl.report.screen import say, talk

    settings = folder.settings()
    which = "tuned" if weights.checkpoint is None else f"after {weights.trained.text(folder.planned_steps())}"
    say(talk(), f"{settings.model.called}, {which}: {settings.task.strip()}")
    if opened.stage is None:
        how = "Each model remembers what was said" if opened.goes_on else "Every message stands alone"
        say(talk(), f"{how}. /help says what else there is; an empty line ends.")
        return
    known = [p.id for p in folder.prompts() if p.split == "held_out"]
    say(
        talk(),
        f"Each message sets a world of {settings.rollout.world} going, which you see played: a "
        f"prompt's id ({', '.join(known[:3])} ... {known[-1]}) takes its data, any other text has none. "
        "/help says what else there is; an empty line ends.",
    )


def _next(as_json: bool) -> str:
    """The next message; "" at the end. In the input of a program an empty line is none."""
    if not as_json:
        return next_message()
    return next((line.strip() for line in sys.stdin if line.strip()), "")


def _obey(opened: Chat, text: str) -> None:
    from refine_rl.pipeline.chat import COLUMN
    from refine_rl.report.screen import say, talk

    for line in opened.command(text).split("\n"):
        say(talk(), line, under=COLUMN if line.startswith("/") else None)


def _answer(opened: Chat, text: str, as_json: bool) -> None:
    from refine_rl.report.beside import Beside
    from refine_rl.report.screen import results, say, talk

    if as_json:
        print(json.dumps({"message": text, **dict(opened.answers(text))}, ensure_ascii=False), flush=True)
    elif results().is_terminal and opened.stage is None:
        try:
            with Beside(results(), opened.names) as beside:
                for who, answer in opened.answers(text, beside.tell):
                    beside.tell(who, answer)
        except StopNow:
            say(talk(), "Stopped; nothing of it is remembered. An empty line ends.")
    else:
        for who, answer in opened.answers(text):
            say(results(), f"{who + ':':<6} {answer}")


def _tell_mistake(mistake: UserError, text: str, as_json: bool) -> None:
    from refine_rl.report.screen import print_error

    print_error(mistake)
    if as_json and (not text.startswith("/") or text.startswith("//")):
        print(json.dumps({"message": text, "error": str(mistake)}, ensure_ascii=False), flush=True)
