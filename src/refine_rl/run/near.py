"""Near: which run a person may have meant who named something that is none."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from refine_rl.errors import UserError, quoted
from refine_rl.run.config import CONFIG

RUNS = Path("runs")
"""Where runs go that get no folder of their own."""

SEEDS = "seeds.json"
"""In a folder that holds a run for each of several seeds."""


def require_one(path: Path) -> None:
    """Raises UserError where one run is meant and `path` holds one for each of several seeds."""
    if (path / SEEDS).is_file() and not _is_run(path):
        names = _runs_in(path)
        which = f": name one of them, such as {quoted(path / names[0])}" if names else ""
        raise UserError(f"{path} holds a run for each of several seeds{which}.")


def run_near(path: Path) -> Path | None:
    """The run in a folder runs/ beside `path` that is called so, the one that `path` is a part of, or one
    beside it, then in runs/ there, whose name is nearly that; None where there is none."""
    runs = path.parent / RUNS
    if path.name and _is_run(runs / path.name):
        return runs / path.name
    for outer in path.parents:
        if _is_run(outer):
            return outer
    for folder in (path.parent, runs):
        if near := get_close_matches(path.name, _runs_in(folder), n=1):
            return folder / near[0]
    return None


def did_you_mean(path: Path) -> str:
    """The way on from a path that is no run, as a sentence behind a blank; "" where nothing is near."""
    if _runs_in(path):
        return f" Those in it: refine runs {quoted(path)}"
    near = run_near(path)
    return f" Did you mean {quoted(near)}?" if near is not None else ""


def _is_run(path: Path) -> bool:
    return (path / CONFIG).is_file()


def _runs_in(folder: Path) -> list[str]:
    try:
        return sorted(p.name for p in folder.iterdir() if _is_run(p))
    except OSError:
        return []
