"""What a person sees in the terminal: progress on standard error, results on standard output."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refine_rl.errors import Interrupted, RefineError
from refine_rl.progress import Pause
from refine_rl.types import Comparison, Contrast, StepMetrics

FEW_PROMPTS = 20  # with fewer, a bootstrap interval promises more than it holds
_BARS = "▁▂▃▄▅▆▇█"


def results() -> Console:
    """Standard output."""
    return Console(highlight=False, soft_wrap=True)


def talk() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


class Screen:
    """An Observer for people: stages with their clock, one line a step, warnings in yellow."""

    def __init__(self) -> None:
        self._console = talk()
        self._began = time.perf_counter()
        self._rewards: list[float] = []

    def stage(self, text: str) -> None:
        clock = time.perf_counter() - self._began
        self._console.print(f"[dim]{clock:6.1f} s[/]  [bold]{escape(text)}[/]")

    def note(self, text: str) -> None:
        self._console.print(f"          {escape(text)}")

    def warning(self, text: str) -> None:
        self._console.print(f"[yellow]warning[/]   {escape(text)}")

    def step(self, metrics: StepMetrics, steps: int) -> None:
        m = metrics
        if m.reward_mean is not None:
            self._rewards.append(m.reward_mean)
        reward = "   -  " if m.reward_mean is None else f"{m.reward_mean:6.3f}"
        clock = time.perf_counter() - self._began
        self._console.print(
            f"[dim]{clock:6.1f} s[/]  step {m.step:>{len(str(steps))}}/{steps}  reward {reward}  "
            f"[cyan]{spark(self._rewards[-16:])}[/]  "
            f"tokens {m.tokens_mean:.0f}, cut {m.clipped_share:.0%}, "
            f"no spread {m.groups_zero_variance}/{m.groups}"
            + ("" if not m.members_missing else f", [yellow]missing {m.members_missing}[/]")
            + f"  [dim]{m.seconds['total']:.1f} s[/]"
        )


def spark(values: list[float]) -> str:
    """A small bar for each value, between the smallest and the largest.

    >>> spark([0.0, 0.5, 1.0])
    '▁▅█'
    """
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BARS[min(7, int((v - low) / span * 8))] for v in values)


def print_error(error: RefineError) -> None:
    """The error as a person reads it."""
    console = talk()
    head = "stopped" if error.exit_code in (3, 130) else "error"
    console.print(f"[bold red]{head}[/]  {escape(str(error))}")


def print_comparison(comparison: Comparison) -> None:
    """The verdict, and base against tuned in a small table."""
    colour = {"better": "green", "worse": "red"}.get(comparison.verdict, "yellow")
    console = results()
    console.print(f"\n[bold {colour}]{comparison.verdict}[/] on {comparison.prompts} held-out prompts")
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("", "base", "tuned", "difference", "95 % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    reward = Contrast(base=comparison.base, tuned=comparison.tuned, difference=comparison.difference)
    for name, m in {"reward": reward, **comparison.details}.items():
        low, high = m.difference.ci95
        table.add_row(
            escape(name.replace("_", ", ").replace("component:", "  ")),
            f"{m.base.mean:.3f}",
            f"{m.tuned.mean:.3f}",
            f"{m.difference.mean:+.3f}",
            f"{low:+.3f} to {high:+.3f}",
        )
    console.print(table)
    if comparison.prompts < FEW_PROMPTS:
        console.print(f"[yellow]only {comparison.prompts} prompts: the intervals are too narrow; use more[/]")
    b, t = comparison.base, comparison.tuned
    console.print(
        f"reward: base {b.mean:.3f} [{b.ci95[0]:.3f}, {b.ci95[1]:.3f}], "
        f"tuned {t.mean:.3f} [{t.ci95[0]:.3f}, {t.ci95[1]:.3f}] (95 % intervals)",
        markup=False,
    )


@contextlib.contextmanager
def interruptible() -> Iterator[Pause]:
    """The first Ctrl-C asks the work to stop at the next safe place, the second stops it at once."""
    asked = False

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise Interrupted("Stopped at once.")
        asked = True
        print("\nStopping; the state is being saved (Ctrl-C again: at once) ...", file=sys.stderr)

    def pause() -> None:
        if asked:
            raise Interrupted("Interrupted; the state was saved.")

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield pause
    finally:
        signal.signal(signal.SIGINT, before)
