"""The rollouts that the page carries: all of them where they fit, else some of every step.

Of a run that does not fit, the page has the first and the newest step whole, one prompt's groups through all
steps, so that it can be followed, and of the other steps as many groups as there is room for, the same number
of each. Rewards are numbers and small: those of all groups are there as long as they are few enough.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refine_rl.report.data import cut, plain
from refine_rl.report.evenly import evenly
from refine_rl.report.standing import Json
from refine_rl.report.survey import Seen, shared_messages
from refine_rl.run import RunFolder

LONGEST_TEXT = 8000  # characters of one message
_REWARDS = 0.25  # of the room, at most, for the rewards of groups whose texts are left out
_MARKUP = re.compile(r"[<>&\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_GENEROUS = 1.6  # times the room, for a first choice
_NOTHING = 1e-9  # a smaller number is what rounding leaves
_FOLLOWED = 0.25  # of the room, for one prompt through all steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollouts:
    """`json` can stand inside a script element as it is; `groups` of `groups_all` are in it, and `steps` of
    `steps_all` have one. `followed` is the prompt whose groups were kept, where not all were; `rewards` says
    whether those of the other groups are in it too."""

    json: str
    groups: int
    groups_all: int
    steps: int
    steps_all: int
    followed: str
    rewards: bool


def collect(run: RunFolder, groups: Sequence[Seen], limit: int) -> Rollouts:
    """The groups of a run for the page, in at most `limit` bytes (but one group at least). `groups` is the
    survey of them: the file is read again, so that memory holds the chosen groups and not the whole run."""
    followed = _most_often(groups)
    # More than may fit, the most wanted first: how much it is on the page is known once it is written.
    wanted = choose(groups, _GENEROUS * limit, followed)
    there = set(wanted)
    slim = {place: _slim(g) for place, g in enumerate(run.groups.lines()) if place in there}
    facets = {p.id: dict(p.facets) for p in run.prompts()}
    while True:
        others = _others(groups, wanted, limit)
        packed = _packed(groups, {place: slim[place] for place in sorted(wanted)}, facets)
        text = for_script(packed | {"others": others})
        size = len(text.encode("utf-8", "replace"))
        if size <= limit or len(wanted) <= 1:
            break
        wanted = wanted[: max(1, min(len(wanted) - 1, int(0.98 * len(wanted) * limit / size)))]
    return Rollouts(
        json=text,
        groups=len(wanted),
        groups_all=len(groups),
        steps=len({groups[place].step for place in wanted}),
        steps_all=len({g.step for g in groups}),
        followed="" if len(wanted) == len(groups) else followed,
        rewards=bool(others),
    )


def _others(groups: Sequence[Seen], kept: Collection[int], limit: int) -> list[list[Any]]:
    """The rewards of those groups whose texts the page has not, where there is room for all of them."""
    there = set(kept)
    others = [
        [g.step, g.prompt, [_short(r) for r in g.rewards]] for n, g in enumerate(groups) if n not in there
    ]
    return others if len(json.dumps(others)) <= _REWARDS * limit else []


def _packed(
    groups: Sequence[Seen], slim: Mapping[int, dict[str, Any]], facets: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """The groups as the page has them: what many of them say (prompts, lines of explanations, names) stands
    once, and they have its number. rollouts.js unpacks it."""
    contexts, lines, names = _Shelf(), _Shelf(), _Shelf()
    steps: dict[int, list[dict[str, Any]]] = {}
    for place, group in slim.items():
        members = [
            {**m, "why": [lines.number(line) for line in m["why"].split("\n")] if m["why"] else []}
            for m in group["members"]
        ]
        packed = {
            **group,
            "context": contexts.number(json.dumps(group["context"])),
            "names": names.number(json.dumps(group["names"])),
            "members": members,
        }
        steps.setdefault(groups[place].step, []).append(packed)
    return {
        "steps": [{"step": step, "groups": some} for step, some in steps.items()],
        "contexts": [json.loads(said) for said in contexts.things],
        "names": [json.loads(said) for said in names.things],
        "lines": list(lines.things),
        "facets": {name: facets[name] for name in {groups[n].prompt: 0 for n in slim} if facets.get(name)},
    }


class _Shelf:
    """Texts, each with its number."""

    def __init__(self) -> None:
        self.things: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self.things.setdefault(text, len(self.things))


def _most_often(groups: Sequence[Seen]) -> str:
    """The prompt that the most groups answer; of several, the first."""
    counted = Counter(g.prompt for g in groups)
    return counted.most_common(1)[0][0] if counted else ""


def choose(groups: Sequence[Seen], limit: float, followed: str = "") -> list[int]:
    """The places of the groups that are kept to stay within about `limit` bytes, at least one, the most
    wanted first.

    >>> drawn = [(1, "a"), (1, "b"), (2, "a"), (2, "c"), (3, "a"), (3, "d")]
    >>> some = [Seen(step=s, prompt=p, rewards=(1.0,), agreement=None, size=900) for s, p in drawn]
    >>> choose(some, 10_000), choose(some, 4_000), choose(some, 10)
    ([0, 1, 4, 2, 5, 3], [0, 4, 2, 1], [0])
    """
    of_step: dict[int, list[int]] = {}
    for place, group in enumerate(groups):
        of_step.setdefault(group.step, []).append(place)
    steps = evenly(list(of_step))
    rounds = max(map(len, of_step.values()), default=0)
    one_each = [of_step[s][n] for n in range(rounds) for s in steps if n < len(of_step[s])]
    ends = [*of_step[min(of_step)], *of_step[max(of_step)]] if of_step else []
    same = [place for place, group in enumerate(groups) if group.prompt == followed]
    kept: dict[int, None] = {}
    used = 0
    for wanted, room in ((ends, limit / 5), (evenly(same), _FOLLOWED * limit), (one_each, limit)):
        spent = 0
        for place in wanted:
            size = groups[place].size
            if place not in kept and used + size <= limit and spent + size <= room:
                kept[place] = None
                used += size
                spent += size
    return list(kept) or list(range(len(groups)))[:1]


def for_script(data: object) -> str:
    """JSON that no HTML parser can mistake for markup, and that hides or turns no text.

    What is escaped occurs in JSON only inside strings, where it may be written so; numbers that JSON does
    not know become null.

    >>> for_script(["</script>", float("nan"), "\\u2028"])
    '["\\\\u003c/script\\\\u003e",null,"\\\\u2028"]'
    """
    finite = json.loads(json.dumps(data), parse_constant=lambda number: None)
    text = json.dumps(finite, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return _MARKUP.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _short(value: float | None) -> float | int | None:
    """A number with four digits."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.4g}") if abs(value) >= _NOTHING else 0.0
    return int(rounded) if rounded == int(rounded) else rounded


