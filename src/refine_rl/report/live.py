"""The report while a person watches the run: the page with a strip above it that says how the run stands now,
and a script that exchanges what has changed."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import escape

from refine_rl.report.data import number
from refine_rl.report.fill import file_of, fill
from refine_rl.report.now import Now
from refine_rl.report.standing import Json

GROUPS = 3  # of the newest step that the strip shows
_POLICY = re.compile(r'(<meta http-equiv="Content-Security-Policy" content=")([^"]*)"')


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """An answer of a group; `place` is where its reward lies between the least and the most of those shown,
    in [0, 1], or None where it has none."""

    reward: float | None
    place: float | None
    status: str
    text: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NewGroup:
    """A group of the newest step, its answers in their order."""

    step: int
    prompt: str
    mean: float | None
    members: tuple[Member, ...]

    @property
    def spoken(self) -> str:
        return ", ".join(number(member.reward) for member in self.members)


def newest(records: Sequence[Json]) -> list[NewGroup]:
    """Of the groups of a step, as their lines stand, those that the strip shows."""
    some = records[:GROUPS]
    rewards = [t["reward"] for group in some for t in group["trajectories"] if t["reward"] is not None]
    low, high = min(rewards, default=0.0), max(rewards, default=0.0)
    if low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    return [_new_group(group, low, high) for group in some]


def _new_group(group: Json, low: float, high: float) -> NewGroup:
    answers = group["trajectories"]
    conversations = [t["messages"] for t in answers]
    most = min((len(c) - 1 for c in conversations), default=0)
    shared = next((n for n in range(most) if any(c[n] != conversations[0][n] for c in conversations)), most)
    rewards = [t["reward"] for t in answers if t["reward"] is not None]
    return NewGroup(
        step=group["step"],
        prompt=conversations[0][shared - 1]["content"] if shared else group["prompt_id"],
        mean=fmean(rewards) if rewards else None,
        members=tuple(
            Member(
                reward=t["reward"],
                place=None if t["reward"] is None else _place(t["reward"], low, high),
                status=t["status"],
                text=_said(t["messages"][shared:]),
                why="; ".join(t.get("explanation", "").splitlines()),
            )
            for t in answers
        ),
    )


def _place(reward: float, low: float, high: float) -> float:
    """
    >>> _place(0.5, 0.0, 2.0), _place(3.0, 3.0, 3.0)
    (0.25, 1.0)
    """
    return (reward - low) / (high - low) if high > low else 1.0


def _said(messages: Sequence[Json]) -> str:
    """An answer's own words; where there are several turns, who said what."""
    if len(messages) == 1:
        return str(messages[0]["content"]).strip()
    return "\n".join(f"{m['role']}: {m['content']}" for m in messages)


def strip(now: Now, groups: Sequence[Json], *, report: str = "", made: str = "", trouble: str = "") -> str:
    """What stands above the report, as HTML. `groups` are those of the newest step; `report` tells one report
    from another, and is "" where there is none yet; it was made at the time `made`; `trouble` is what keeps
    it from being made anew."""
    at = f"{now.done}/{now.steps} " if now.steps and now.standing.state == "running" else ""
    return fill(
        "live.html.j2",
        {
            "now": now,
            "newest": newest(groups),
            "more": max(0, len(groups) - GROUPS),
            "report": report,
            "made": made,
            "trouble": trouble,
            "title": f"{at}{now.standing.said} – {now.name} – Re:Fine",
        },
    )


def watched_page(page: str, above: str) -> str:
    """The page of a report, to be served: with the strip `above` it, and a script that may ask this server,
    and no other, for what is new."""
    script = file_of("live.js")
    page = _POLICY.sub(lambda found: f'{found[1]}{_widened(found[2], script)}"', page, count=1)
    for place, added in (
        ("</head>", f"<style>\n{file_of('live.css')}</style>\n</head>"),
        ('<header class="top">', f'{above}\n<header class="top">'),
        # Before the page's own script, which changes what came.
        ("</main>", f"</main>\n<script>{script}</script>"),
    ):
        before, found, after = page.partition(place)
        if not found:
            raise ValueError(f"the page has no {place}")
        page = before + added + after
    return page


def waiting_page(name: str, above: str, said: str) -> str:
    """What is served before there is a report."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(name)} – Re:Fine</title>\n<style>\n{file_of('page.css')}\n</style>\n"
        "</head>\n<body>\n"
        f'<header class="top"><p class="product">Re:Fine report <span class="run">{escape(name)}</span></p>'
        f'</header>\n<main id="main"><p class="lead">{escape(said)}</p></main>\n</body>\n</html>\n'
    )
    return watched_page(page, above)


def _widened(policy: str, script: str) -> str:
    """A page's policy with leave for our script, and for it to ask where it came from.

    >>> _widened("default-src 'none'; script-src 'sha256-A'", "").partition(" 'sha256-47DEQ")[0]
    "default-src 'none'; connect-src 'self'; script-src 'sha256-A'"
    """
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";") if rule.strip())
    allowed = rules.pop("script-src", "")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules |= {"connect-src": "'self'", "script-src": f"{allowed} 'sha256-{digest}'".strip()}
    return "; ".join(f"{name} {sources}" for name, sources in rules.items())
