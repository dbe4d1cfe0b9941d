<<<<<<< HEAD
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
    """So many of so many are done; `began` is when the part did, on the clock of `Now`."""

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
=======
"""How a run stands at this moment, for one who watches it: from its files alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from refine_rl.errors import quoted
from refine_rl.report.asked import bills, total
from refine_rl.report.data import number
from refine_rl.report.standing import Json
from refine_rl.report.time_left import about, left_of
from refine_rl.run.follow import Watched
from refine_rl.run.lock import Hold
from refine_rl.types import count_of

State = Literal["waiting", "running", "finished", "stopped", "interrupted", "failed", "ended", "silent"]
_BEGINS = ("started", "resumed")
_ENDS = ("guard", "interrupted", "failure", "finished")
_PATIENCE = 120.0  # seconds without a line, at least, until a run that cannot be seen counts as silent
_WARNINGS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The state, in the words that head the page, and what is to be said with it."""

    state: State
    said: str
    more: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """A number with its name; `loud`: one that a person should look at."""

    name: str
    text: str
    loud: bool = False
>>>>>>> 603cd2b9f1ab867038d652cb2840bdf302ae4948


@dataclass(frozen=True, kw_only=True, slots=True)
class Now:
<<<<<<< HEAD
    """The stage of a run in words, its steps where it takes some, and how far a part of all that is. `parts`
    is what was still to be done (`time_left`) when it was `known`, on the clock whose seconds all times are:
    of the `whole` run, or of the fine-tuning with which it begins."""

    stage: str = ""
    steps: Counted | None = None
    count: Counted | None = None
    parts: Sequence[Part] = field(default=())
    known: float = 0.0
    whole: bool = True

    def begins(self, stage: str) -> Now:
        return replace(self, stage=stage, steps=None, count=None)

    def counted(self, what: str, done: int, of: int, now: float) -> Now:
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


