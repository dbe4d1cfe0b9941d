"""Rules before judges: what fails a rule is not shown to a judge, and costs no call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from refine_rl.rewards.functions.answers import left_out
from refine_rl.rewards.judges.panel import Panel, key_of
from refine_rl.types import Prompt, Score, Trajectory

FLOOR = 0.0
"""What the judges' component gives to an answer that they do not see."""
_TOLERANCE = 1e-9


async def gated(
    panel: Panel,
    gate: Mapping[str, Sequence[Score]],
    prompt: Prompt,
    trajectories: Sequence[Trajectory],
) -> list[Score]:
    """The panel's scores for the answers that reach 1 in every column of `gate` (by component's name).

    The others are invalid and get FLOOR without a call; where a column is missing for a member, so is the
    panel's score. Under a relative judging, one distinct answer that is left beside failed ones is not
    judged either: it is the best of its group, and gets 1.
    """
    scores = [
        _unseen({name: column[member] for name, column in gate.items()})
        for member in range(len(trajectories))
    ]
    left = [member for member, score in enumerate(scores) if score is None]
    seen = [trajectories[member] for member in left]
    failed = any(score is not None and score.status == "invalid" for score in scores)
    if panel.relative and failed and len({key_of(t.messages) for t in seen}) == 1:
        judged = [Score(value=1.0, explanation="not judged: no other answer passes the gate")] * len(seen)
    else:
        judged = await panel.score_group(prompt, seen)
    of_member = dict(zip(left, judged, strict=True))
    agreement = judged[0].agreement if judged else None
    return [
        replace(score, agreement=agreement) if score is not None else of_member[member]
        for member, score in enumerate(scores)
    ]


def _unseen(columns: Mapping[str, Score]) -> Score | None:
    """The score of an answer that the judges do not see, or None."""
    failed = [
        name
        for name, score in columns.items()
        if not left_out(score) and (score.value is None or score.value < 1 - _TOLERANCE)
    ]
    if not failed:
        return None
    names = ", ".join(failed)
    if any(columns[name].value is None for name in failed):
        return Score.missing(f"not judged: {names} could not be scored")
    return Score(value=FLOOR, status="invalid", explanation=f"not judged: it fails {names}")
