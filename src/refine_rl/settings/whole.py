"""A whole task.toml: which tables it has, a section a line, and the values that follow from several keys."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from refine_rl.settings.base import Impossible, Section
from refine_rl.settings.budget import BudgetSettings
from refine_rl.settings.endpoints import EndpointSettings
from refine_rl.settings.engine import EngineSettings
from refine_rl.settings.evaluate import EvaluateSettings
from refine_rl.settings.grpo import MASKS, GRPOSettings
from refine_rl.settings.impossible import IMPOSSIBLE
from refine_rl.settings.judge import JudgeSettings
from refine_rl.settings.model import ModelSettings
from refine_rl.settings.prompts import GYM, PromptSettings
from refine_rl.settings.reward import ReasoningGymSettings, RewardSettings
from refine_rl.settings.rollout import RolloutSettings
from refine_rl.settings.sft import SFTSettings
from refine_rl.settings.teacher import TeacherSettings
from refine_rl.settings.track import TrackSettings
from refine_rl.settings.writer import WriterSettings

_CLIP_LOW = {"gspo": 3e-4, "luspo": 3e-4, "cispo": 1.0, "dppo_tv": 0.15, "dppo_kl": 0.05}
_CLIP_HIGH = {"dapo": 0.28, "gspo": 4e-4, "luspo": 4e-4, "cispo": 4.0}


class Settings(Section):
    """The tables and keys of a task.toml, in no impossible combination. `folder` is where relative paths
    start; it is never written."""

    task: str
    """What is wanted, in plain words."""
    name: str = ""
    """Name of the run's folder; without it, the task folder's name."""
    model: ModelSettings = ModelSettings()
    """Which model is trained, and how much of it."""
    prompts: PromptSettings = PromptSettings()
    """Where prompts come from and how they are split."""
    sft: SFTSettings | None = None
    """Supervised fine-tuning: `refine sft`; `refine train` begins with it."""
    endpoints: dict[str, EndpointSettings] = {}
    """Where LLMs answer, by name."""
    writer: WriterSettings = WriterSettings()
    """The LLM that writes prompts from the task."""
    reward: RewardSettings = RewardSettings()
    """What is wanted, as judges, rules and functions."""
    judge: JudgeSettings = JudgeSettings()
    """How the judges judge."""
    rollout: RolloutSettings = RolloutSettings()
    """How the policy answers."""
    engine: EngineSettings = EngineSettings()
    """Where the model answers and learns."""
    grpo: GRPOSettings = GRPOSettings()
    """The update."""
    teacher: TeacherSettings | None = None
    """On-policy distillation: a model that says how likely it would have written each token."""
    evaluate: EvaluateSettings = EvaluateSettings()
    """Base against tuned on held-out prompts."""
    budget: BudgetSettings = BudgetSettings()
    """A hard cap."""
    track: TrackSettings = TrackSettings()
    """Experiment trackers."""
    folder: Path = Field(default=Path(), exclude=True)

    @field_validator("task")
    @classmethod
    def _says_something(cls, task: str) -> str:
        if not task.strip():
            raise ValueError("is empty; say in plain words what is wanted")
        return task

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if name in (".", "..") or not set("/\\\n").isdisjoint(name):
            raise ValueError("names a folder inside runs/; `--run DIR` takes any other folder")
        return name

    impossible: ClassVar[tuple[Impossible[Settings], ...]] = IMPOSSIBLE

    @property
    def writes_prompts(self) -> bool:
        """Whether the writer makes the prompts."""
        return self.prompts.source == "writer" or (not self.prompts.source and bool(self.writer.model))

    @property
    def reasoning_gym(self) -> ReasoningGymSettings | None:
        """How reasoning-gym scores, where it does: it need not be named where the prompts are its own."""
        if self.reward.reasoning_gym is None and self.prompts.source.startswith(GYM):
            return ReasoningGymSettings()
        return self.reward.reasoning_gym

    @property
    def scored(self) -> bool:
        """Whether anything says what is good; without it, there are answers to imitate at most."""
        return self.rewarded or (self.teacher is not None and not self.teacher.itself)

    @property
    def rewarded(self) -> bool:
        """Whether a reward is named; without one, a teacher may say what is good."""
        r = self.reward
        own = r.judges or r.rules or r.functions or r.quiz or r.code
        return bool(own or self.reasoning_gym or self.rollout.environment)

    @property
    def asks_for_tags(self) -> bool:
        """Whether prompts of reasoning-gym ask for an answer in tags."""
        return self.reasoning_gym is not None and self.reasoning_gym.answer == "tags"

    @property
    def ahead(self) -> bool:
        """Whether a step's answers are sampled while those of the step before are being judged."""
        if self.rollout.ahead == "auto":
            alone = self.teacher is not None and self.teacher.itself  # by the weights that sampled
            return not self.grpo.resample and not alone and self.reward.asks
        return self.rollout.ahead == 1

    @property
    def learning_rate(self) -> float:
        """The learning rate in force: LoRA wants about ten times that of full fine-tuning."""
        if self.grpo.learning_rate is not None:
            return self.grpo.learning_rate
        if self.model.name == "tiny":  # a small model takes, and needs, larger steps
            return 1e-3 if self.model.adapted else 3e-4
        return 1e-4 if self.model.adapted else 1e-5

    @property
    def sft_model(self) -> ModelSettings:
        """[model] as supervised fine-tuning takes it: with the adapter and the dropout of [sft]."""
        if self.sft is None:
            return self.model
        adapter = self.sft.adapter or self.model.adapter
        usual = 0.0 if adapter == "none" or self.engine.kind == "tinker" else 0.1
        dropout = usual if self.sft.dropout is None else self.sft.dropout
        return self.model.model_copy(update={"adapter": adapter, "dropout": dropout})

    def with_prompts(self, file: Path) -> Settings:
        """The same with the prompts of a file."""
        own = self.prompts.model_copy(update={"source": f"file:{file.resolve()}"})
        return self.model_copy(update={"prompts": own})

    def with_sft_steps(self, steps: int | None) -> Settings:
        """These settings with so many steps of supervised fine-tuning, in the place of steps or epochs; None:
        as they are."""
        if self.sft is None or steps is None:
            return self
        return self.model_copy(update={"sft": self.sft.model_copy(update={"steps": steps, "epochs": None})})

    @property
    def sft_learning_rate(self) -> float:
        """The learning rate of supervised fine-tuning in force."""
        if self.sft is not None and self.sft.learning_rate is not None:
            return self.sft.learning_rate
        if self.sft is not None and self.sft.optimizer == "muon":
            return 2e-2
        whole = self.sft_model.adapter == "none"
        if self.model.name == "tiny":
            return 5e-4 if whole else 2e-3
        return 2e-5 if whole else 2e-4

    @property
    def best_of(self) -> int:
        """Answers of which a rival takes the best one."""
        return self.evaluate.best_of or self.rollout.group_size

    @property
    def rival_calls(self) -> int:
        """Answers that may be scored to make one rival: those of training, unless it is said."""
        trained = self.grpo.steps * self.grpo.prompts_per_step * self.rollout.group_size
        return self.evaluate.rival_calls or trained

    @property
    def reflects(self) -> str:
        """ "ENDPOINT/MODEL" that thinks about a better system prompt: the writer, else the first judge; ""
        where the settings name neither."""
        return self.writer.model or next(iter(self.reward.judges), "")

    @property
    def clip_low(self) -> float:
        """The lower clip range in force."""
        if self.grpo.clip_low is not None:
            return self.grpo.clip_low
        return _CLIP_LOW.get(self.grpo.loss, 0.2)

    @property
    def clip_high(self) -> float:
        """The upper clip range in force."""
        if self.grpo.clip_high is not None:
            return self.grpo.clip_high
        return _CLIP_HIGH.get(self.grpo.loss, self.clip_low)

    @property
    def importance_cap(self) -> float | None:
        """The cap on importance weights in force: a sampler that is not the trainer needs one, unless the
        loss bounds the distance to it."""
        if self.grpo.importance_cap is None and self.engine.served and self.grpo.loss not in MASKS:
            return 2.0
        return self.grpo.importance_cap

    @property
    def flat(self) -> Literal["keep", "drop", "sign", "steps"]:
        """What becomes of a group whose rewards are all equal."""
        return self.grpo.flat or ("drop" if self.grpo.resample else "keep")
