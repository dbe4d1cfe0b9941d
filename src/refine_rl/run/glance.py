"""A run at a glance, from its files alone: what `refine runs` says of it.

Its files may be damaged, half written, or those of another version: so they are read leniently here, as bare
TOML and JSON, and what cannot be read is a word in the result and never an error.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from refine_rl.errors import UserError
from refine_rl.run.config import CONFIG
from refine_rl.run.files import Record, read_text, record_of
from refine_rl.run.follow import Watched
from refine_rl.run.life import taken_by
from refine_rl.run.near import SEEDS
from refine_rl.run.state import State, patience, state_of, turn_of
from refine_rl.run.tables import Tables

_OUR_OWN = {"checkpoints", "model", "evaluations", "comparisons"}  # of a run's folders: no runs are in these
_DEEPEST = 4  # folders below the one that is listed


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What the tuned model has more than base on the held-out prompts, with its 95 % interval."""

    mean: float
    ci95: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Glance:
    """A run's folder. `name` is its path below the folder that was listed; `within` the name of the run that
    it is a part of (supervised fine-tuning with which one begins; a training under several seeds, whose
    `kind` is "seeds"), "" for others.

    `why` says which guard it was that stopped the run, or what is damaged. `verdict` and `difference` are of
    the run's own comparison, None without one. `dollars` are of the calls whose price is known (None: no call
    was made), `unpriced` counts the others. `seconds` is all time that is on record, `created` when the run
    began (UTC, None where that cannot be read).
    """

    name: str
    path: Path
    within: str = ""
    kind: str = "grpo"
    task: str = ""
    model: str = ""
    state: State | Literal["damaged"]
    why: str = ""
    steps: int = 0
    planned: int = 0
    verdict: str | None = None
    difference: Difference | None = None
    prompts: int | None = None
    dollars: float | None = None
    unpriced: int = 0
    seconds: float = 0.0
    created: datetime | None = None
    version: str = ""


def find_runs(folder: Path) -> list[Glance]:
    """All runs in a folder (or the folder's own, where it is one), in folders of runs, and within runs, in
    the order of their paths. A folder in which no run has begun yet, or whose config is lost, is one of
    them."""
    return list(_below(folder, folder, "", 0))


def _below(folder: Path, top: Path, within: str, depth: int) -> Iterator[Glance]:
    found = None
    if (folder / CONFIG).is_file():
        found = _run(folder, _name(folder, top), within)
    elif (folder / SEEDS).is_file():
        yield from _of_seeds(folder, top, within, depth)
        return
    elif depth and (why := _remains(folder)) is not None:
        found = Glance(name=_name(folder, top), path=folder, state="damaged" if why else "not begun", why=why)
    if found is not None:
        yield found
    if depth == _DEEPEST:
        return
    try:
        inner = sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink())
    except OSError:
        return
    for path in inner:
        if path.name.startswith(".") or (found is not None and path.name in _OUR_OWN):
            continue
        if found is None or (path / CONFIG).is_file():
            yield from _below(path, top, found.name if found else "", depth + 1)


def _of_seeds(folder: Path, top: Path, within: str, depth: int) -> Iterator[Glance]:
    """The runs of several seeds in one line, and below it each of them. Their verdict follows from the
    interval over seeds; what they cost and took is of all together."""
    problems: list[str] = []
    summary, name = _json(folder / SEEDS, problems), _name(folder, top)
    runs = [g for path in sorted(folder.glob("seed-*")) for g in _below(path, top, name, depth + 1)]
    own = [g for g in runs if g.within == name]
    planned, difference = int(_number(summary.get("seeds"))), _difference(summary.get("difference"))
    undone = [g.state for g in own if g.state != "finished"]
    state = undone[-1] if undone else "finished" if len(own) >= planned else "interrupted"
    verdict = None
    if difference is not None:
        low, high = difference.ci95
        verdict = "better" if low > 0 else "worse" if high < 0 else "not better"
    known = [g.dollars for g in own if g.dollars is not None]
    began = [g.created for g in own if g.created is not None]
    yield Glance(
        name=name,
        path=folder,
        within=within,
        kind="seeds",
        task=own[0].task if own else "",
        model=own[0].model if own else "",
        state="damaged" if problems else state,
        why=problems[0] if problems else next((g.why for g in own if g.state == state), ""),
        steps=sum(g.steps for g in own),
        planned=planned * max((g.planned for g in own), default=0),
        verdict=verdict,
        difference=difference,
        dollars=sum(known) if known else None,
        unpriced=sum(g.unpriced for g in own),
        seconds=sum(g.seconds for g in own),
        created=min(began, default=None),
        version=own[0].version if own else "",
    )
    yield from runs


