"""refine review: a person votes on pairs of answers, blind, in the browser."""

from __future__ import annotations

import dataclasses
import getpass
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from refine_rl.cli import watch
from refine_rl.cli.interrupt import StopNow, until_stopped
from refine_rl.cli.training import JSON, SET
from refine_rl.errors import UserError, quoted
from refine_rl.types import count_of, decimals

if TYPE_CHECKING:
    from rich.console import Console

    from refine_rl.evaluate.agreement import Agreement
    from refine_rl.evaluate.votes import Tally
    from refine_rl.pipeline.calibrate import Bench, Calibration
    from refine_rl.run import RunFolder


def review(
    run: Path = typer.Argument(..., help="A finished run."),
    votes: int = typer.Option(20, "--votes", min=1, help="Pairs to vote on; those voted on before count."),
    reviewer: str = typer.Option("", "--reviewer", help="Your name in the votes. Without it, that of login."),
    port: int = typer.Option(
        8711, "--port", min=0, max=65535, help="Where it is taken, the next free one; 0: any."
    ),
    open_browser: bool | None = typer.Option(
        None, "--open/--no-open", help="Open the page in the browser. Without it, where there is a screen."
    ),
    calibrate: bool = typer.Option(
        False, "--calibrate", help="Have judges judge the pairs that were voted on: who agrees with people?"
    ),
    judges: list[str] = typer.Option(
        [], "--judge", metavar="ENDPOINT/MODEL", help="With --calibrate: a further judge."
    ),
    rubrics: list[Path] = typer.Option(
        [], "--rubric", metavar="FILE", help="With --calibrate: another rubric."
    ),
    yes: bool = typer.Option(
        False, "--yes", help="With --calibrate: ask the judges without asking you first."
    ),
    overrides: list[str] = SET,
    as_json: bool = JSON,
) -> None:
    """Vote on the answers of base and tuned, blind. In the browser, by keyboard; the votes are stored in the
    run, and its report shows them. With --json, only what was voted so far."""
    from refine_rl.run import RunFolder

    if (judges or rubrics or yes or overrides) and not calibrate:
        raise UserError("--judge, --rubric, --set and --yes go with --calibrate.")
    folder = RunFolder.open(run)
    if calibrate:
        _calibrate(folder, judges, rubrics, overrides, yes=yes, as_json=as_json)
    elif as_json:
        from refine_rl.pipeline.review import tally_of

        typer.echo(json.dumps(_record(tally_of(folder))))
    else:
        _serve(folder, votes, reviewer or getpass.getuser(), port, open_browser)


def _serve(folder: RunFolder, votes: int, reviewer: str, port: int, open_browser: bool | None) -> None:
    from refine_rl.pipeline.review import Review, tally_of
    from refine_rl.report.review import told
    from refine_rl.report.screen import results, say, talk

    voting = Review(folder, reviewer, votes)
    if len(voting.pairs) < votes:
        say(talk(), f"The run has {count_of(len(voting.pairs), 'pair')} of answers that differ.")
    with voting.at(port) as address:
        say(results(), f"Review of {folder.path} by {voting.reviewer}: {address}")
        sys.stdout.flush()
        served = int(address.split("/")[2].rpartition(":")[2])
        if port and served != port:
            say(talk(), f"Port {port} is taken; this is the next free one.")
        watch.introduce(address, served, open_browser, "Ctrl-C ends it; every vote is stored.")
        try:
            until_stopped()
        except StopNow:
            say(talk(), "")
    left, where = voting.left, quoted(folder.path)
    if not left:
        for line in told(tally_of(folder)):
            say(results(), line)
    else:
        again = f"refine review {where} --votes {votes} --reviewer {quoted(voting.reviewer)}"
        say(talk(), f"{count_of(left, 'pair')} of {len(voting.pairs)} left. Go on with: {again}")


