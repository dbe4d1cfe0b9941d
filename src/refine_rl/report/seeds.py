"""What came of a training under several seeds, in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from refine_rl.report.columns import Columns
from refine_rl.run.seeds import OverSeeds
from refine_rl.types import count_of, decimals


def told(found: OverSeeds) -> str:
    """What the seeds show together, in a sentence.

    >>> from refine_rl.types import Estimate
    >>> told(OverSeeds(seeds=3, runs=(), difference=Estimate(mean=0.3, ci95=(0.05, 0.55))))
    'better over training seeds: +0.300, 95 % interval +0.050 to +0.550 (Student’s t over 0 of 3 seeds)'
    """
    of = (
        count_of(found.seeds, "seed")
        if len(found.runs) == found.seeds
        else f"{len(found.runs)} of {found.seeds} seeds"
    )
    if found.difference is None:
        return f"no interval over training seeds yet: two runs with a difference are the least ({of})"
    low, high = found.difference.ci95
    word = "better" if low > 0 else "worse" if high < 0 else "not better"
    return (
        f"{word} over training seeds: {decimals(found.difference.mean, '+')}, 95 % interval "
        f"{decimals(low, '+')} to {decimals(high, '+')} (Student’s t over {of})"
    )


def print_seeds(found: OverSeeds, console: Console) -> None:
    """A row a run, and the sentence."""
    table = Columns(first="seed", headings=("verdict", "difference", "95 % interval"))
    for run in found.runs:
        d = run.difference
        cells = (
            ("", "") if d is None else (decimals(d.mean, "+"), " to ".join(decimals(x, "+") for x in d.ci95))
        )
        table.add(f"{run.seed} ({run.run})", (run.verdict, *cells))
    console.print()
    table.show(console)
    console.print(Text(told(found), style="bold"))
