"""Trajectories -> scores.

    build.py      settings -> the scorers of a run (training, validation, exam), by way of parts.py
    base.py       what a reward and a scorer are; a reward out of a quick function
    combine.py    several components as one reward, with overlong.py's penalty
    rules/        ready rules by name
    code/         a program run against assertions, in a process that is shut in
    functions/    the user's own functions: loaded, called in time, their answers checked
    judges/       LLMs that look at a group: a panel of them (panel.py), each as a ruler, each answer alone
                  (absolute.py) or two at a time (pairwise.py); what they go by, and what is held against them
    quiz/         questions about a source, answered from the completion
    steps/        wrong answers graded by their steps; Graded, a scorer around a scorer
    decayed.py    pay by the order of right answers; Decayed, a scorer around a scorer
    text/         words, patterns, the language of a text
    sanity.py     good and bad examples, checked before training
    scoring.py    scoring in the background while sampling goes on

Nothing here imports torch.
"""

from refine_rl.rewards.build import build_reward
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.functions.own import function_reward
from refine_rl.rewards.sanity import check_sanity

__all__ = ["CombinedReward", "build_reward", "check_sanity", "function_reward"]