def _calibrate(
    folder: RunFolder,
    judges: list[str],
    rubrics: list[Path],
    overrides: list[str],
    *,
    yes: bool,
    as_json: bool,
) -> None:
    from refine_rl.cli.evidence import advice_for_an_evaluation
    from refine_rl.cli.interrupt import interruptible
    from refine_rl.pipeline.calibrate import bench_of
    from refine_rl.report.screen import Screen, results

    bench = bench_of(folder, judges, rubrics, overrides)
    if not yes and not _agreed(bench):
        return
    with interruptible() as pause, advice_for_an_evaluation(folder, overrides), Screen() as screen:
        found = bench.judged(screen, pause)
    if as_json:
        rows = [dataclasses.asdict(one) for one in found]
        typer.echo(json.dumps({"on_record": dataclasses.asdict(bench.on_record()), "judges": rows}))
    else:
        _show(found, bench.on_record(), results())


def _agreed(bench: Bench) -> bool:
    """Whether the person agrees to what the judges will be asked."""
    from refine_rl.plan.money import cost
    from refine_rl.report.asked import money

    calls = bench.calls()
    price = cost(calls, bench.settings.endpoints)
    dollars = f"at most about {money(price.high, 0)}" if not price.unknown else "at a price that is not known"
    models = ", ".join(dict.fromkeys(c.model for c in calls))
    number = sum(c.high for c in calls)
    what = f"Judging {count_of(len(bench.pairs), 'pair')} takes up to {number} calls to {models}, {dollars}."
    if not sys.stdin.isatty():
        raise UserError(f"{what} There is no terminal to ask you on: say --yes.")
    return typer.confirm(f"{what} Go on?", err=True)


def _show(found: Sequence[Calibration], on_record: Agreement, console: Console) -> None:
    """A row a candidate, the best first; and whether that is more than chance."""
    from refine_rl.report.asked import money
    from refine_rl.report.columns import Columns
    from refine_rl.report.screen import say, shown

    table = Columns(first="judge", headings=("alike", "kappa", "95 % interval", "calls", "dollars"))
    table.add("rewards on record", (*_numbers(on_record), "–", "–"))
    several = len({one.rubric for one in found}) > 1
    for one in found:
        cost = "unknown" if one.cost_usd is None else money(one.cost_usd, 0)
        table.add(shown(one.judge), (*_numbers(one.agreement), str(one.calls), cost))
        if several:
            table.add(f"  by {shown(one.rubric)}", style="dim")
        if one.failed:
            table.add(f"  no verdict on {count_of(one.failed, 'pair')}", style="yellow")
    table.show(console)
    say(console, _best(found))


def _numbers(found: Agreement) -> tuple[str, str, str]:
    low, high = found.ci95
    kappa = "–" if found.kappa is None else decimals(found.kappa)
    return f"{found.alike:.0%}".replace("%", " %"), kappa, f"{decimals(low)} to {decimals(high)}"


def _best(found: Sequence[Calibration]) -> str:
    """Who agrees best, and whether these votes can tell."""
    best, *others = found
    name = f"{best.judge} by {best.rubric}"
    close = [o for o in others if o.agreement.ci95[1] > best.agreement.ci95[0]]
    if best.agreement.ci95[0] <= 0:
        return f"{name} is nearest to people; that it agrees with them by more than chance is not shown."
    if close:
        apart = f"from {len(close)} of the others these votes do not tell it apart"
        return f"{name} agrees best with people; {apart}."
    return f"{name} agrees best with people."


def _record(found: Tally) -> dict[str, Any]:
    """What a program reads."""

    def count(one: Any) -> dict[str, Any]:
        return {**dataclasses.asdict(one), "share": one.share, "ci95": one.ci95}

    return {
        "all": count(found.all),
        "reviewers": {name: count(one) for name, one in found.reviewers.items()},
        "with_reward": dataclasses.asdict(found.with_reward),
        "with_each": {name: dataclasses.asdict(one) for name, one in found.with_each.items()},
        "among": [{"reviewers": list(pair), **dataclasses.asdict(one)} for pair, one in found.among.items()],
    }
