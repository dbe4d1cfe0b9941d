"""refine eval, refine report, refine replay: after a training."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from refine_rl.cli.model import CHECKPOINT
from refine_rl.cli.training import JSON, SET, print_after
from refine_rl.errors import DiskError, GuardStop, RefineError, UserError, no_file
from refine_rl.types import count_of

if TYPE_CHECKING:
    from refine_rl.run import RunFolder


RIVALS = typer.Option(
    None,
    "--rivals",
    metavar="NAMES",
    help="Other ways to the same end beside tuned: prompt, best_of_n, sft. Made where they are not yet.",
)
PROBES = typer.Option(
    None,
    "--probes/--no-probes",
    help="Look for what changed outside of the task: forgetting. Without it, as the run did.",
)


def evaluate(
    run: Path = typer.Argument(..., help="A run; one that is not finished with --checkpoint."),
    checkpoint: str | None = CHECKPOINT,
    prompts: str | None = typer.Option(
        None, "--prompts", help="Other prompts: a file, or recipe:NAME. Without it, the held-out ones."
    ),
    samples: int | None = typer.Option(None, "--samples", min=1, help="Sampled answers a prompt."),
    seed: int | None = typer.Option(
        None, "--seed", min=0, help="Of the draws; another one than the run's. Without it, the next."
    ),
    judge: str | None = typer.Option(
        None, "--judge", metavar="ENDPOINT/MODEL", help="Another judge than the run's."
    ),
    metrics: str | None = typer.Option(
        None,
        "--metrics",
        metavar="NAMES",
        help="Of the greedy answers: bleu, chrf, rouge, bertscore, perplexity, length, win_rate.",
    ),
    reference: str | None = typer.Option(
        None, "--reference", metavar="COLUMN", help="Of the prompts' data: the reference answers."
    ),
    rivals: str | None = RIVALS,
    probes: bool | None = PROBES,
    name: str | None = typer.Option(
        None,
        "--name",
        help="Writes evaluations/NAME.json (NAME-2 ... if taken); else eval, or eval-step-N of a checkpoint.",
    ),
    overrides: list[str] = SET,
    as_json: bool = JSON,
) -> None:
    """Compare base and tuned again. With fresh draws, on other prompts, by another judge or other metrics."""
    from refine_rl.cli.interrupt import interruptible
    from refine_rl.report.screen import Screen, print_comparison, results, say
    from refine_rl.run import RunFolder

    folder = RunFolder.open(run)
    prompts = prompts_named(prompts)
    with interruptible() as pause, advice_for_an_evaluation(folder, overrides), Screen() as screen:
        from refine_rl.pipeline.evaluate import evaluate_again  # late: torch, seconds of a machine at work
        from refine_rl.pipeline.weights import choose_weights

        weights = choose_weights(folder, checkpoint)
        if name is None:
            name = "eval" if checkpoint is None else f"eval-step-{weights.trained.step}"
        comparison, written = evaluate_again(
            folder,
            source=prompts,
            samples=samples,
            seed=seed,
            judge=judge,
            metrics=names_in(metrics),
            reference=reference,
            rivals=names_in(rivals),
            probes=probes,
            weights=weights,
            overrides=overrides,
            name=name,
            observer=screen,
            pause=pause,
        )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(comparison)))
        return
    print_comparison(comparison, what="held-out prompts" if prompts is None else "prompts")
    judged = f"judged by {judge}; " if judge else ""
    say(results(), f"\n{judged}written to {written}")
    print_after(folder, comparison)


def names_in(listed: str | None) -> list[str] | None:
    """
    >>> names_in("prompt, sft"), names_in(""), names_in(None)
    (['prompt', 'sft'], [], None)
    """
    return None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]


def prompts_named(prompts: str | None) -> str | None:
    """The source that --prompts names: a file by its whole path. Raises UserError where there is none."""
    if prompts is None or prompts.startswith("recipe:"):
        return prompts
    file = Path(prompts.removeprefix("file:")).resolve()
    if not file.is_file():
        raise UserError(f"--prompts {prompts}: {no_file(file)}.")
    return f"file:{file}"


@contextlib.contextmanager
def advice_for_an_evaluation(folder: RunFolder, overrides: list[str]) -> Iterator[None]:
    """What to do where it was stopped: the pipeline's advice is for a training."""
    from refine_rl.settings.file import override

    try:
        yield
    except GuardStop as stop:
        dollars = override(folder.settings(), overrides).budget.dollars
        more = f", with --set budget.dollars={2 * dollars:g}" if stop.guard == "budget" and dollars else ""
        advice = f"Give the same command again{more}: what was paid for is in the cache."
        raise GuardStop(stop.guard, stop.what, advice) from stop
    except DiskError as full:
        raise DiskError(
            f"{full}\nThe run is as it was; replies of LLMs that were paid for are in the cache. "
            "Then give the same command again."
        ) from full


def report(
    run: Path = typer.Argument(..., help="A run, finished or not; or a folder of several seeds."),
) -> None:
    """Write report.html again. From the run's files alone."""
    from refine_rl.report.page import render
    from refine_rl.report.seeds import render_seeds
    from refine_rl.run import RunFolder
    from refine_rl.run.seeds import SeedsFolder

    if (home := SeedsFolder.open(run)) is not None:
        typer.echo(home.save_report(render_seeds(home)))
        return
    folder = RunFolder.open(run)
    typer.echo(folder.save_report(render(folder)))


def replay(
    run: Path = typer.Argument(..., help="A run."),
    step: int = typer.Option(..., "--step", min=1, help="The training step."),
    prompt: str | None = typer.Option(None, "--prompt", help="A prompt's id; without it, the whole step."),
    as_json: bool = JSON,
) -> None:
    """Make a recorded group again. With the weights of that step; then hold it against the record. (What a
    server drew is held against the log-probs of those weights.)"""
    from refine_rl.report.screen import Screen, results, say
    from refine_rl.run import RunFolder

    with Screen() as screen:
        from refine_rl.pipeline.replay import replay as make_again  # late: torch

        found = make_again(RunFolder.open(run), step=step, prompt_id=prompt, observer=screen)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(r) for r in found]))
    else:
        console = results()
        for member in found:
            verdict = "same" if member.same else "DIFFERENT"
            if member.member == 0:
                say(console, f"{member.prompt_id}: {member.prompt!r}")
            apart = "" if member.apart is None else f", log-probs {member.apart:.1e} nats a token apart"
            say(
                console,
                f"{member.prompt_id} member {member.member}: {verdict}, {member.tokens} tokens{apart}",
            )
            say(console, f"    {member.text!r}")
            if not member.same and member.apart is None:
                say(console, f"    recorded: {member.recorded_text!r}", under=14)
        if all(member.same for member in found):
            served = any(member.apart is not None for member in found)
            how = (
                "by their log-probs (a server drew them, and draws for itself)"
                if served
                else "token by token"
            )
            say(console, f"All {count_of(len(found), 'answer')} are those on record, {how}.")
    if different := sum(not member.same for member in found):
        raise RefineError(
            f"The replay differs from the record in {different} of {len(found)} completions. Either the "
            "record was changed, or this is another machine, number of threads or package version than the "
            "run's (its settings file lists the versions)."
        )
