"""Re:Fine: describe a behaviour in plain words, and train an open language model until it shows it.

`train`, `sft`, `resume`, `resume_sft`, `open_run` and `score_group` do what the command line does. The other
names are the pieces that they are made of, for one's own loops and for the notebook. Each is loaded when it
is first asked for: most bring torch along, and the command line's help should not wait for any.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refine_rl.api import Run, SFTRun, open_run, resume, resume_sft, score_group, sft, train
    from refine_rl.envs.play import sample
    from refine_rl.errors import UserError
    from refine_rl.evaluate.answer import answer, scored
    from refine_rl.evaluate.audit import audit
    from refine_rl.evaluate.compare import compare
    from refine_rl.evaluate.stats import mean_ci
    from refine_rl.policy.draw import Sampling
    from refine_rl.policy.load import load_policy
    from refine_rl.policy.logprobs import logprobs
    from refine_rl.policy.protocol import Purpose
    from refine_rl.policy.tokens import token_batch
    from refine_rl.rewards import check_sanity, function_reward
    from refine_rl.settings import ModelSettings, SanityCase
    from refine_rl.training.grpo.advantages import leave_one_out, mean_only, zscore
    from refine_rl.training.grpo.choice import choose_prompts
    from refine_rl.training.grpo.kl import kl_terms
    from refine_rl.training.grpo.loss import policy_loss
    from refine_rl.types import Comparison, Prompt, Score, Trajectory

__all__ = [
    "Comparison",
    "ModelSettings",
    "Prompt",
    "Purpose",
    "Run",
    "SFTRun",
    "Sampling",
    "SanityCase",
    "Score",
    "Trajectory",
    "UserError",
    "answer",
    "audit",
    "check_sanity",
    "choose_prompts",
    "compare",
    "function_reward",
    "kl_terms",
    "leave_one_out",
    "load_policy",
    "logprobs",
    "mean_ci",
    "mean_only",
    "open_run",
    "policy_loss",
    "resume",
    "resume_sft",
    "sample",
    "score_group",
    "scored",
    "sft",
    "token_batch",
    "train",
    "zscore",
]

_PIECES = {
    "api": ("Run", "SFTRun", "open_run", "resume", "resume_sft", "score_group", "sft", "train"),
    "settings": ("ModelSettings", "SanityCase"),
    "errors": ("UserError",),
    "evaluate.answer": ("answer", "scored"),
    "evaluate.audit": ("audit",),
    "evaluate.compare": ("compare",),
    "evaluate.stats": ("mean_ci",),
    "training.grpo.advantages": ("leave_one_out", "mean_only", "zscore"),
    "training.grpo.kl": ("kl_terms",),
    "training.grpo.loss": ("policy_loss",),
    "types": ("Comparison", "Prompt", "Score", "Trajectory"),
    "training.grpo.choice": ("choose_prompts",),
    "policy.draw": ("Sampling",),
    "policy.load": ("load_policy",),
    "policy.logprobs": ("logprobs",),
    "policy.protocol": ("Purpose",),
    "envs.play": ("sample",),
    "policy.tokens": ("token_batch",),
    "rewards": ("check_sanity", "function_reward"),
}
_HOME = {name: module for module, names in _PIECES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