def _name(folder: Path, top: Path) -> str:
    below = folder.relative_to(top).as_posix()
    return folder.resolve().name if below == "." else below


def _remains(folder: Path) -> str | None:
    """Of a folder without a config: "" where a run is about to begin there or never did, what is wrong where
    one has been there; None for a folder that has nothing to do with runs."""
    tables = Tables(folder)
    if any(table.exists() for table in (tables.metrics, tables.groups, tables.events)):
        return f"its {CONFIG} is gone"
    try:
        empty = not taken_by(folder)
    except OSError:
        return None
    return "" if empty and any(folder.iterdir()) else None


def _run(folder: Path, name: str, within: str) -> Glance:
    """The run whose config is there."""
    problems: list[str] = []
    tables = Tables(folder)
    config = _config(tables, problems)
    source, settings = _table(config, "source"), config
    kind = str(source.get("kind", "grpo"))
    metrics = list(_lines(tables.metrics.path, problems))
    took = [_number(_table(m, "seconds").get("total")) for m in metrics]
    state, why = _state(folder, list(_lines(tables.events.path, problems)), took[-10:])
    compared = _json(folder / "comparison.json", problems)
    calls = [c for c in _lines(tables.calls.path, problems) if c.get("outcome") != "cached"]
    prices = [c.get("cost_usd") for c in calls]
    known = [p for p in prices if isinstance(p, int | float)]
    planned = source.get("sft_steps", 0) if kind == "sft" else _table(settings, "grpo").get("steps", 0)
    verdict = compared.get("verdict")
    prompts = compared.get("prompts")
    return Glance(
        name=name,
        path=folder,
        within=within,
        kind=kind,
        task=str(settings.get("task", "")),
        model=str(_table(settings, "model").get("name", "")),
        state="damaged" if problems else state,
        why=problems[0] if problems else why,
        steps=int(max((_number(m.get("step")) for m in metrics), default=0)),
        planned=int(_number(planned)),
        verdict=verdict if isinstance(verdict, str) else None,
        difference=_difference(compared.get("difference")),
        prompts=prompts if isinstance(prompts, int) else None,
        dollars=float(sum(known)) if calls and known else None,
        unpriced=len(calls) - len(known),
        seconds=sum(took) + sum(_number(t.get("seconds")) for t in _lines(tables.times.path, problems)),
        created=_moment(source.get("created")),
        version=str(_table(config, "versions").get("refine-rl", "")),
    )


def _state(folder: Path, events: list[Record], steps: Sequence[float]) -> tuple[State, str]:
    """How far a run is, and which guard it was; `steps` are the seconds of its newest ones."""
    run, now = Watched(folder), time.time()
    silent = now - (run.heard() or now)
    state = state_of(events, run.hold(), silent=silent, patience=patience(steps))
    return state, str((turn_of(events) or {}).get("name", "")) if state == "stopped" else ""


def _config(tables: Tables, problems: list[str]) -> dict[str, Any]:
    file = tables.path / CONFIG
    try:
        found = tomllib.loads(read_text(file))
    except (UserError, OSError, ValueError, RecursionError) as error:
        problems.append(f"{CONFIG}: {_short(error)}")
        return {}
    if not _table(found, "source") or not _table(found, "versions"):
        problems.append(f"{CONFIG}: its end is missing")
    return found


def _lines(file: Path, problems: list[str]) -> Iterator[Record]:
    """The whole lines of a file that are JSON objects; a file that is not there has none, and the first line
    that is damaged is told."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        problems.append(f"{file.name}: {error.strerror}")
        return
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        record, _ = record_of(line)
        if record is not None:
            yield record
        elif not any(p.startswith(file.name) for p in problems):
            problems.append(f"{file.name}:{number} is damaged")


def _json(file: Path, problems: list[str]) -> Record:
    try:
        found, _ = record_of(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError:
        found = None
    if found is None:
        problems.append(f"{file.name} is damaged")
        return {}
    return found


def _difference(value: object) -> Difference | None:
    try:
        low, high = value["ci95"]  # type: ignore[index]
        return Difference(mean=float(value["mean"]), ci95=(float(low), float(high)))  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        return None


def _table(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = record.get(name)
    return found if isinstance(found, Mapping) else {}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _moment(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _short(error: Exception) -> str:
    text = str(getattr(error, "strerror", None) or error)
    return text.partition("\n")[0]
