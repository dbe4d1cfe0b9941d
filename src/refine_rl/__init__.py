"""Re:Fine: describe a behaviour in plain words, and train an open language model until it shows it.

The verbs do what the command line does: `train`, `resume`, `resume_seeds`, `sft`, `resume_sft`, `plan`,
`prompts`, `check`, `evaluate`, `compare_runs`, `chat`, `generate`, `export`, `score_group`, `open_run`. What
they raise on purpose is a `RefineError`. The other names are the pieces that they are made of, for one's own
loops and for the notebook. Each is loaded when it is first asked for: most bring torch along, and the command
line's help should not wait for any.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refine_rl.api import (
        Evaluation,
        PromptList,
        RewardCheck,
        Run,
        SeedsRun,
        SFTRun,
        SideBySide,
        Talk,
        chat,
        check,
        compare_runs,
        evaluate,
        export,
        generate,
        open_run,
        plan,
        prompts,
        resume,
        resume_seeds,
        resume_sft,
        score_group,
        sft,
        train,
    )
    from refine_rl.envs.base import Environment
    from refine_rl.envs.play import sample
    from refine_rl.errors import (
        DiskError,
        GuardStop,
        Interrupted,
        MachineError,
        RefineError,
        SettingsError,
        UserError,
    )
    from refine_rl.evaluate.answer import answer, scored
    from refine_rl.evaluate.audit import audit
    from refine_rl.evaluate.compare import compare
    from refine_rl.evaluate.stats import mean_ci
    from refine_rl.policy.draw import Sampling
    from refine_rl.policy.load import load_policy
    from refine_rl.policy.logprobs import logprobs
    from refine_rl.policy.protocol import Purpose
    from refine_rl.policy.tokens import token_batch
    from refine_rl.progress import Observer, Quiet
    from refine_rl.rewards import check_sanity, function_reward
    from refine_rl.settings import ModelSettings, SanityCase
    from refine_rl.training.grpo.advantages import leave_one_out, mean_only, over_mean, zscore
    from refine_rl.training.grpo.choice import choose_prompts
    from refine_rl.training.grpo.kl import kl_terms
    from refine_rl.training.grpo.loss import policy_loss
    from refine_rl.types import Comparison, Prompt, Score, Trajectory

__all__ = [
    "Comparison",
    "DiskError",
    "Environment",
    "Evaluation",
    "GuardStop",
    "Interrupted",
    "MachineError",
    "ModelSettings",
    "Observer",
    "Prompt",
    "PromptList",
    "Purpose",
    "Quiet",
    "RefineError",
    "RewardCheck",
    "Run",
    "SFTRun",
    "Sampling",
    "SanityCase",
    "Score",
    "SeedsRun",
    "SettingsError",
    "SideBySide",
    "Talk",
    "Trajectory",
    "UserError",
    "answer",
    "audit",
    "chat",
    "check",
    "check_sanity",
    "choose_prompts",
    "compare",
    "compare_runs",
    "evaluate",
    "export",
    "function_reward",
    "generate",
    "kl_terms",
    "leave_one_out",
    "load_policy",
    "logprobs",
    "mean_ci",
    "mean_only",
    "open_run",
    "over_mean",
    "plan",
    "policy_loss",
    "prompts",
    "resume",
    "resume_seeds",
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
    "api": (
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
    ),
    "settings": ("ModelSettings", "SanityCase"),
    "errors": (
        "DiskError",
        "GuardStop",
        "Interrupted",
        "MachineError",
        "RefineError",
        "SettingsError",
        "UserError",
    ),
    "evaluate.answer": ("answer", "scored"),
    "evaluate.audit": ("audit",),
    "evaluate.compare": ("compare",),
    "evaluate.stats": ("mean_ci",),
    "training.grpo.advantages": ("leave_one_out", "mean_only", "over_mean", "zscore"),
    "training.grpo.kl": ("kl_terms",),
    "training.grpo.loss": ("policy_loss",),
    "types": ("Comparison", "Prompt", "Score", "Trajectory"),
    "training.grpo.choice": ("choose_prompts",),
    "policy.draw": ("Sampling",),
    "policy.load": ("load_policy",),
    "policy.logprobs": ("logprobs",),
    "policy.protocol": ("Purpose",),
    "progress": ("Observer", "Quiet"),
    "envs.base": ("Environment",),
    "envs.play": ("sample",),
    "policy.tokens": ("token_batch",),
    "rewards": ("check_sanity", "function_reward"),
}
_HOME = {name: module for module, names in _PIECES.items() for name in names}


class _Room(ModuleType):
    """A room that has a verb's name, such as `refine_rl.plan`: called, it is the verb."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._verb(*arguments, **options)

    @property
    def _verb(self) -> Any:
        return getattr(importlib.import_module("refine_rl.api"), self.__name__.rpartition(".")[2])

    @property
    def __signature__(self) -> Any:
        import inspect

        return inspect.signature(self._verb)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return str(self._verb.__doc__)


class _Door(ModuleType):
    """This package: a room that is imported becomes its attribute, in the place of a verb of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Door


if not TYPE_CHECKING:  # a type checker would take every name for one that is there

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
