"""The Python front door: what the command line does, as functions.

import refine_rl as refine

def brevity(prompt, completion):
    return 1.0 if len(completion.split()) <= 20 else 0.0

run = refine.train(task="Answer in one short sentence.", prompts="tickets.jsonl", rewards=[brevity])
print(run.comparison)

# without any data: refine.train(task="...", writer="ENDPOINT/MODEL", judge="ENDPOINT/MODEL")
"""

import warnings

from refine_rl.api.after import Talk, chat, evaluate, generate
from refine_rl.api.before import check, plan, prompts
from refine_rl.api.beside import compare_runs
from refine_rl.api.leaving import export
from refine_rl.api.records import Evaluation, PromptList, RewardCheck, Run, SeedsRun, SFTRun, SideBySide
from refine_rl.api.runs import open_run, resume, resume_sft, sft, train
from refine_rl.api.score import score_group
from refine_rl.api.seeds import resume_seeds

__all__ = [
    "Evaluation",
    "PromptList",
    "RewardCheck",
    "Run",
    "SFTRun",
    "SeedsRun",
    "SideBySide",
    "Talk",
    "chat",
    "check",
    "compare_runs",
    "evaluate",
    "export",
    "generate",
    "open_run",
    "plan",
    "prompts",
    "resume",
    "resume_seeds",
    "resume_sft",
    "score_group",
    "sft",
    "train",
]

# A kernel without widgets hears of it when a library's progress bars are imported; none is ever shown.
warnings.filterwarnings("ignore", message="IProgress not found")
