"""task.toml -> Settings: a file a section, what cannot be, and reading, writing and documenting it.

Every default stands in a section's file and nowhere else. An unknown key, a wrong type or an impossible
combination is refused.
"""

from refine_rl.settings.budget import BudgetSettings
from refine_rl.settings.endpoints import EndpointSettings, PriceSettings
from refine_rl.settings.engine import EnginePrices, EngineSettings
from refine_rl.settings.evaluate import EvaluateSettings
from refine_rl.settings.grpo import GRPOSettings
from refine_rl.settings.judge import JudgeSettings
from refine_rl.settings.model import ModelSettings
from refine_rl.settings.prompts import GYM, PromptSettings
from refine_rl.settings.reward import (
    CodeSettings,
    FunctionSettings,
    OverlongSettings,
    QuizSettings,
    ReasoningGymSettings,
    RewardSettings,
    RuleSettings,
    SanityCase,
    StepSettings,
    WorldSettings,
)
from refine_rl.settings.rollout import EarlyExitSettings, RolloutSettings
from refine_rl.settings.sft import SFTSettings
from refine_rl.settings.teacher import TeacherSettings
from refine_rl.settings.track import TrackSettings
from refine_rl.settings.whole import Settings
from refine_rl.settings.writer import WriterSettings

__all__ = [
    "GYM",
    "BudgetSettings",
    "CodeSettings",
    "EarlyExitSettings",
    "EndpointSettings",
    "EnginePrices",
    "EngineSettings",
    "EvaluateSettings",
    "FunctionSettings",
    "GRPOSettings",
    "JudgeSettings",
    "ModelSettings",
    "OverlongSettings",
    "PriceSettings",
    "PromptSettings",
    "QuizSettings",
    "ReasoningGymSettings",
    "RewardSettings",
    "RolloutSettings",
    "RuleSettings",
    "SFTSettings",
    "SanityCase",
    "Settings",
    "StepSettings",
    "TeacherSettings",
    "TrackSettings",
    "WorldSettings",
    "WriterSettings",
]
