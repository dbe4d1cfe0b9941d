"""What a run does at this moment, and the one line that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from refine_rl.report.lines import clock_of
from refine_rl.report.time_left import Part, about, time_left

_LEAST_BAR, _WIDEST_BAR, _PULSE = 8, 40, 16
_SLOW = 3.0  # seconds of a part behind which its pace is known


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """So many of so many are done; `began` is when the part did, on the clock of `Moment`."""

    what: str
    done: int
    of: int
    began: float = 0.0

    def left(self, now: float) -> float | None:
        """Seconds until the rest is done, at the pace so far; None before that is known.

        >>> Counted(what="answers", done=5, of=20, began=100.0).left(now=110.0)
        30.0
        """
        spent = now - self.began
        if not self.done or spent < _SLOW:
            return None
        return (self.of - self.done) * spent / self.done


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """The stage of a run in words, its steps where it takes some, and how far a part of all that is. `parts`
    is what was still to be done (`time_left`) when it was `known`, on the clock whose seconds all times are:
    of the `whole` run, or of the fine-tuning with which it begins."""

    stage: str = ""
    steps: Counted | None = None
    count: Counted | None = None
    parts: Sequence[Part] = field(default=())
    known: float = 0.0
    whole: bool = True

    def begins(self, stage: str) -> Moment:
        return replace(self, stage=stage, steps=None, count=None)

    def counted(self, what: str, done: int, of: int, now: float) -> Moment:
        """With so many of the part done; one that is over is told no longer. "steps" are those of the
        training, around all other parts."""
        if what == "steps":
            return replace(self, steps=Counted(what="step", done=done, of=of, began=now), count=None)
        if done >= of:
            return replace(self, count=None)
        same = self.count is not None and self.count.what == what and self.count.done <= done
        began = self.count.began if same and self.count is not None else now
        return replace(self, count=Counted(what=what, done=done, of=of, began=began))

    def left(self, now: float) -> str:
        """How long it will still take, in words: the run, or at least the part; "" where nothing is known."""
        run = time_left(self.parts, max(0.0, now - self.known))
        if run:
            return f"{about(run)} left" if self.whole else f"{about(run)} for this part"
        part = self.count.left(now) if self.count is not None and self.steps is None else None
        return "" if part is None else f"{about(part)} for this part"

    @property
    def share(self) -> float | None:
        """How much is done of the steps, or of the part where there are none; None where nothing counts."""
        counted = self.steps or self.count
        return None if counted is None else min(1.0, counted.done / max(1, counted.of))


def line_of(now: Moment, seconds: float, width: int, *, plain: bool = False) -> Text:
    """The line that stands below all others, in at most `width` columns: what gives way on a narrow screen is
    the part of a step, then the bar. `plain` takes signs that every terminal has.

    >>> now = Moment(stage="Training").counted("steps", 12, 48, 0.0).counted("groups", 3, 8, 60.0)
    >>> line_of(now, 75.5, 40).plain
    '  75.5 s  step 12/48  ━━━━──────────────'
    >>> line_of(now, 75.5, 60).plain
    '  75.5 s  step 12/48  ━━━━━━────────────────────  groups 3/8'
    >>> line_of(Moment(stage="Loading a model"), 3.0, 60, plain=True).plain
    '   3.0 s  Loading a model  ------------####'
    >>> line_of(Moment(stage="Loading a model with a long name"), 3.0, 40, plain=True).plain
    '   3.0 s  Loading a mode  --------####--'
    """
    clock, left = clock_of(seconds), now.left(seconds)
    head, inner = _words(now)
    share = now.share
    full, open_ = ("#", "-") if plain else ("━", "─")
    if share is None:
        bar = min(_PULSE, max(0, (width - len(clock) - 4) // 2))
        room = max(0, width - len(clock) - 4 - bar - (len(left) + 2 if left else 0))
        said = set_cell_size(head, room).rstrip() if cell_len(head) > room else head
        return _cut(width, clock, said, _pulse(seconds, bar, full, open_), [left])
    forms = ([inner, left], [left], [inner], []) if left else ([inner], [])
    for tail in forms:
        end = "".join(f"  {word}" for word in tail if word)
        room = width - cell_len(f"{clock}  {head}  {end}")
        if room >= _LEAST_BAR:
            break
    bar = max(0, min(_WIDEST_BAR, room))
    done = int(share * bar)
    drawn = Text.assemble((full * done, "cyan"), (open_ * (bar - done), "dim"))
    return _cut(width, clock, head, drawn, tail)


def _cut(width: int, clock: str, head: str, bar: Text, tail: Sequence[str]) -> Text:
    """The line's parts together, no wider than the screen."""
    words = [part for word in tail if word for part in ("  ", word)]
    line = Text.assemble((f"{clock}  ", "dim"), f"{head}  ", bar, *words)
    line.truncate(width)
    return line


def _pulse(seconds: float, bar: int, full: str, open_: str) -> Text:
    """A bar of which nobody knows how far it is; what moves in it says that the process is alive."""
    moving = min(4, bar)
    way = max(1, bar - moving)
    place = int(seconds * 4) % (2 * way)
    before = min(place, 2 * way - place) if bar > moving else 0
    return Text.assemble(
        (open_ * before, "dim"), (full * moving, "cyan"), (open_ * (bar - moving - before), "dim")
    )


def _words(now: Moment) -> tuple[str, str]:
    """What stands before the bar, and behind it."""
    count = "" if now.count is None else f"{now.count.what} {now.count.done}/{now.count.of}"
    if now.steps is None:
        return (count or now.stage), ""
    return f"step {now.steps.done}/{now.steps.of}", count
