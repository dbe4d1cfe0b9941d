"""The runs of a folder, found and put in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from refine_rl.errors import UserError
from refine_rl.run.glance import Glance, find_runs

_NEVER = datetime.min.replace(tzinfo=UTC)
_BY: Mapping[str, Callable[[Glance], Any]] = {  # what sorts; larger ones come first, names from a to z
    "when": lambda g: g.created or _NEVER,
    "name": lambda g: g.name.casefold(),
    "difference": lambda g: g.difference.mean if g.difference else float("-inf"),
    "cost": lambda g: g.dollars if g.dollars is not None else float("-inf"),
    "time": lambda g: g.seconds,
}
ORDERS = tuple(_BY)


def list_runs(folder: Path = Path("runs"), *, match: str = "", order: str = "when") -> list[Glance]:
    """The runs in a folder, from their files alone: damaged ones and half-written ones with a word on what is
    wrong. A run that is part of another one stands below it.

    `match` keeps those that have this text (any case) in their name, task, model, state or verdict; `order`
    is "when" (newest first), "name", "difference", "cost" or "time" (largest first). Raises UserError where
    there is no such folder.
    """
    if order not in _BY:
        raise UserError(f"--sort {order}: there are {', '.join(ORDERS)}.")
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "is not there"
        hint = " Runs are made with refine train, or refine demo." if folder == Path("runs") else ""
        raise UserError(f"{folder} {what}.{hint}")
    found = find_runs(folder)
    outer = [g for g in found if not g.within]
    inner: dict[str, list[Glance]] = {}
    for g in found:
        if g.within:
            inner.setdefault(g.within, []).append(g)
    outer.sort(key=_BY[order], reverse=order != "name")

    def with_inner(g: Glance) -> list[Glance]:
        return [g, *(below for one in inner.get(g.name, []) for below in with_inner(one))]

    ordered = [one for g in outer for one in with_inner(g)]
    return [g for g in ordered if match.casefold() in _text(g)]


def _text(g: Glance) -> str:
    return "\n".join((g.name, g.task, g.model, g.kind, g.state, g.verdict or "", g.why)).casefold()
