"""How a run stands at this moment, for one who watches it: from its files alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from refine_rl.report.asked import bills, total
from refine_rl.report.data import number
from refine_rl.report.standing import Json
from refine_rl.report.time_left import about, ended_early, fine_tuning, left_of
from refine_rl.run import RunFolder
from refine_rl.run.follow import Watched
from refine_rl.run.forgotten import marked
from refine_rl.run.lock import Hold
from refine_rl.run.state import State, end_of, held_again, patience, state_of, turn_of
from refine_rl.types.amounts import long_time

_SAID: Mapping[State, str] = {
    "not begun": "Not begun",
    "running": "Running",
    "finished": "Finished",
    "interrupted": "Interrupted and saved",
    "failed": "Stopped: an endpoint or the machine failed",
    "broken off": "Broken off",
    "not heard of": "Not heard of",
}
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Now:
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
        waiting = Standing(state="not begun", said="Waiting for the run to begin")
        return Now(name=run.name, standing=waiting)
    events, metrics = run.events(), run.metrics()
    standing = _standing_at(run, at)
    going = standing.state == "running"
    if standing.state == "finished":  # the report has the rest
        return Now(name=run.name, standing=standing, done=len(metrics), steps=run.planned_steps())
    told = [e for e in marked(events) if e["kind"] in ("warning", "guard")]
    if standing.state == "stopped" and told[-1]["text"] == standing.more:
        del told[-1]  # it heads the page
    return Now(
        name=run.name,
        standing=standing,
        left=_left(run, at) if going else "",
        doing=_doing(run, metrics) if going else "",
        done=len(metrics),
        steps=run.planned_steps(),
        facts=(*_facts(run, metrics), *_money(run)),
        warnings=tuple(told[: -_WARNINGS - 1 : -1]),
        warnings_all=len(told),
    )


def standing_when_made(run: RunFolder) -> Standing:
    """How a run stands, for a page that is kept: what it says of a run that goes on was so when it was
    made."""
    watched = run if isinstance(run, Watched) else Watched(run.path)
    standing = _standing_at(watched, time.time())
    if standing.state != "running":
        return standing
    at = f"{datetime.now().astimezone():%H:%M:%S (UTC%z) on %Y-%m-%d}"
    made = (
        f"So it was when this page was made, at {at}. If it has ended since without a word, go on with: "
        f"{run.resume}"
    )
    return replace(standing, more=f"{standing.more} {made}".lstrip())


def _standing_at(run: Watched, at: float) -> Standing:
    took = [m["seconds"]["total"] for m in run.metrics()[-10:]]
    return standing_of(
        run.events(),
        run.hold(),
        silent=at - (run.heard() or at),
        patience=patience(took),
        resume=run.resume,
    )


def standing_of(
    events: Sequence[Json], hold: Hold | None, *, silent: float, patience: float, resume: str
) -> Standing:
    """The state (run/state.py) in words; `resume` is the command that goes on, `silent` the seconds for which
    nothing was written."""
    state = state_of(events, hold, silent=silent, patience=patience)
    turn, again = turn_of(events), held_again(events, hold)
    silence, go_on = f"Nothing was written for {_minutes(silent)}", f"Go on with: {resume}"
    more = ""
    if state == "running":
        if end_of(events) is not None:
            more = "A process has taken it up again."
        elif silent > patience:
            more = f"{silence}; its process is there."
    elif state == "finished":
        more = "A process is at work in its folder again: an evaluation, for one." if again else ""
    elif state == "broken off":
        more = (
            f"Its process is gone: killed, ended by an error, or its machine went down. {silence}. What is "
            f"on record is kept. {go_on}"
        )
    elif state == "not heard of":
        more = f"{silence}, and its process cannot be seen from here. If it is gone, go on with: {resume}"
    elif state == "stopped" and turn is not None:
        said = f"Stopped by the guard “{turn['name']}”"
        return Standing(state=state, said=said, more=turn["text"])
    elif state == "failed" and turn is not None:
        more = f"{turn['text']} {go_on}"
    else:
        more = go_on
    return Standing(state=state, said=_SAID[state], more=more)


def _minutes(seconds: float) -> str:
    """
    Those that are over: what is said to have lasted so long has.

    >>> _minutes(20), _minutes(119), _minutes(4000), _minutes(300_000)
    ('less than a minute', '1 min', '1 h 6 min', '3 days 11 h')
    """
    minutes = max(0, int(seconds)) // 60
    return long_time(minutes) if minutes else "less than a minute"


def _left(run: Watched, at: float) -> str:
    """How long it will still take, in words; "" where that is not known yet."""
    files = run.state_of_files()
    last = max(
        (files[name][2] for name in (run.metrics.path.name, run.times.path.name) if name in files),
        default=None,
    )
    seconds = left_of(run, since=0.0 if last is None else max(0.0, at - last / 1e9))
    return "" if seconds is None else f"{about(seconds)} left"


def _doing(run: Watched, metrics: Sequence[Json]) -> str:
    """What a run that goes on is at, by what is there and what is not; "" while it trains."""
    done, steps = len(metrics), run.planned_steps()
    if run.config.kind() == "sft":
        if done < steps:
            return ""
        return "ending: the model and its answers" if steps else "preparing: the rows, the model"
    if "prompts_sha256" not in run.config.source():
        return "preparing: the prompts, the judges, the model"
    if run.settings().sft is not None and not run.sft.begun:
        return "supervised fine-tuning first"
    if (tuning := fine_tuning(run)) is not None:
        its = tuning.planned_steps()
        return "supervised fine-tuning first" + (f": step {len(tuning.metrics())} of {its}" if its else "")
    if not metrics and not run.answers("base").exists():
        return "the untrained model answers the held-out prompts"
    if done < steps and not ended_early(run, done):
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