def _slim(group: Json) -> dict[str, Any]:
    """A line of groups.jsonl without tokens, the messages that all members share said once, and of each
    member only what is not as usual."""
    trajectories = group["trajectories"]
    shared = shared_messages([t["messages"] for t in trajectories])
    names = list(dict.fromkeys(name for t in trajectories for name in t["breakdown"]))
    agreement = next((t["agreement"] for t in trajectories if t.get("agreement") is not None), None)
    return {
        "prompt": group["prompt_id"],
        "context": [
            {"role": m["role"], "content": _text(m["content"])} for m in trajectories[0]["messages"][:shared]
        ]
        if trajectories
        else [],
        "names": names,
        "members": [_member(t, shared, names) for t in trajectories],
        **({} if agreement is None else {"agreement": _short(agreement)}),
    }


def _member(t: Json, shared: int, names: Sequence[str]) -> dict[str, Any]:
    own = t["messages"][shared:]
    roles = [m["role"] for m in own]
    usual = [("assistant", "user")[n % 2] for n in range(len(own))]
    return {
        "said": [_text(m["content"]) for m in own],
        "tokens": len(t["tokens"]),
        "reward": _short(t["reward"]),
        "advantage": _short(t["advantage"]),
        "parts": [_short(t["breakdown"].get(name)) for name in names],
        "why": _text(t["explanation"]),
        **({} if roles == usual else {"roles": roles}),
        **({} if t["stop_reason"] == "stop" else {"stop": t["stop_reason"]}),
        **({} if t["status"] == "scored" else {"status": t["status"]}),
        **({"world": _world(t["world"])} if t.get("world") else {}),
    }


def _world(played: Json) -> dict[str, Any]:
    return {
        "rewards": [_short(r) for r in played["rewards"]],
        "end": played["end"],
        "why": _text(played["why"]),
    }


def _text(text: str) -> str:
    return plain(cut(text, LONGEST_TEXT))
