"""Re:Fine: describe a behaviour in plain words, and train an open language model until it shows it."""

from refine_rl.api import Run, open_run, resume, score_group, train
from refine_rl.types import Comparison, Prompt, Score, Trajectory

__all__ = [
    "Comparison",
    "Prompt",
    "Run",
    "Score",
    "Trajectory",
    "open_run",
    "resume",
    "score_group",
    "train",
]
