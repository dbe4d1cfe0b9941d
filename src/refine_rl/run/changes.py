"""What a person changes of a run's settings on the way: told when it happens, and with the result."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from refine_rl.settings import Settings

_NO_RESULT_DEPENDS_ON = ("budget.", "endpoints.", "track.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A setting that was `old` up to and including `step`, and `new` from the next one on; both as text."""

    key: str
    old: str
    new: str
    step: int

    def __str__(self) -> str:
        """
        >>> str(Change(key="grpo.learning_rate", old="0.02", new="0.001", step=4))
        'grpo.learning_rate: 0.02 up to step 4, 0.001 from step 5 on'
        """
        return f"{self.key}: {self.old} up to step {self.step}, {self.new} from step {self.step + 1} on"


def changes_between(before: Settings, after: Settings, step: int) -> list[Change]:
    """One for each setting that is another one."""
    old, new = dict(_flat(before)), dict(_flat(after))
    return [
        Change(key=key, old=old.get(key, NOT_SET), new=new.get(key, NOT_SET), step=step)
        for key in dict.fromkeys([*old, *new])
        if old.get(key, NOT_SET) != new.get(key, NOT_SET)
    ]


def changes_in_force(events: Iterable[Mapping[str, Any]], settings: Settings) -> list[Change]:
    """The changes on which the result depends. Going back to an earlier step makes a change count from there
    on, and one without a step before it is none: the whole training has the new value."""
    found: list[Change] = []
    for event in events:
        if event["kind"] == "rewound":
            found = [replace(change, step=min(change.step, event["step"])) for change in found]
        elif event["kind"] == "changed" and "old" in event:
            change = Change(key=event["name"], old=event["old"], new=event["new"], step=event["step"])
            before = next((c for c in found if (c.key, c.step) == (change.key, change.step)), None)
            if before is None:
                found.append(change)
            else:  # nothing was trained in between
                found[found.index(before)] = replace(before, new=change.new)
    now = dict(_flat(settings))
    last = {change.key: change.new for change in found}
    return [
        change
        for change in found
        if change.step > 0
        and change.old != change.new
        and last[change.key] == now.get(change.key, NOT_SET)
        and not change.key.startswith(_NO_RESULT_DEPENDS_ON)
    ]


NOT_SET = "not set"
"""What stands for a value that is left open."""


def _flat(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each setting as (key, value as text)."""
    for name, value in settings.model_dump(mode="json").items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", _text(inner)) for key, inner in value.items())
        else:
            yield name, _text(value)


def _text(value: object) -> str:
    return NOT_SET if value is None else json.dumps(value, ensure_ascii=False)
