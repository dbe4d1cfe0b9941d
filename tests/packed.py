"""Rollouts of a page, unpacked as rollouts.js does it."""

from __future__ import annotations

import json
from typing import Any

from refine_rl.report.rollouts import Rollouts, collect
from refine_rl.report.survey import survey
from refine_rl.run import RunFolder


def carried(run: RunFolder, limit: int = 10_000_000) -> tuple[Rollouts, dict[str, Any]]:
    """What the page of a run carries in so many bytes, and the data in it."""
    found = collect(run, survey(run), limit)
    return found, unpacked(found.json)


def unpacked(text: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(text)
    for step in data["steps"]:
        for group in step["groups"]:
            group["context"] = data["contexts"][group["context"]]
            names = data["names"][group["names"]]
            for m in group["members"]:
                usual = [("assistant", "user")[n % 2] for n in range(len(m["said"]))]
                roles = m.get("roles", usual)
                m["messages"] = [
                    {"role": role, "content": said} for role, said in zip(roles, m["said"], strict=True)
                ]
                m["parts"] = {n: v for n, v in zip(names, m["parts"], strict=True) if v is not None}
                m["why"] = "\n".join(data["lines"][number] for number in m["why"])
                m.setdefault("stop", "stop")
                m.setdefault("status", "scored")
    return data
