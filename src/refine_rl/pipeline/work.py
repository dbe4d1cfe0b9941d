"""The stages of a run that need the model: evaluation, training, a look at the judges, saving."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import fsum
from pathlib import Path
from statistics import fmean

from refine_rl.envs.early_exit import serial_groups
from refine_rl.errors import MEND, GuardStop
from refine_rl.evaluate.answer import Answers, ScoreGroups, answer, answers_of, scored, unscored
from refine_rl.evaluate.stats import mean_ci
from refine_rl.evaluate.verdict import said_with
from refine_rl.pipeline.recording import FolderRecorder, missing_text, newest_whole
from refine_rl.policy.card import Trained, base_of, model_card
from refine_rl.policy.draw import Sampling
from refine_rl.policy.policy import Policy
from refine_rl.policy.sample import Purpose, sample
from refine_rl.progress import Observer, Pause, never, wait
from refine_rl.randomness import generator
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.decayed import Decayed
from refine_rl.rewards.functions.trl import TrainerState, trainer_state
from refine_rl.rewards.judges.anchors import check_anchors
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.rewards.steps.steps import Graded
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.training import checkpoint
from refine_rl.training.checkpoint import Position
from refine_rl.training.grpo.collect import Finished, Scorer, require_scores
from refine_rl.training.grpo.loop import Parts, train
from refine_rl.training.learn import make_optimizer
from refine_rl.types import (
    Comparison,
    Outcome,
    Prompt,
    Score,
    Trajectory,
    count_of,
    decimals,
    mean_of,
    same_value,
)


def rollouts(
    policy: Policy,
    prompts: Sequence[Prompt],
    step: int,
    settings: Settings,
    pause: Pause = never,
    finished: Finished = lambda place, group: None,
) -> list[tuple[Trajectory, ...]]:
    """The groups of one training step; each is told to `finished` as soon as it is whole."""
    r = settings.rollout
    if r.early_exit is not None:
        return serial_groups(policy, prompts, step, settings, r.early_exit, pause=pause, finished=finished)
    return sample(
        policy,
        prompts,
        members=r.group_size,
        sampling=Sampling(max_tokens=r.max_tokens, temperature=r.temperature, top_p=r.top_p, top_k=r.top_k),
        purpose=Purpose(seed=settings.grpo.seed, step=step, name="rollout"),
        pause=pause,
        finished=finished,
    )


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run at work: its folder, settings and model, and who scores and listens."""

    folder: RunFolder
    settings: Settings
    policy: Policy
    reward: CombinedReward
    exam: CombinedReward  # scores the final comparison
    scoring: ScoringLoop
    cost: Callable[[], float | None]  # dollars since it was last asked
    observer: Observer
    pause: Pause
    began: float = 0.0  # time.perf_counter() when the process took up the run
    warned: set[str] = field(default_factory=set)  # names of warnings that were given before
    evaluation: str = ""  # the name of a later evaluation; "" in the run's own course

    # -- evidence -----------------------------------------------------------------------------

    def look_at_judges(self, prompts: Sequence[Prompt]) -> None:
        """Bad answers on purpose, before anything is scored in earnest: raises GuardStop where the judges
        like them, or nothing is to be had of them."""
        wanted = self.reward.panel is not None and self.settings.judge.anchors
        if wanted and self.folder.outcomes("base") is None:
            with self.folder.timed("judges", 0):
                self._check_judges(prompts, 0)

    def base(self, prompts: Sequence[Prompt]) -> list[Outcome]:
        """The untrained model's answers to the held-out prompts. Where scores compare only within a group
        they are still missing: they are given beside the tuned model's, by `tuned`. Raises GuardStop where
        too many are missing: nothing is trained yet."""
        known = self.folder.outcomes("base")
        if known is not None:
            return known
        self.observer.stage(f"The base model answers {count_of(len(prompts), 'held-out prompt')}")
        answers = self.answers(prompts, self._exam_purpose)
        if self.exam.relative:
            outcomes = unscored(answers)
        else:
            score = self._scorer(self.exam, "The base model's held-out answers", "missing_in_base")
            outcomes = scored([answers], score)[0]
        self.folder.save_outcomes("base", outcomes)
        return outcomes

    def tuned(
        self, prompts: Sequence[Prompt], base: Sequence[Outcome]
    ) -> tuple[Sequence[Outcome], Sequence[Outcome]]:
        """The outcomes of base and tuned on the held-out prompts, both scored, base's answers where scores
        are relative in one group with the tuned model's. Scores that are missing now end nothing: the
        model is trained, and the comparison says what it lacks."""
        known = self.folder.outcomes("tuned")
        if known is not None:
            return base, known
        self.observer.stage(f"The tuned model answers {count_of(len(prompts), 'held-out prompt')}")
        answers = self.answers(prompts, self._exam_purpose)
        if self.exam.relative:
            base, outcomes = self.examined(answers_of(base), answers)
            self.folder.save_outcomes("base", base)
        else:
            outcomes = scored([answers], self._last_look("tuned"))[0]
        self.folder.save_outcomes("tuned", outcomes)
        return base, outcomes

    def examined(
        self, base: Sequence[Answers], tuned: Sequence[Answers]
    ) -> tuple[list[Outcome], list[Outcome]]:
        """Both sides' answers scored: in one group a prompt where scores are relative, else apart. No number
        of missing scores stops it."""
        if self.exam.relative:
            base_outcomes, tuned_outcomes = scored([base, tuned], self._last_look("comparison"))
            return base_outcomes, tuned_outcomes
        return scored([base], self._last_look("base"))[0], scored([tuned], self._last_look("tuned"))[0]

    def _last_look(self, which: str) -> ScoreGroups:
        """Scores for a comparison of what is trained already."""
        whose = {"comparison": "The held-out answers", "base": "The base model's answers"}
        where, name = whose.get(which, "The tuned model's answers"), f"missing_in_{which}"
        if self.evaluation:  # its events stand among the run's
            where, name = f"Evaluation {self.evaluation}: {where}", f"{name}_of_{self.evaluation}"
        return self._scorer(self.exam, where, name, stops=False)

    @property
    def _exam_purpose(self) -> Purpose:
        return Purpose(seed=self.settings.grpo.seed, step=0, name="held_out")

    def answers(self, prompts: Sequence[Prompt], purpose: Purpose, *, greedy: bool = True) -> list[Answers]:
        """Answers of the policy as it is now."""
        return answer(
            self.policy,
            prompts,
            samples=self.settings.evaluate.samples,
            max_tokens=self.settings.rollout.max_tokens,
            purpose=purpose,
            greedy=greedy,
            pause=self.pause,
        )

    def _scorer(
        self, reward: CombinedReward, where: str, name: str, step: int | None = None, *, stops: bool = True
    ) -> ScoreGroups:
        """Scores many groups at once. The first missing score is told as soon as it is known, as the warning
        `name`; too many of them raise GuardStop, unless it `stops` nothing."""

        def score(prompts: Sequence[Prompt], groups: Sequence[Sequence[Trajectory]]) -> list[list[Score]]:
            with trainer_state(self._state_at(self.settings.grpo.steps + 1)):
                futures = [
                    self.scoring.start(reward.score_group(p, tuple(g)))
                    for p, g in zip(prompts, groups, strict=True)
                ]
            new, scores = name not in self.warned, []
            for prompt, future in zip(prompts, futures, strict=True):
                scores.append(wait(future, self.pause))
                self._warn_of_missing(scores[-1], f"{where}, prompt {prompt.id}", name)
            every = [s for group in scores for s in group]
            if text := missing_text(every):
                if new:
                    self.folder.event("warning", name, f"{where}: {text}", step)
                self.observer.note(f"{where}: {text.partition(';')[0]}")
            if stops:
                require_scores(every, self.settings.reward.max_missing, where)
            return scores

        return score

    def _warn_of_missing(self, scores: Sequence[Score], where: str, name: str) -> None:
        missing = next((s for s in scores if s.status == "missing"), None)
        if missing is not None and name not in self.warned:
            self.warned.add(name)
            self.observer.warning(f"{where}: the first missing score, and why:\n{missing.explanation}")

    # -- training -----------------------------------------------------------------------------

    def train(self, prompts: Sequence[Prompt], validation: Sequence[Prompt]) -> Position:
        """Trains from the newest checkpoint on (from the start where there is none)."""
        if not self.folder.validation():
            with self.folder.timed("validation", 0):
                if self.settings.prompts.probe:
                    self._probe(prompts)
                if validation:
                    self._look_before(validation)
        optimizer = make_optimizer(self.policy, self.settings)
        start = Position()
        if step := newest_whole(self.folder, self.observer):
            start = checkpoint.load(self.folder.checkpoint(step), self.policy, optimizer)
        if start.step < self.settings.grpo.steps:
            self.observer.stage(f"Training, steps {start.step + 1} to {self.settings.grpo.steps}")
        self.cost()  # what is counted from here on belongs to the steps
        parts = Parts(
            policy=self.policy,
            optimizer=optimizer,
            sample=self._sample,
            score=self._score_rollouts(),
            validate=(lambda step: self._timed_validation(validation, prompts, step)) if validation else None,
            component_weights=self._component_weights(),
            top=self._top(),
            recorder=FolderRecorder(self.folder, self.policy, optimizer, self.settings, self.observer, start),
            cost=self.cost,
            pause=self.pause,
            began=self.began,
        )
        return train(prompts, parts, self.settings, start)

    def _sample(
        self, prompts: Sequence[Prompt], step: int, finished: Finished
    ) -> list[tuple[Trajectory, ...]]:
        with trainer_state(self._state_at(step)):  # the groups go to be scored while others are sampled
            return rollouts(self.policy, prompts, step, self.settings, self.pause, finished)

    def _state_at(self, step: int) -> TrainerState:
        """How far training is when `step` begins, for functions that ask."""
        g, prompts = self.settings.grpo, sum(p.split == "train" for p in self._prompts)
        passes = g.prompts_per_step / max(1, prompts)
        return TrainerState(
            global_step=(step - 1) * g.updates_per_step,
            max_steps=g.steps * g.updates_per_step,
            epoch=(step - 1) * passes,
            num_train_epochs=math.ceil(g.steps * passes),
        )

    @cached_property
    def _prompts(self) -> list[Prompt]:
        return self.folder.prompts()

    def _score_rollouts(self) -> Scorer:
        """Who scores training's groups: the reward, with the steps of wrong answers where they are graded; or
        with early exits what it makes of their order."""
        if self.reward.grader is not None and self.settings.grpo.solved is not None:
            graded = Graded(reward=self.reward, grader=self.reward.grader, solved=self.settings.grpo.solved)
            return lambda prompt, group: self.scoring.start(graded.score_group(prompt, group))
        if self.settings.rollout.early_exit is None:
            return self.scoring.submit
        decayed = Decayed(reward=self.reward)
        return lambda prompt, group: self.scoring.start(decayed.score_group(prompt, group))

    def _top(self) -> float | None:
        """The highest reward there is, for components in [0, 1]; None where no reward means "solved"."""
        if self.reward.relative:
            return None
        if self.reward.combine == "product" or self.settings.rollout.early_exit is not None:
            return 1.0
        return fsum(weight for weight in self.reward.weights.values() if weight > 0)

    def _component_weights(self) -> dict[str, float]:
        """Weights of everything that a breakdown holds, the penalty included."""
        overlong = self.settings.reward.overlong
        return {**self.reward.weights, **({} if overlong is None else {"overlong": overlong.weight})}

    def _timed_validation(self, prompts: Sequence[Prompt], training: Sequence[Prompt], step: int) -> float:
        with self.folder.timed("validation", step):
            return self._validate(prompts, training, step)

    def _validate(self, prompts: Sequence[Prompt], training: Sequence[Prompt], step: int) -> float:
        """Mean reward on the validation prompts, always with the same draws; put on record. Where scores
        compare only within a group, the untrained model's answers are judged in it too."""
        for record in self.folder.validation():
            if record["step"] == step:
                return float(record["reward"]["mean"])
        if step:
            self._check_judges(training, step)
        purpose = Purpose(seed=self.settings.grpo.seed, step=0, name="validation")
        answers = self.answers(prompts, purpose, greedy=False)
        first = self.folder.outcomes("validation") if self.reward.relative and step else None
        where = f"Validation at step {step}"
        score = self._scorer(self.reward, where, "missing_in_validation", step)
        if first is not None:
            _, outcomes = scored([answers_of(first), answers], score)
        else:
            outcomes = scored([answers], score)[0]
            if self.reward.relative:
                self.folder.save_outcomes("validation", outcomes)
        scores = [s for o in outcomes for _, s in o.sampled if s.value is not None]
        values = [[s.value for _, s in o.sampled if s.value is not None] for o in outcomes]
        rewards = [mean_of(v) for v in values if v]
        if not rewards:  # reward.max_missing allows it, but nothing can be chosen by it
            require_scores([s for o in outcomes for _, s in o.sampled], 0.0, where)
        estimate = mean_ci(rewards, resamples=1000, seed=self.settings.grpo.seed)
        names = dict.fromkeys(name for s in scores for name in s.breakdown)
        spread = sum(not same_value(v) for v in values if v) / len(values)
        self.folder.append_validation(
            {
                "step": step,
                "reward": {"mean": estimate.mean, "ci95": estimate.ci95},
                "success": fmean(self.reward.success(s) for s in scores),
                "components": {
                    n: mean_of([s.breakdown[n] for s in scores if n in s.breakdown]) for n in names
                },
                "prompts_with_spread": spread,
                "scores_missing": sum(s.status == "missing" for o in outcomes for _, s in o.sampled),
            }
        )
        return estimate.mean

    def _probe(self, prompts: Sequence[Prompt]) -> None:
        """What the untrained model makes of every training prompt; put on record for the pool."""
        if self.folder.outcomes("probe") is not None:
            return
        self.observer.stage(f"The pool is probed with {len(prompts)} training prompts")
        r, members = self.settings.rollout, self.settings.prompts.probe
        groups = sample(
            self.policy,
            prompts,
            members=members,
            sampling=Sampling(
                max_tokens=r.max_tokens, temperature=r.temperature, top_p=r.top_p, top_k=r.top_k
            ),
            purpose=Purpose(seed=self.settings.grpo.seed, step=0, name="probe"),
            pause=self.pause,
        )
        answers = [Answers(prompt=p, sampled=g, greedy=g[0]) for p, g in zip(prompts, groups, strict=True)]
        score = self._scorer(self.reward, "The pool's probe", "missing_in_probe", 0)
        outcomes = scored([answers], score)[0]
        self.folder.save_outcomes("probe", outcomes)
        values = [[s.value for _, s in o.sampled if s.value is not None] for o in outcomes]
        flat = sum(same_value(v) for v in values if v)
        self.observer.note(
            f"{flat} of {len(prompts)} training prompts get answers of equal reward and begin by resting"
        )

    def _check_judges(self, prompts: Sequence[Prompt], step: int) -> None:
        """Bad answers on purpose, beside the policy's: raises GuardStop where the judges like them, or where
        none of the scores can be had."""
        panel, judge = self.reward.panel, self.settings.judge
        if panel is None or not judge.anchors:
            return
        self.observer.stage("The judges are shown bad answers on purpose")
        seed = self.settings.grpo.seed
        order = generator(seed, "anchors", step).permutation(len(prompts))
        chosen = [prompts[i] for i in order[: judge.anchor_prompts]]
        answers = self.answers(chosen, Purpose(seed=seed, step=step, name="anchors"), greedy=False)
        cases = [(a.prompt, a.sampled) for a in answers]
        report = wait(self.scoring.start(check_anchors(panel.asking_for("anchor"), cases)), self.pause)
        judges = ", ".join(dict.fromkeys(client.model for client in panel.judges))
        text = "\n".join((f"judged by {judges}", *report.lines()))
        self.folder.event("anchors", "judges", text, step)
        if not report.had:
            what = f"Step {step}: the judges gave no score to the bad answers. The first reason:\n"
            raise GuardStop("missing", f"{what}{report.why}\n", MEND)
        if report.liked:
            raise GuardStop("judge", f"Step {step}: the judges like bad answers.\n{text}\n", report.advice)
        for line in report.lines() if step == 0 else [report.line()]:
            self.observer.note(line)

    def _look_before(self, validation: Sequence[Prompt]) -> None:
        """Step 0 of the validation record, and a word where the base model gives GRPO nothing to grip."""
        self._validate(validation, [], 0)
        first = self.folder.validation()[0]
        # Early exits make a spread of their own: the length of the thought.
        comparable = self.settings.evaluate.samples > 1 and self.settings.rollout.early_exit is None
        if comparable and first["prompts_with_spread"] < 0.1:
            share = first["prompts_with_spread"]
            few = f"only {share:.0%} of the prompts get" if share else "no prompt gets"
            text = (
                f"Before training, {few} answers of different reward (mean "
                f"{decimals(first['reward']['mean'])}). GRPO learns from differences alone: make the reward "
                "finer (partial credit), the prompts easier, or start from a model that sometimes succeeds."
            )
            self.folder.event("warning", "no_start", text, 0)
            self.observer.warning(text)

    def load_best(self, position: Position) -> None:
        """The weights that validation chose; without validation, the last."""
        step = position.best_step or position.step
        checkpoint.load(self.folder.checkpoint(step), self.policy)

    # -- the product --------------------------------------------------------------------------

    def write_model(self, comparison: Comparison, position: Position) -> None:
        """The tuned model in the run's folder, with its card."""
        step = position.best_step or position.step
        trained = Trained(step=step, taken=position.step, best=bool(position.best_step))
        card = model_card(
            self.settings,
            comparison,
            trained=trained,
            base=base_of(self.settings.model.name),
            changes=[str(change) for change in self.folder.changed_settings()],
            said=said_with(comparison),
        )

        def write(folder: Path) -> None:
            self.policy.save(folder)
            (folder / "README.md").write_text(card, encoding="utf-8")

        self.folder.write_model(write)
