"""Trajectories -> scores: rules, reward functions, their combination.

    rules.py      ready rules by name; rules_form.py and rules_content.py hold them
    functions.py  the user's own functions
    combine.py    several components as one reward, with overlong.py's penalty
    sanity.py     good and bad examples, checked before training
    scoring.py    scoring in the background while sampling goes on

Nothing here imports torch.
"""

from refine_rl.rewards.base import CompletionReward, Reward
from refine_rl.rewards.combine import CombinedReward, build_reward
from refine_rl.rewards.functions import function_reward
from refine_rl.rewards.rules import rules_table_markdown
from refine_rl.rewards.sanity import check_sanity
from refine_rl.rewards.scoring import ScoringLoop

__all__ = [
    "CombinedReward",
    "CompletionReward",
    "Reward",
    "ScoringLoop",
    "build_reward",
    "check_sanity",
    "function_reward",
    "rules_table_markdown",
]
