"""The stages of a run that need the model: prompts that fit, evaluation, training, saving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from refine_rl.config import Settings
from refine_rl.errors import UserError
from refine_rl.evaluate.answer import answer
from refine_rl.evaluate.stats import mean_ci
from refine_rl.grpo import checkpoint
from refine_rl.grpo.checkpoint import Position
from refine_rl.grpo.rollout import require_scores
from refine_rl.grpo.train import Parts, train
from refine_rl.grpo.update import make_optimizer
from refine_rl.policy.card import model_card
from refine_rl.policy.policy import Policy
from refine_rl.policy.sample import Purpose, Sampling, sample
from refine_rl.progress import Observer, Pause, never
from refine_rl.prompts.sources import load_prompts
from refine_rl.recording import FolderRecorder
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.runs import RunFolder
from refine_rl.types import Comparison, Outcome, Prompt, Score, Split, Trajectory


def read_prompts(
    folder: RunFolder, settings: Settings, reward: CombinedReward
) -> tuple[list[Prompt], list[str]]:
    """The run's prompts: those on record, or loaded, curated and checked, with a few lines about that.

    It needs no model, so that a mistake shows at once."""
    prompts = folder.prompts()
    if prompts:
        return prompts, []
    prompts, report = load_prompts(settings)
    reward.check_data(prompts)
    _require_enough(prompts, settings)
    return prompts, report.lines()


def settle_prompts(
    folder: RunFolder,
    settings: Settings,
    policy: Policy,
    read: tuple[list[Prompt], list[str]],
    observer: Observer,
) -> dict[Split, list[Prompt]]:
    """The prompts by split, once those that are too long for the model are set aside; put on record."""
    prompts, lines = read
    if not folder.prompts():
        prompts, too_long = _fitting(prompts, settings, policy)
        _require_enough(prompts, settings)
        for line in (*lines, *too_long):
            observer.note(line)
        folder.event("curation", "prompts", "\n".join((*lines, *too_long)))
        folder.save_prompts(prompts)
    splits: dict[Split, list[Prompt]] = {"train": [], "validation": [], "held_out": []}
    for prompt in prompts:
        splits[prompt.split].append(prompt)
    return splits


def _require_enough(prompts: Sequence[Prompt], settings: Settings) -> None:
    train = sum(p.split == "train" for p in prompts)
    if train < settings.grpo.prompts_per_step:
        raise UserError(
            f"grpo.prompts_per_step = {settings.grpo.prompts_per_step}, but there are only {train} training "
            "prompts. Give more prompts, or lower it."
        )
    if not any(p.split == "held_out" for p in prompts):
        raise UserError("No held-out prompt is left, so nothing could be proved. Give more prompts.")


def begin(folder: RunFolder, settings: Settings, policy: Policy, observer: Observer) -> Settings:
    """Puts the start (or the resume) on record, with the number format that was found; the settings in
    force. A resume goes on in the format of the start, and says what else has changed since."""
    resumed = any(e["kind"] == "started" for e in folder.events())
    form = str(policy.compute_dtype).removeprefix("torch.")
    folder.event("resumed" if resumed else "started", "run", f"on {policy.device} in {form}")
    for change in folder.changes() if resumed else []:
        text = f"Since the run began, {change}: it may not go on exactly as it would have."
        folder.event("warning", "changed", text)
        observer.warning(text)
    if settings.model.dtype == form:
        return settings
    model = settings.model.model_copy(update={"dtype": form})
    settings = settings.model_copy(update={"model": model})
    folder.save_settings(settings)
    return settings


def _fitting(prompts: Sequence[Prompt], settings: Settings, policy: Policy) -> tuple[list[Prompt], list[str]]:
    """Prompts that leave room for an answer, and a line about the others."""
    room = policy.context_length - settings.rollout.max_tokens
    limit = min(settings.prompts.max_tokens, room)
    if limit < 1:
        raise UserError(
            f"rollout.max_tokens = {settings.rollout.max_tokens} leaves no room for a prompt: the model "
            f"reads {policy.context_length} tokens in all. Lower it."
        )
    kept = [p for p in prompts if len(policy.encode(p.messages)) <= limit]
    if len(kept) == len(prompts):
        return kept, []
    why = "prompts.max_tokens" if limit < room else "the model's context less rollout.max_tokens"
    return kept, [f"{len(prompts) - len(kept)} prompts set aside: longer than {limit} tokens ({why})"]


def rollouts(
    policy: Policy, prompts: Sequence[Prompt], step: int, settings: Settings, pause: Pause = never
) -> list[tuple[Trajectory, ...]]:
    """The groups of one training step."""
    r = settings.rollout
    return sample(
        policy,
        prompts,
        members=r.group_size,
        sampling=Sampling(max_tokens=r.max_tokens, temperature=r.temperature, top_p=r.top_p, top_k=r.top_k),
        purpose=Purpose(seed=settings.grpo.seed, step=step, name="rollout"),
        pause=pause,
    )


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run at work: its folder, settings and model, and who scores and listens."""

    folder: RunFolder
    settings: Settings
    policy: Policy
    reward: CombinedReward
    scoring: ScoringLoop
    observer: Observer
    pause: Pause
    began: float = 0.0  # time.perf_counter() when the process took up the run

    # -- evidence -----------------------------------------------------------------------------

    def evaluate(self, which: str, prompts: Sequence[Prompt]) -> list[Outcome]:
        """Answers to the held-out prompts, from the record where they were given before."""
        known = self.folder.outcomes(which, prompts)
        if known is not None:
            return known
        self.observer.stage(f"The {which} model answers {len(prompts)} held-out prompts")
        outcomes = self.answers(prompts, Purpose(seed=self.settings.grpo.seed, step=0, name="held_out"))
        self.folder.save_outcomes(which, outcomes)
        return outcomes

    def answers(self, prompts: Sequence[Prompt], purpose: Purpose, *, greedy: bool = True) -> list[Outcome]:
        """Scored answers of the policy as it is now."""
        return answer(
            self.policy,
            prompts,
            self.score_all,
            samples=self.settings.evaluate.samples,
            max_tokens=self.settings.rollout.max_tokens,
            purpose=purpose,
            greedy=greedy,
            pause=self.pause,
        )

    def score_all(
        self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Trajectory]]
    ) -> list[list[Score]]:
        """Scores of many groups at once; raises GuardStop where too many are missing."""
        scores = self.scoring.score(list(zip(prompts, groups, strict=True)))
        require_scores([s for g in scores for s in g], self.settings.reward.max_missing, "Evaluation")
        return scores

    # -- training -----------------------------------------------------------------------------

    def train(self, prompts: Sequence[Prompt], validation: Sequence[Prompt]) -> Position:
        """Trains from the newest checkpoint on (from the start where there is none)."""
        if validation and not self.folder.validation():
            self._look_before(validation)
        optimizer = make_optimizer(self.policy, self.settings)
        start = Position()
        if steps := self.folder.checkpoints():
            start = checkpoint.load(self.folder.checkpoint(steps[-1]), self.policy, optimizer)
        if start.step < self.settings.grpo.steps:
            self.observer.stage(f"Training, steps {start.step + 1} to {self.settings.grpo.steps}")
        parts = Parts(
            policy=self.policy,
            optimizer=optimizer,
            sample=lambda some, step: rollouts(self.policy, some, step, self.settings, self.pause),
            score=self.scoring.submit,
            validate=(lambda step: self._validate(validation, step)) if validation else None,
            component_weights=self._component_weights(),
            recorder=FolderRecorder(self.folder, self.policy, optimizer, self.settings, self.observer, start),
            pause=self.pause,
            began=self.began,
        )
        return train(prompts, parts, self.settings, start)

    def _component_weights(self) -> dict[str, float]:
        """Weights of everything that a breakdown holds, the penalty included."""
        overlong = self.settings.reward.overlong
        return {**self.reward.weights, **({} if overlong is None else {"overlong": overlong.weight})}

    def _validate(self, prompts: Sequence[Prompt], step: int) -> float:
        """Mean reward on the validation prompts, always with the same draws; put on record."""
        for record in self.folder.validation():
            if record["step"] == step:
                return float(record["reward"]["mean"])
        purpose = Purpose(seed=self.settings.grpo.seed, step=0, name="validation")
        outcomes = self.answers(prompts, purpose, greedy=False)
        scores = [s for o in outcomes for _, s in o.sampled if s.value is not None]
        values = [[s.value for _, s in o.sampled if s.value is not None] for o in outcomes]
        rewards = [fmean(v) for v in values if v]
        estimate = mean_ci(rewards, resamples=1000, seed=self.settings.grpo.seed)
        names = dict.fromkeys(name for s in scores for name in s.breakdown)
        spread = sum(len(set(v)) > 1 for v in values) / len(values)
        self.folder.append_validation(
            {
                "step": step,
                "reward": {"mean": estimate.mean, "ci95": estimate.ci95},
                "success": fmean(self.reward.success(s) for s in scores),
                "components": {n: fmean(s.breakdown[n] for s in scores if n in s.breakdown) for n in names},
                "prompts_with_spread": spread,
            }
        )
        return estimate.mean

    def _look_before(self, validation: Sequence[Prompt]) -> None:
        """Step 0 of the validation record, and a word where the base model gives GRPO nothing to grip."""
        self._validate(validation, 0)
        first = self.folder.validation()[0]
        if first["prompts_with_spread"] < 0.1:
            text = (
                f"Before training, only {first['prompts_with_spread']:.0%} of the prompts get answers of "
                f"different reward (mean {first['reward']['mean']:.3f}). GRPO learns from differences "
                "alone: make the reward finer (partial credit), the prompts easier, or start from a model "
                "that sometimes succeeds."
            )
            self.folder.event("warning", "no_start", text, 0)
            self.observer.warning(text)

    def load_best(self, position: Position) -> None:
        """The weights that validation chose; without validation, the last."""
        step = position.best_step or position.step
        checkpoint.load(self.folder.checkpoint(step), self.policy)

    # -- the product --------------------------------------------------------------------------

    def write_model(self, comparison: Comparison) -> None:
        """The tuned model in the run's folder, with its card."""

        def write(folder: Path) -> None:
            self.policy.save(folder)
            (folder / "README.md").write_text(model_card(self.settings, comparison), encoding="utf-8")

        self.folder.write_model(write)
