"""refine plan: before any money or hour is spent."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from refine_rl.cli.streams import results_apart
from refine_rl.cli.training import JSON, SET, one_task, program
from refine_rl.errors import UserError, quoted
from refine_rl.types import count_of
from refine_rl.types.amounts import BYTES, COUNT, SECONDS, amount, dollars

if TYPE_CHECKING:
    from refine_rl.plan import Plan
    from refine_rl.plan.probe import Probed
    from refine_rl.policy.size import Size
    from refine_rl.report.columns import Columns
    from refine_rl.settings import RolloutSettings, Settings
    from refine_rl.types import Prompt

_ABOUT_CALLS = (
    "The numbers of calls are exact where all answers differ and every reply can be used; the rest is "
    "estimated. Low: answers of half the allowed length, judges that write little. High: answers of the full "
    "length, judges that think first."
)
_ABOUT_TIME = "Estimated. Low: answers of half the allowed length. High: answers of the full length."
_ABOUT_ROWS = "Time, memory and disk are estimated: `refine sft` on these settings."
_NO_SIGNAL = (
    "GRPO learns from differences within a group alone: make the reward finer (partial credit), the prompts "
    "easier or harder, or start from a model that sometimes succeeds."
)
_NAME = 9  # columns of the names before the sums
LITTLE_SIGNAL = 0.75  # share of groups without spread from which advice is given


def plan(
    task: Path | None = typer.Argument(None, help="A task.toml, or a folder that has one."),
    recipe: str | None = typer.Option(None, "--recipe", help="A bundled recipe instead."),
    probe: bool = typer.Option(
        False, "--probe", help="Also let the untrained model answer a few prompts, after asking you."
    ),
    yes: bool = typer.Option(False, "--yes", help="With --probe: do not ask."),
    seeds: int | None = typer.Option(
        None, "--seeds", metavar="N", help="Plan N trainings, each under another seed."
    ),
    overrides: list[str] = SET,
    as_json: bool = JSON,
) -> None:
    """Say what a run will take. Calls, tokens, dollars, minutes, memory; nothing is spent."""
    from refine_rl.plan import plan_of, survey
    from refine_rl.recipes import load_task

    if yes and not probe:
        raise UserError("--yes goes with --probe: without it there is nothing to agree to.")
    one_task("plan", task, recipe)
    settings = load_task(task, recipe=recipe, overrides=overrides)
    if seeds is not None:
        from refine_rl.pipeline.seeds import check

        check(settings, seeds)
    with results_apart():
        found = survey(settings)
    if probe and found.counts is None:
        raise UserError("--probe has answers scored, and this task has no reward; leave it out.")
    if probe and settings.engine.kind == "tinker":
        raise UserError(
            '--probe lets the model answer in this process, and engine.kind = "tinker" has it at a service: '
            "leave --probe out, or take [engine] out of the task to try the model here."
        )
    if probe and not found.prompts:
        here = task if task is not None and task.is_file() else (task or Path()) / "task.toml"
        raise UserError(
            f"--probe needs prompts, and the writer has not written them yet: `{program()} prompts "
            f"{quoted(here)} --out {quoted(here.parent / 'written.jsonl')}`, then "
            f"`{program()} plan {quoted(here)} --probe --set prompts.source=file:written.jsonl`"
        )
    planned = plan_of(settings, found, seeds=seeds or 1)
    if not as_json:
        _show(settings, planned)
    probed = _probe(settings, found.prompts, planned, yes) if probe else None
    if as_json:
        whole = {**dataclasses.asdict(planned), "probe": probed and dataclasses.asdict(probed)}
        if planned.cost.unknown:  # what the others cost is no sum; their lines have it
            whole["cost"] |= {"low": None, "high": None}
        typer.echo(json.dumps(whole))
    elif probed is not None:
        _show_probe(probed)


def _probe(settings: Settings, prompts: Sequence[Prompt], planned: Plan, yes: bool) -> Probed | None:
    """The probe, once the person has agreed to it."""
    from refine_rl.cli.interrupt import interruptible
    from refine_rl.plan.probe import PROMPTS, probe, probe_calls
    from refine_rl.report.screen import Screen

    assert planned.counts is not None
    calls = sum(c.high for c in probe_calls(settings, planned.counts, prompts))
    when = ", before any fine-tuning," if settings.sft is not None else ""
    what = f"The probe loads {settings.model.called}{when} and lets it answer at most {PROMPTS} prompts" + (
        f"; scoring them takes up to {calls} calls to LLMs." if calls else ". It asks no LLM."
    )
    if not yes and not _on_a_terminal():
        raise UserError(f"{what} There is no terminal to ask you on: say --yes.")
    if not yes and not typer.confirm(f"{what} Go on?", err=True):
        return None
    with interruptible() as pause, Screen() as screen:
        return probe(settings, prompts, screen, pause=pause)


def _on_a_terminal() -> bool:
    return sys.stdin.isatty()


# -- what it looks like -----------------------------------------------------------------------------


def _show(settings: Settings, planned: Plan) -> None:
    from refine_rl.report.screen import results, say

    console = results()
    for text in _heads(settings, planned):
        say(console, text)
    console.print()
    for table in (_calls(planned) if planned.lines else None, _passed(planned) if planned.service else None):
        if table is not None:
            table.show(console)
            console.print()
    for name, text in _totals(settings, planned):
        say(console, f"{name:<{_NAME}}{text}", under=_NAME)
    for text in planned.over:
        say(console, f"{'budget':<{_NAME}}{text}", "yellow", under=_NAME)
    for text in planned.notes:
        say(console, f"{'note':<{_NAME}}{text}", under=_NAME)
    about = _ABOUT_CALLS if planned.lines else _ABOUT_TIME if planned.counts is not None else _ABOUT_ROWS
    say(console, f"\n{about}", "dim")


def _heads(settings: Settings, planned: Plan) -> Iterator[str]:
    """A line a stage."""
    c, sft = planned.counts, settings.sft
    if planned.sft is not None and sft is not None:
        r = planned.sft.rows
        about = "about " if r.guessed else ""
        yield (
            f"{count_of(r.train, 'row')} to imitate ({about}{r.tokens:,} tokens, {r.targets:,} of them in "
            f"answers), {r.validation} to validate; {count_of(r.steps, 'step')} of up to "
            f"{sft.batch_tokens:,} tokens: {r.epochs:.2f} passes"
        )
    if c is not None:
        about_tools = f", {c.read - c.tokens} of them about the tools" if c.tools else ""
        yield (
            f"{c.train} training, {c.validation} validation, {c.held_out} held-out prompts of about "
            f"{c.read} tokens{about_tools}; {settings.grpo.steps} steps of "
            f"{settings.grpo.prompts_per_step} prompts x {settings.rollout.group_size} "
            f"{_answers(settings.rollout)}"
        )
    if planned.seeds > 1:
        first = settings.grpo.seed
        yield f"{planned.seeds} times, under the seeds {first} to {first + planned.seeds - 1}"


def _answers(rollout: RolloutSettings) -> str:
    """What each member of a group is, and how long at most."""
    if not rollout.several_turns:
        return f"answers of at most {rollout.max_tokens} tokens"
    turns = f"games of at most {rollout.turns} turns of {rollout.max_tokens} tokens"
    return f"{turns} in {rollout.world}, whose own words and time are not counted"


def _calls(planned: Plan) -> Columns:
    """The calls to LLMs: a model, and below it what it is asked for."""
    from refine_rl.report.columns import Columns
    from refine_rl.report.screen import shown

    table = Columns(first="calls to LLMs", headings=("calls", "tokens in", "tokens out", "dollars"))
    for model in dict.fromkeys(line.calls.model for line in planned.lines):
        table.add(shown(model), style="bold")
        for line in planned.lines:
            k = line.calls
            if k.model == model:
                cells = (
                    amount(k.low, k.high, COUNT),
                    amount(k.low * k.tokens_in[0], k.high * k.tokens_in[1], COUNT),
                    amount(k.low * k.tokens_out[0], k.high * k.tokens_out[1], COUNT),
                    "unknown" if line.dollars is None else dollars(*line.dollars),
                )
                table.add(f"  {k.stage}", cells)
    return table


def _passed(planned: Plan) -> Columns:
    """What goes through a model at a service."""
    from refine_rl.report.columns import Columns

    table = Columns(first="tokens at the service", headings=("prefilled", "sampled", "trained", "dollars"))
    for one in planned.service:
        cells = [amount(*span, COUNT) for span in (one.prefilled, one.sampled, one.trained)]
        table.add(f"  {one.stage}", (*cells, "unknown" if one.dollars is None else dollars(*one.dollars)))
    return table


def _totals(settings: Settings, planned: Plan) -> list[tuple[str, str]]:
    cost, s, found = planned.cost, planned.seconds, []
    if planned.lines:
        calls = [line.calls for line in planned.lines]
        found.append(("calls", amount(sum(k.low for k in calls), sum(k.high for k in calls), COUNT)))
    if planned.lines or planned.service:
        parts = [dollars(cost.low, cost.high)] if planned.priced else []
        parts += [f"unknown for {', '.join(cost.unknown)}"] if cost.unknown else []
        found.append(("dollars", ", and ".join(parts)))
    waiting = amount(*s.judges, SECONDS)
    if s.total is not None and s.machine is not None:
        found.append(("time", amount(*s.total, SECONDS) + _parts(planned, waiting)))
    elif planned.lines:
        found.append(("time", f"{waiting} of waiting for LLMs; {planned.elsewhere} is unknown"))
    if planned.memory is not None and planned.disk is not None:
        found.append(("memory", planned.held()))
        found.append(("disk", amount(planned.disk, planned.disk, BYTES)))
    if planned.size is not None and planned.rates is not None:
        size, rates = planned.size, planned.rates
        found.append(("training", _trained(settings, planned, size)))
        found.append(
            (
                "machine",
                f"{size.parameters / 1e6:.3g} M parameters on {rates.device} in {rates.dtype}; measured now: "
                f"matrices {rates.train / 1e12:.2g} TFLOP/s, memory {rates.bytes / 1e9:.2g} GB/s",
            )
        )
    return found


def _parts(planned: Plan, waiting: str) -> str:
    """What the time is made of, where it is more than one thing."""
    s, parts = planned.seconds, []
    if planned.sft is not None and planned.sft.seconds is not None and planned.counts is not None:
        parts.append(f"supervised fine-tuning {amount(*planned.sft.seconds, SECONDS)}")
    if planned.lines and s.machine is not None:
        whose = "this machine in all" if parts else "this machine"
        parts += [f"{whose} {amount(*s.machine, SECONDS)}", f"waiting for LLMs {waiting}"]
    return f" ({', '.join(parts)})" if parts else ""


def _trained(settings: Settings, planned: Plan, size: Size) -> str:
    """How much of the model each stage trains."""
    grpo, sft = size.share(settings.model).text, size.share(settings.sft_model).text
    if planned.sft is None:
        return grpo
    if planned.counts is None or sft == grpo:
        return sft
    return f"supervised: {sft}; GRPO: {grpo}"


def _show_probe(probed: Probed) -> None:
    from refine_rl.report.screen import results, say

    low, high = probed.no_signal_ci95
    console, inner = results(), " " * _NAME
    lines = [
        f"{probed.flat} of {probed.groups} groups had no spread in their rewards: about "
        f"{probed.no_signal:.0%} of all will carry no signal ({low:.0%} to {high:.0%} with 95 % confidence)",
        f"mean reward {probed.reward_mean:.3f}, {probed.tokens_mean:.0f} tokens an answer, "
        f"{probed.clipped_share:.0%} cut; sampling took {probed.seconds:.1f} s",
    ]
    if probed.missing:
        lines.append(f"{probed.missing} of {probed.answers} scores are missing")
    console.print()
    say(console, f"{'probe':<{_NAME}}" + f"\n{inner}".join(lines), under=_NAME)
    if probed.no_signal > LITTLE_SIGNAL:
        say(console, f"{inner}{_NO_SIGNAL}", "yellow")
