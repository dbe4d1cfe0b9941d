"""Trajectories -> scores: rules, reward functions, judges, their combination.

    rules.py      ready rules by name; rules_form.py and rules_content.py hold them
    functions.py  the user's own functions
    judge.py      the judges of the settings: a panel (panel.py) of LLMs that look at a group (looks.py)
                  as a ruler (ruler.py), each answer alone (absolute.py) or two at a time (pairwise.py)
    quiz.py       questions about a source, answered from the completion
    combine.py    several components as one reward, with overlong.py's penalty and gate.py before judges
    sanity.py     good and bad examples, checked before training
    scoring.py    scoring in the background while sampling goes on

Nothing here imports torch.
"""

from refine_rl.rewards.base import CompletionReward, Reward
from refine_rl.rewards.combine import CombinedReward, build_reward
from refine_rl.rewards.functions.own import function_reward
from refine_rl.rewards.rules.table import rules_table_markdown
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
