"""refine serve: the tuned model behind an OpenAI-compatible address."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from refine_rl.cli.interrupt import StopNow, until_stopped
from refine_rl.cli.model import CHECKPOINT
from refine_rl.errors import UserError

if TYPE_CHECKING:
    from refine_rl.pipeline.serve.opened import Serving


def serve(
    run: Path = typer.Argument(..., help="A run with a tuned model; one without with --checkpoint."),
    port: int = typer.Option(8000, "--port", min=0, max=65535, help="0: any that is free."),
    host: str = typer.Option(
        "127.0.0.1", "--host", help="The address to listen on; 0.0.0.0: reached from other machines as well."
    ),
    checkpoint: str | None = CHECKPOINT,
    kind: str = typer.Option(
        "auto",
        "--with",
        metavar="auto|own|vllm",
        help="Who computes: the run's own sampler, or vLLM. auto: vLLM where it is installed and fits, and "
        "there is a GPU.",
    ),
    key_env: str | None = typer.Option(
        None, "--key-env", metavar="NAME", help="Requests must bring the key that this variable holds."
    ),
    system: str | None = typer.Option(
        None, "--system", help="Before messages without a system message; without it, the run's own."
    ),
    no_system: bool = typer.Option(False, "--no-system", help="Leave such messages as they come."),
    check: bool = typer.Option(
        True, "--check/--no-check", help="Ask each model one held-out prompt first, and compare."
    ),
) -> None:
    """Serve the tuned model to programs that speak OpenAI's protocol. "tuned" and "base" are its models'
    names; Ctrl-C ends it."""
    from refine_rl.pipeline.serve.opened import KINDS, greedy_on_record, has_world, key_from, serving
    from refine_rl.pipeline.weights import choose_weights
    from refine_rl.report.screen import say, talk
    from refine_rl.run import RunFolder

    if kind not in KINDS:
        raise UserError(f"--with {kind}: it is {', '.join(KINDS[:-1])} or {KINDS[-1]}.")
    if system is not None and no_system:
        raise UserError("--system and --no-system: one of them.")
    folder = RunFolder.open(run)
    weights = choose_weights(folder, checkpoint)
    key = key_from(key_env, os.environ)

    def done(model: str, read: int, written: int) -> None:
        say(talk(), f"{model}: {read} tokens read, {written} written", style="dim")

    with serving(
        folder,
        weights,
        host=host,
        port=port,
        kind=kind,
        key_env=key_env,
        system="" if no_system else system,
        note=lambda text: say(talk(), text),
        done=done,
    ) as served:
        try:
            if check and greedy_on_record(folder, weights):
                _check(served, key)
            _greet(served, host, has_world(folder))
            until_stopped()
        except StopNow:
            say(talk(), f"\n{run} is no longer served.")


def _check(served: Serving, key: str) -> None:
    from refine_rl.report.screen import Screen, say, talk

    asked, found = served.check(key)
    for one in found:
        Screen().warning(
            f'"{one.model}" answers {one.prompt!r} with {one.served!r} here, and with {one.recorded!r} in '
            "the run's own files: rounding by another machine or number format, or not the same model."
        )
    if asked and not found:
        say(
            talk(),
            "Checked over HTTP: a held-out prompt's greedy answers are those of the run, to the letter.",
        )


def _greet(served: Serving, host: str, world: bool) -> None:
    from refine_rl.pipeline.serve.opened import is_this_machine
    from refine_rl.report.screen import Screen, results, say, talk

    names, out = served.names, results()
    say(out, f"Serving {served.folder.path}: {served.address}")
    say(out, f"Models: {', '.join(names.all)} (by {served.by})")
    sys.stdout.flush()
    said = f"{names.system!r} goes before messages that have none" if names.system else "none is added"
    say(talk(), f"System message: {said}")
    if not is_this_machine(host):
        who = "with the key" if served.key_env else "without a key"
        Screen().warning(f"--host {host}: other machines reach it, {who}, and nothing is encrypted.")
    if world:
        say(talk(), "The run was trained in a world of several turns: here each request is one turn, and the "
            "world's part is yours.")  # fmt: skip
    print(f"\n{served.curl()}\n\n{served.python()}\n", flush=True)
    say(talk(), "As the judge or writer of another run:")
    print(f'[endpoints.mine]\nbase_url = "{served.address}"' + _key_line(served.key_env), file=sys.stderr)
    say(talk(), "and its model is mine/tuned or mine/base. Ctrl-C ends the serving.")


def _key_line(key_env: str) -> str:
    return f'\nkey_env = "{key_env}"' if key_env else ""
