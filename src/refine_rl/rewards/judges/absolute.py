"""Absolute judging: each answer of a group alone in a request, from 1 to 10.

Values compare across groups, which those of the ruler do not; but a judge that never sees two answers
side by side tells close ones apart less well, and each answer costs a call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from refine_rl.llm.client import Client
from refine_rl.llm.schemas import explained
from refine_rl.llm.structured import Unusable
from refine_rl.rewards.judges.fence import fenced_json
from refine_rl.rewards.judges.judging import EachAlone, explanation_of
from refine_rl.rewards.judges.looks import Case
from refine_rl.rewards.judges.scales import in_short
from refine_rl.types import Message

LOWEST, HIGHEST = 1, 10

_SCORE = re.compile(r"[*\s]*([-+]?\d+(?:[.,]\d+)?)\s*(?:(?:/|out of)\s*10(?:[.,]0+)?)?[*.\s]*", re.IGNORECASE)
_SCHEMA = explained("grade", {"score": {"type": "number"}})


@dataclass(frozen=True, kw_only=True)
class Absolute(EachAlone):
    """A grade from 1 to 10 for each answer alone; value = (grade - 1) / 9. A further look reads the answers
    otherwise (views.py)."""

    text, key = "absolute.md", "score"

    async def grade(
        self, client: Client, case: Case, answer: tuple[Message, ...], look: int
    ) -> tuple[float, str]:
        shown = f"<answer>\n{fenced_json(answer)}\n</answer>"
        grade, reason = await self.ask(client, case, look, shown, read_grade, _SCHEMA)
        return (grade - LOWEST) / (HIGHEST - LOWEST), reason


def read_grade(reply: object) -> tuple[float, str]:
    """(grade, explanation) of a parsed reply; raises Unusable with what is wrong.

    A grade may be written "8" or "8/10". One on another scale, or outside 1 to 10, is not guessed at.

    >>> read_grade({"explanation": "Clear.", "score": "8/10"})
    (8.0, 'Clear.')
    """
    if not isinstance(reply, Mapping):
        raise Unusable('The reply must be an object with "explanation" and "score".')
    if "score" not in reply:
        raise Unusable('The reply has no "score".')
    written = reply["score"]
    found = _SCORE.fullmatch(written) if isinstance(written, str) else None
    if found is not None:
        written = float(found[1].replace(",", "."))
    if isinstance(written, bool) or not isinstance(written, int | float):
        raise Unusable(f"The score is {in_short(written)}; it must be a number from {LOWEST} to {HIGHEST}.")
    if not LOWEST <= written <= HIGHEST:
        raise Unusable(f"The score is {in_short(written)}, which is not from {LOWEST} to {HIGHEST}.")
    return float(written), explanation_of(reply)