def line_of(now: Now, seconds: float, width: int, *, plain: bool = False) -> Text:
    """The line that stands below all others, in at most `width` columns: what gives way on a narrow screen is
    the part of a step, then the bar. `plain` takes signs that every terminal has.

    >>> now = Now(stage="Training").counted("steps", 12, 48, 0.0).counted("groups", 3, 8, 60.0)
    >>> line_of(now, 75.5, 40).plain
    '  75.5 s  step 12/48  ━━━━──────────────'
    >>> line_of(now, 75.5, 60).plain
    '  75.5 s  step 12/48  ━━━━━━────────────────────  groups 3/8'
    >>> line_of(Now(stage="Loading a model"), 3.0, 60, plain=True).plain
    '   3.0 s  Loading a model  ------------####'
    >>> line_of(Now(stage="Loading a model with a long name"), 3.0, 40, plain=True).plain
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


def _words(now: Now) -> tuple[str, str]:
    """What stands before the bar, and behind it."""
    count = "" if now.count is None else f"{now.count.what} {now.count.done}/{now.count.of}"
    if now.steps is None:
        return (count or now.stage), ""
    return f"step {now.steps.done}/{now.steps.of}", count
=======
    """All of it. `doing` ("" while it trains) and `left` are of a run that goes on; `done` of `steps` steps
    are trained; `warnings` are the newest of `warnings_all` warnings and guards, the newest first."""

    name: str
    standing: Standing
    doing: str = ""
    left: str = ""
    done: int = 0
    steps: int = 0
    facts: tuple[Fact, ...] = ()
    warnings: tuple[Json, ...] = ()
    warnings_all: int = 0


def now_of(run: Watched, at: float | None = None) -> Now:
    """How the run stands, `at` a time (seconds since 1970; without one, now). Raises UserError where one of
    its files is damaged."""
    at = time.time() if at is None else at
    if not run.begun:
        waiting = Standing(state="waiting", said="Waiting for the run to begin")
        return Now(name=run.name, standing=waiting)
    events, metrics = run.events(), run.metrics()
    took = [m["seconds"]["total"] for m in metrics[-10:]]
    standing = standing_of(
        events,
        run.hold(),
        heard=run.heard() or at,
        at=at,
        patience=max(_PATIENCE, 5 * max(took, default=0.0)),
        resume=f"refine {run.config.verb()} --resume {quoted(run.path)}",
    )
    going = standing.state == "running"
    if standing.state == "finished":  # the report has the rest
        return Now(name=run.name, standing=standing, done=len(metrics), steps=run.planned_steps())
    told = [e for e in events if e["kind"] in ("warning", "guard")]
    return Now(
        name=run.name,
        standing=standing,
        left=_left(run, at) if going else "",
        doing=_doing(run, metrics, events) if going else "",
        done=len(metrics),
        steps=run.planned_steps(),
        facts=(*_facts(run, metrics), *_money(run)),
        warnings=tuple(told[: -_WARNINGS - 1 : -1]),
        warnings_all=len(told),
    )


def standing_of(
    events: Sequence[Json], hold: Hold | None, *, heard: float, at: float, patience: float, resume: str
) -> Standing:
    """What the events on record, who holds the lock, and when something was `heard` of it say together.

    An event that ends a run stands until a process has taken the run up again. One whose process is gone
    without such an event has ended without a word. Where the process cannot be seen (on another machine, in
    another container), only the silence can be told, once it lasts for longer than `patience` seconds.
    """
    last = next((e for e in reversed(events) if e["kind"] in (*_BEGINS, *_ENDS)), None)
    alive = hold.alive if hold is not None else None
    if last is not None and last["kind"] in _ENDS:
        ended = _ended(last, resume)
        # An event's time is cut to whole seconds.
        if alive and hold is not None and hold.since > datetime.fromisoformat(last["time"]).timestamp() + 1:
            if ended.state == "finished":
                more = "A process is at work in its folder again: an evaluation, for one."
                return Standing(state="finished", said=ended.said, more=more)
            return Standing(state="running", said="Running", more="A process has taken it up again.")
        return ended
    silence = f"Nothing was written for {_minutes(at - heard)}"
    if alive:
        more = f"{silence}; its process is there." if at - heard > patience else ""
        return Standing(state="running", said="Running", more=more)
    if alive is False:
        more = f"Its process is gone: killed, or its machine went down. {silence}. What is on record is "
        return Standing(state="ended", said="Ended without a word", more=f"{more}kept; go on with: {resume}")
    if at - heard <= patience:
        return Standing(state="running", said="Running")
    more = f"{silence}, and its process cannot be seen from here. If it is gone, go on with: {resume}"
    return Standing(state="silent", said="Not heard of", more=more)


def _minutes(seconds: float) -> str:
    """
    >>> _minutes(20), _minutes(61), _minutes(4000), _minutes(300_000)
    ('less than a minute', '1 minute', '1 h 6 min', '3 days 11 h')
    """
    minutes = max(0, int(seconds)) // 60
    if minutes < 60:
        return count_of(minutes, "minute") if minutes else "less than a minute"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{count_of(hours // 24, 'day')} {hours % 24} h"


def _ended(last: Json, resume: str) -> Standing:
    if last["kind"] == "finished":
        return Standing(state="finished", said="Finished")
    if last["kind"] == "guard":
        said = f"Stopped by the guard “{last['name']}”"
        return Standing(state="stopped", said=said, more=last["text"])
    if last["kind"] == "failure":
        more = f"{last['text']} Go on with: {resume}"
        return Standing(state="failed", said="Stopped: an endpoint or the machine failed", more=more)
    return Standing(state="interrupted", said="Interrupted and saved", more=f"Go on with: {resume}")


def _left(run: Watched, at: float) -> str:
    """How long it will still take, in words; "" where that is not known yet."""
    files = run.state_of_files()
    last = max(
        (files[name][2] for name in (run.metrics.path.name, run.times.path.name) if name in files),
        default=None,
    )
    seconds = left_of(run, since=0.0 if last is None else max(0.0, at - last / 1e9))
    return "" if seconds is None else f"{about(seconds)} left"


def _doing(run: Watched, metrics: Sequence[Json], events: Sequence[Json]) -> str:
    """What a run that goes on is at, by what is there and what is not; "" while it trains."""
    done, steps = len(metrics), run.planned_steps()
    if run.config.kind() == "sft":
        if done < steps:
            return ""
        return "ending: the model and its answers" if steps else "preparing: the rows, the model"
    if "prompts_sha256" not in run.config.source():
        return "preparing: the prompts, the judges, the model"
    if run.settings().sft is not None and not any(e["name"] == "sft" for e in events):
        tuned = run.sft
        fine_tuning = tuned.begun and tuned.planned_steps()
        at = f": step {len(tuned.metrics())} of {fine_tuning}" if fine_tuning else ""
        return f"supervised fine-tuning first{at}"
    if not metrics and not run.answers("base").exists():
        return "the untrained model answers the held-out prompts"
    if done < steps and not any(e["name"] == "done_early" and e["step"] == done for e in events):
        return ""
    if not run.answers("tuned").exists():
        return "the tuned model answers the held-out prompts"
    return "ending: the comparison, the model, the report"


def _facts(run: Watched, metrics: Sequence[Json]) -> list[Fact]:
    """The newest reward, or loss, what validation said last, and how many scores are missing."""
    looks, found = run.validation(), []
    if run.config.kind() == "sft":
        if metrics:
            found.append(Fact("Loss", f"{metrics[-1]['loss']:.4f}"))
        if looks:
            found.append(Fact("Validation loss", _looked(looks, [f"{look['loss']:.4f}" for look in looks])))
        return found
    rewards = [(m["step"], m["reward_mean"]) for m in metrics if m["reward_mean"] is not None]
    if rewards:
        before = f" (step {rewards[0][0]}: {number(rewards[0][1])})" if len(rewards) > 1 else ""
        found.append(Fact("Reward", f"{number(rewards[-1][1])}{before}"))
    if looks:
        found.append(Fact("Validation", _looked(looks, [number(v["reward"]["mean"]) for v in looks])))
    missing = sum(m.get("members_missing", 0) for m in metrics)
    missing += sum(v.get("scores_missing", 0) for v in looks)
    if missing:
        found.append(Fact("Missing scores", str(missing), loud=True))
    return found


def _looked(looks: Sequence[Json], said: Sequence[str]) -> str:
    """The newest look beside the first."""
    newest = f"{said[-1]} at step {looks[-1]['step']}"
    if len(looks) == 1:
        return newest
    before = "untrained" if looks[0]["step"] == 0 else f"step {looks[0]['step']}"
    return f"{newest} ({before}: {said[0]})"


def _money(run: Watched) -> list[Fact]:
    """What was spent, beside the cap where there is one."""
    calls, budget = run.calls(), run.settings().budget
    if not calls:
        return []
    spent = total(bills(calls))
    cap = f" of ${budget.dollars:g}" if budget.dollars else ""
    return [Fact("Spent on LLMs", f"{spent}{cap}")]
>>>>>>> 603cd2b9f1ab867038d652cb2840bdf302ae4948
