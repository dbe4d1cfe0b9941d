"""The records that cross the wall of a room.

They are frozen and built once, when complete. The way of the data:

    Prompt -> Trajectory -> Score -> Group -> StepMetrics        (training)
    Prompt -> Trajectory -> Score -> Outcome -> Comparison       (evidence)

This room knows nobody: no torch, no files, no other room.
"""

from __future__ import annotations

from refine_rl.types.evidence import (
    MIN_PROMPTS,
    Beside,
    Comparison,
    Content,
    Contrast,
    Dialogue,
    Estimate,
    Example,
    Forgetting,
    Metric,
    Other,
    Outcome,
    Part,
    Ship,
    Took,
    Variety,
    Verdict,
)
from refine_rl.types.metrics import (
    Metrics,
    SFTMetrics,
    StepMetrics,
)
from refine_rl.types.records import (
    LOGGED,
    RIGHT_STEPS,
    WRITER,
    Demonstration,
    End,
    Group,
    Message,
    Played,
    Prompt,
    Score,
    Segment,
    Split,
    Status,
    StopReason,
    Taught,
    Trajectory,
)
from refine_rl.types.values import (
    LARGEST,
    RESIDUE,
    count_of,
    decimals,
    mean_of,
    one_line,
    reaches,
    same_value,
)

__all__ = [
    "LARGEST",
    "LOGGED",
    "MIN_PROMPTS",
    "RESIDUE",
    "RIGHT_STEPS",
    "WRITER",
    "Beside",
    "Comparison",
    "Content",
    "Contrast",
    "Demonstration",
    "Dialogue",
    "End",
    "Estimate",
    "Example",
    "Forgetting",
    "Group",
    "Message",
    "Metric",
    "Metrics",
    "Other",
    "Outcome",
    "Part",
    "Played",
    "Prompt",
    "SFTMetrics",
    "Score",
    "Segment",
    "Ship",
    "Split",
    "Status",
    "StepMetrics",
    "StopReason",
    "Taught",
    "Took",
    "Trajectory",
    "Variety",
    "Verdict",
    "count_of",
    "decimals",
    "mean_of",
    "one_line",
    "reaches",
    "same_value",
]
