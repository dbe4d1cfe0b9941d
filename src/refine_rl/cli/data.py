"""refine data docstrings, refine data describe: data before a training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from refine_rl.cli.interrupt import interruptible
from refine_rl.cli.training import JSON, program
from refine_rl.errors import UserError, quoted

if TYPE_CHECKING:
    from rich.console import Console

    from refine_rl.prompts.describe import Column, Description
    from refine_rl.prompts.harvest import Harvest

app = typer.Typer(
    help="Data before a training. Pairs from code, and what a file holds.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_SHOWN = 5  # files or rows that could not be read, by name


@app.command("docstrings")
def docstrings(
    names: list[str] = typer.Argument(
        ...,
        metavar="PATH_OR_PACKAGE...",
        help="A folder or file of Python source, an installed package (json, email.mime), or stdlib.",
    ),
    out: Path = typer.Option(..., "--out", help="The JSONL file to write, a pair a line."),
    part: Literal["sentence", "paragraph", "all"] = typer.Option(
        "sentence", "--part", help="What of a docstring is the answer: its first sentence, paragraph, or all."
    ),
    prompt: str = typer.Option(
        "", "--prompt", help="What is asked, with {{code}} and perhaps {{name}}; without it, a sentence."
    ),
    min_chars: int = typer.Option(10, "--min-chars", min=1, help="Fewest characters of an answer."),
    max_chars: int | None = typer.Option(
        None, "--max-chars", min=1, help="Most; without it, 300, 600 or 2,000, by --part."
    ),
    min_words: int = typer.Option(3, "--min-words", min=1, help="Fewest words of an answer."),
    min_code_chars: int = typer.Option(40, "--min-code-chars", min=1, help="Fewest characters of the code."),
    max_code_chars: int = typer.Option(2000, "--max-code-chars", min=1, help="Most characters of the code."),
    near_duplicate: float = typer.Option(
        0.85,
        "--near-duplicate",
        min=0.01,
        max=1,
        help="Similarity of code from which one of two goes; 1: none.",
    ),
    tests: bool = typer.Option(False, "--tests", help="Take functions of tests too."),
    split_by: Literal["module", "package"] = typer.Option(
        "module", "--split-by", help="What is in one split as a whole."
    ),
    validation: float = typer.Option(0.05, "--validation", min=0, max=0.5, help="Share that validates."),
    held_out: float = typer.Option(0.1, "--held-out", min=0, max=0.5, help="Share that is held out."),
    force: bool = typer.Option(False, "--force", help="Replace --out where it exists."),
    as_json: bool = JSON,
) -> None:
    """Make (function, docstring) pairs from Python source. It is read, never run."""
    from refine_rl.pipeline.data import as_json as told
    from refine_rl.pipeline.data import harvest_docstrings
    from refine_rl.prompts.harvest import Wanted
    from refine_rl.report.screen import results, talk

    if max_code_chars < min_code_chars or (max_chars is not None and max_chars < min_chars):
        raise UserError("The most characters are fewer than the fewest: look at --min-chars and the like.")
    wanted = Wanted(
        part=part,
        prompt=prompt,
        answer=(min_chars, max_chars),
        words=min_words,
        code=(min_code_chars, max_code_chars),
        near_duplicate=near_duplicate,
        tests=tests,
        split_by=split_by,
        validation=validation,
        held_out=held_out,
    )
    with talk().status("") as status, interruptible() as pause:
        found = harvest_docstrings(
            names,
            out,
            wanted,
            force=force,
            pause=pause,
            progress=lambda done, of: status.update(f"{done}/{of} files"),
        )
    if as_json:
        typer.echo(told(found, out))
    else:
        _show_harvest(results(), found, out)


def _show_harvest(screen: Console, found: Harvest, out: Path) -> None:
    from refine_rl.prompts.harvest.filters import WHY
    from refine_rl.report.columns import Columns
    from refine_rl.report.screen import say

    table = Columns(first="", headings=("",))
    table.add("functions read", (f"{found.functions:,}",))
    table.add("with a docstring", (f"{found.documented:,}",))
    for why, count in found.dropped.items():
        table.add(f"  {WHY[why]}", (f"-{count:,}",))
    table.add("pairs", (f"{len(found.pairs):,}",))
    for split, count in found.splits().items():
        table.add(f"  {split.replace('_', '-')}", (f"{count:,}",))
    for line, style in table.lines(screen.width)[1:]:
        say(screen, line.rstrip(), style)
    if found.unread:
        say(screen, f"\n{len(found.unread)} of {found.files} files could not be read:")
        for path, why in found.unread[:_SHOWN]:
            say(screen, f"  {path}: {why}", under=4)
        if len(found.unread) > _SHOWN:
            say(screen, f"  ... and {len(found.unread) - _SHOWN} more")
    here = quoted(out)
    say(screen, f"\nwritten to {out}")
    say(
        screen, f'`sft.data = "file:{out}"` trains on them; to look at them: {program()} data describe {here}'
    )


@app.command("describe")
def describe(
    source: str = typer.Argument(
        ..., metavar="FILE", help="A .jsonl, .json, .csv, .txt or .parquet file, or hub:OWNER/NAME."
    ),
    model: str = typer.Option(
        "tiny", "--model", help="Whose tokens are counted: a hub id, a folder or tiny."
    ),
    limit: int | None = typer.Option(None, "--limit", min=1, help="Look at the first rows only."),
    max_tokens: int | None = typer.Option(
        None, "--max-tokens", min=1, help="Tell as well what this limit would cut."
    ),
    prompt: str = typer.Option(
        "", "--prompt", help="The column of the prompt, where it is called otherwise."
    ),
    answer: str = typer.Option(
        "", "--answer", help="The column of the answer, where it is called otherwise."
    ),
    as_json: bool = JSON,
) -> None:
    """Say what a file of prompts, pairs or chats holds. Columns, lengths, duplicates, what is cut."""
    from refine_rl.pipeline.data import describe_rows
    from refine_rl.report.screen import results

    with interruptible():
        found = describe_rows(
            source, model=model, limit=limit, max_tokens=max_tokens, prompt=prompt, answer=answer
        )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found)))
    else:
        _show_description(results(), found, model)


def _show_description(screen: Console, found: Description, model: str) -> None:
    from refine_rl.report.columns import Columns
    from refine_rl.report.screen import say, shown

    say(screen, f"{found.rows:,} rows of {found.source}")
    for name, why in found.broken[:_SHOWN]:
        say(screen, f"  row {name} {why}", "yellow", under=4)
    if len(found.broken) > _SHOWN:
        say(screen, f"  ... and {len(found.broken) - _SHOWN} more that cannot be read", "yellow")
    say(screen, "")
    columns = Columns(first="column", headings=("holds", "missing"))
    for column in found.columns:
        columns.add(shown(column.name), (_kinds(column), f"{column.missing:.1%}" if column.missing else "-"))
    columns.show(screen)
    for what, unit in (("characters", "characters"), ("tokens", f"tokens of {model}")):
        lengths = Columns(first=unit, headings=("least", "5 %", "median", "95 %", "most", "mean"))
        for column in found.columns:
            if (of := getattr(column, what)) is not None:
                lengths.add(shown(column.name), (*(f"{n:,}" for n in of.quantiles), f"{of.mean:,.0f}"))
        if lengths.rows:
            say(screen, "")
            lengths.show(screen)
    if found.over:
        _show_limits(screen, found)
    for line in _remarks(found):
        say(screen, line, under=2)


def _kinds(column: Column) -> str:
    return ", ".join(
        kind if share > 0.9999 else f"{kind} {share:.0%}" for kind, share in column.types.items()
    )


def _show_limits(screen: Console, found: Description) -> None:
    """What a limit in tokens would cut, up to the first that cuts nothing."""
    from refine_rl.report.columns import Columns
    from refine_rl.report.screen import say

    both = bool(found.answer)
    table = Columns(
        first="a limit of", headings=("cuts prompts", "prompt + answer") if both else ("cuts prompts",)
    )
    for limit, (prompts, together) in found.over.items():
        cells = [f"{prompts:.1%}", *([f"{together:.1%}"] if together is not None else [])]
        table.add(f"{limit:,} tokens", cells)
        if not (prompts or together):
            break
    say(screen, "")
    table.show(screen)


def _remarks(found: Description) -> list[str]:
    """What else is to be said, a line each."""
    of = (
        f"prompt: column `{found.prompt}`"
        if found.prompt
        else "no column was taken for the prompt (--prompt)"
    )
    answers = f"answer: column `{found.answer}`" if found.answer else "no column of answers"
    if found.answer and found.answer == found.prompt:
        answers = "answer: the last message of a chat that ends with the assistant's"
    lines = ["", of, answers]
    if found.splits:
        lines.append("splits: " + ", ".join(f"{name} {count:,}" for name, count in found.splits.items()))
    for count, what in (
        (found.empty_prompts, "empty prompts"),
        (found.empty_answers, "empty answers"),
        (found.equal_rows, "rows that equal an earlier one"),
        (found.equal_prompts, "prompts that equal an earlier one (but for case and white space)"),
        (
            found.near_prompts,
            f"prompts that nearly equal an earlier one, of {found.near_compared:,} compared",
        ),
    ):
        if count:
            lines.append(f"{count:,} {what}")
    return lines
