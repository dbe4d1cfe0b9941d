"""refine bench: how fast a training step is here."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Literal

import typer

from refine_rl.cli.training import JSON
from refine_rl.errors import UserError
from refine_rl.types import count_of

if TYPE_CHECKING:
    from refine_rl.bench.measure import Measured


_VALUES = 18  # the column in which what was measured begins
LONGEST = 1_000_000  # tokens; what is longer would take hours to draw


def bench(
    model: str | None = typer.Option(
        None, "--model", help="A hub id, a folder or tiny; without it, a model of random weights."
    ),
    vocabulary: int | None = typer.Option(
        None, "--vocabulary", min=2, help="Of the random model; without it, 2,048."
    ),
    hidden: int | None = typer.Option(
        None, "--hidden", min=1, help="Its width, a multiple of 128; without it, 256."
    ),
    layers: int | None = typer.Option(None, "--layers", min=1, help="Its layers; without it, 4."),
    prompt_tokens: int = typer.Option(
        512, "--prompt-tokens", min=1, max=LONGEST, help="Length of each prompt."
    ),
    completion_tokens: int = typer.Option(
        64, "--completion-tokens", min=1, max=LONGEST, help="Of each completion."
    ),
    prompts: int = typer.Option(8, "--prompts", min=1, help="Prompts a step."),
    group_size: int = typer.Option(8, "--group-size", min=2, help="Completions a prompt."),
    steps: int = typer.Option(5, "--steps", min=1, help="Steps that are timed; the median counts."),
    warm_up: int = typer.Option(2, "--warm-up", min=0, help="Steps before them that are not."),
    dtype: Literal["auto", "float32", "bfloat16"] = typer.Option("auto", "--dtype", help="Number format."),
    adapter: Literal["lora", "qlora", "none"] = typer.Option(
        "lora", "--adapter", help="none trains every weight."
    ),
    overrides: list[str] = typer.Option(
        [], "--set", metavar="KEY=VALUE", help="Another setting of the step: --set model.rank=8."
    ),
    as_json: bool = JSON,
) -> None:
    """Time training steps on this machine. Random prompts, completions of full length; nothing is kept."""
    from refine_rl.bench.measure import Bench, measure
    from refine_rl.bench.random_model import Shape
    from refine_rl.report.screen import results, say, talk

    given = {"vocabulary": vocabulary, "hidden": hidden, "layers": layers}
    shape = {name: value for name, value in given.items() if value is not None}
    if model is not None and shape:
        raise UserError(f"--model has its own shape: leave out --{next(iter(shape))}.")
    console = talk()
    measured = measure(
        Bench(
            model=model,
            shape=Shape(**shape),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            prompts=prompts,
            group_size=group_size,
            steps=steps,
            warm_up=warm_up,
            dtype=dtype,
            adapter=adapter,
            overrides=tuple(overrides),
        ),
        lambda line: say(console, line),
    )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(measured)))
    else:
        for line in _lines(measured):
            say(results(), line, under=_VALUES if line[:_VALUES].endswith("  ") else None)


def _lines(m: Measured) -> list[str]:
    names = {"lora": "LoRA", "qlora": "QLoRA"}
    trained = f"{names[m.adapter]} on {m.trained:,} of" if m.adapter in names else "all of"
    lines = [
        f"{m.model}: {trained} {m.parameters:,} weights, {m.dtype}",
        f"{m.processor}, {m.device}, {count_of(m.threads, 'thread')}, torch {m.torch}",
        f"{m.prompts} prompts of {m.prompt_tokens} tokens, {m.group_size} completions of "
        f"{m.completion_tokens} tokens each; median of {count_of(m.steps, 'step')}",
        "",
        f"seconds a step    {m.seconds_per_step:.3g}   sampling {m.seconds['sample']:.3g}, "
        f"scoring {_short(m.seconds['score'])}, training {m.seconds['train']:.3g}",
        f"tokens a second   {m.tokens_per_second:,.0f} sampled and trained on",
        f"peak memory       {m.peak_rss_mb:,.0f} MB",
    ]
    if m.peak_device_mb is not None:
        lines[-1] += f", of the device {m.peak_device_mb:,.0f} MB"
    rate = f"the {m.matmul_gflops:,.0f} GFLOP/s that large matrix products reach here"
    if m.share is None or m.share_of_matmul_rate is None or m.model_gflop_per_step is None:
        return [*lines, f"of the machine    not known for this architecture, of {rate}"]
    return [
        *lines,
        f"of the machine    {m.share_of_matmul_rate:.0%}   sampling {m.share['sample']:.0%}, "
        f"training {m.share['train']:.0%}; {m.model_gflop_per_step:,.3g} GFLOP needed a step, of {rate}",
    ]


def _short(seconds: float) -> str:
    """
    >>> _short(0.0123), _short(4.04e-05)
    ('0.0123', '0')
    """
    return f"{seconds:.3g}" if seconds >= 0.001 else "0"
