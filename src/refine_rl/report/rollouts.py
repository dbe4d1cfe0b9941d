"""The rollouts that the page carries: all of them where they fit, else evenly fewer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refine_rl.report.data import cut, plain
from refine_rl.report.standing import Json
from refine_rl.run import RunFolder

LONGEST_TEXT = 8000  # characters of one message


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollouts:
    """`json` can stand inside a script element as it is; `groups` of `groups_all` are in it."""

    json: str
    groups: int
    groups_all: int
    steps: int
    steps_all: int


def collect(run: RunFolder, limit: int) -> Rollouts:
    """The groups of a run for the page, in about `limit` bytes.

    The file is read twice, so that memory holds the chosen groups and not the whole run.
    """
    sizes: dict[int, list[int]] = {}
    for group in run.groups.lines():
        sizes.setdefault(group["step"], []).append(len(for_script(_slim(group))))
    per_step, steps = choose(sizes, limit)
    facets = {p.id: dict(p.facets) for p in run.prompts()}
    kept: dict[int, list[dict[str, Any]]] = {step: [] for step in steps}
    for group in run.groups.lines():
        chosen = kept.get(group["step"])
        if chosen is not None and len(chosen) < per_step:
            chosen.append(_slim(group) | {"facets": facets.get(group["prompt_id"], {})})
    data = [{"step": step, "groups": groups} for step, groups in kept.items() if groups]
    return Rollouts(
        json=for_script(data),
        groups=sum(len(groups) for groups in kept.values()),
        groups_all=sum(len(group_sizes) for group_sizes in sizes.values()),
        steps=len(data),
        steps_all=len(sizes),
    )


def choose(sizes: Mapping[int, Sequence[int]], limit: int) -> tuple[int, list[int]]:
    """How many groups of each step are kept, and of which steps, to stay within `limit` bytes.

    First fewer groups a step (the first ones: the order of prompts is random), down to one; then
    every k-th step, the first one always among them. At least one group is kept.

    >>> choose({1: [10, 10], 2: [10, 10]}, 100), choose({1: [10, 10], 2: [10, 10]}, 25)
    ((2, [1, 2]), (1, [1, 2]))
    """
    steps = sorted(sizes)
    for per_step in range(max(map(len, sizes.values()), default=1), 0, -1):
        if sum(sum(sizes[step][:per_step]) for step in steps) <= limit:
            return per_step, steps
    stride = next(
        (k for k in range(2, len(steps)) if sum(sizes[step][0] for step in steps[::k]) <= limit),
        max(1, len(steps)),
    )
    return 1, steps[::stride]


def for_script(data: object) -> str:
    """JSON in ASCII that no HTML parser can mistake for markup.

    Only `<`, `>` and `&` matter to HTML and they occur in JSON only inside strings, where they may
    be written as escapes; numbers that JSON does not know become null.

    >>> for_script(["</script>", float("nan"), "\\u2028"])
    '["\\\\u003c/script\\\\u003e",null,"\\\\u2028"]'
    """
    finite = json.loads(json.dumps(data), parse_constant=lambda number: None)
    text = json.dumps(finite, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _slim(group: Json) -> dict[str, Any]:
    """A line of groups.jsonl without tokens, the messages that all members share said once."""
    trajectories = group["trajectories"]
    shared = _shared([t["messages"] for t in trajectories])
    return {
        "prompt": group["prompt_id"],
        "agreement": next((t["agreement"] for t in trajectories if t.get("agreement") is not None), None),
        "context": [_message(m) for m in trajectories[0]["messages"][:shared]] if trajectories else [],
        "members": [
            {
                "member": t["member"],
                "messages": [_message(m) for m in t["messages"][shared:]],
                "tokens": len(t["tokens"]),
                **{key: t[key] for key in ("stop_reason", "reward", "status", "breakdown", "advantage")},
                "explanation": plain(cut(t["explanation"], LONGEST_TEXT)),
                **({"world": _world(t["world"])} if t.get("world") else {}),
            }
            for t in trajectories
        ],
    }


def _shared(conversations: Sequence[Sequence[Json]]) -> int:
    """How many first messages all members share; each keeps its last one for itself."""
    most = min((len(c) - 1 for c in conversations), default=0)
    return next(
        (i for i in range(most) if any(c[i] != conversations[0][i] for c in conversations)), max(most, 0)
    )


def _world(played: Json) -> dict[str, Any]:
    return {
        "rewards": played["rewards"],
        "end": played["end"],
        "why": plain(cut(played["why"], LONGEST_TEXT)),
    }


def _message(message: Json) -> dict[str, str]:
    return {"role": message["role"], "content": plain(cut(message["content"], LONGEST_TEXT))}
