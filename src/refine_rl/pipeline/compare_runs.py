"""Two tuned models beside one another: the same held-out prompts, the same random draws, one reward."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refine_rl.engines.local import LocalEngine
from refine_rl.envs.stage import stage_of
from refine_rl.errors import UserError, quoted
from refine_rl.evaluate.answer import Answers, ScoreGroups, answer, answers_of, scored
from refine_rl.evaluate.compare import compare
from refine_rl.evaluate.versus import Model, Versus
from refine_rl.llm.client import Client
from refine_rl.llm.scripted import Scripted
from refine_rl.pipeline.first_looks import FirstLooks
from refine_rl.pipeline.given import NOTHING, Given, require_given
from refine_rl.pipeline.model import hold_positions
from refine_rl.pipeline.players import Player, player_of, reward_differs
from refine_rl.pipeline.work import training_at
from refine_rl.policy.control import readable
from refine_rl.policy.protocol import Purpose
from refine_rl.progress import Observer, Pause, Quiet, never
from refine_rl.prompts import load_all_prompts
from refine_rl.prompts.sources import unseen
from refine_rl.report.page import render
from refine_rl.report.versus import render_versus
from refine_rl.rewards.build import build_scorers, isolation_of
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.nearness import NEARNESS
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.run import RunFolder
from refine_rl.run.config import reward_files
from refine_rl.run.endpoints import check_models, connect, spending
from refine_rl.run.journal import Journal
from refine_rl.settings import Settings
from refine_rl.settings.file import override
from refine_rl.training.grpo.setup import world_at
from refine_rl.training.missing import missing_text
from refine_rl.types import Outcome, Prompt, Score, Trajectory, count_of

_SIDES = ("a", "b")


@dataclass(frozen=True, kw_only=True)
class Match:
    """Two models to be compared by the reward of A's run, and what is on record: nothing was asked, loaded
    or written yet. `recorded` holds, by side, answers that need not be made; those whose side is in `scored`
    need no score either."""

    a: Player
    b: Player
    home: RunFolder  # A's run, whose reward, prompts, ledger and budget it is
    settings: Settings
    seed: int
    source: str
    judge: str
    prompts: Sequence[Prompt]
    left_out: Sequence[str]
    differs: Sequence[str]
    notes: Sequence[str]
    recorded: Mapping[str, Sequence[Outcome]]
    scored: frozenset[str]
    relative: bool
    given: Given

    @property
    def players(self) -> dict[str, Player]:
        return {"a": self.a, "b": self.b}

    @property
    def to_answer(self) -> list[str]:
        """The sides that answer anew."""
        return [side for side in _SIDES if side not in self.recorded]

    @property
    def to_score(self) -> list[str]:
        """The sides that are scored anew."""
        return [side for side in _SIDES if side not in self.scored]

    @property
    def groups(self) -> tuple[int, int]:
        """How many groups are scored, and the answers of each: where scores are relative, both sides' answers
        to a prompt are one."""
        answers = self.settings.evaluate.samples + 1
        if not self.to_score:
            return 0, answers
        return (
            (len(self.prompts), 2 * answers)
            if self.relative
            else (len(self.prompts) * len(self.to_score), answers)
        )

    def told(self) -> str:
        """What will be done, in a sentence."""
        names = {side: player.name for side, player in self.players.items()}
        if not self.to_answer and not self.to_score:
            return (
                "Both runs have answers to the same prompts with the same draws on record, and the same "
                "reward scored them: nothing is made anew (--again answers anew, with other draws)."
            )
        parts = []
        if self.recorded:
            parts.append(f"The answers of {' and '.join(names[s] for s in self.recorded)} are on record")
        if self.to_answer:
            verb = "answer" if len(self.to_answer) > 1 else "answers"
            who = " and ".join(names[s] for s in self.to_answer)
            parts.append(f"{who} {verb} {count_of(len(self.prompts), 'prompt')}")
        if self.to_score:
            how = ", both sides' in one group a prompt" if self.relative else ""
            word = "scores" if parts else "Scores"
            parts.append(f"{word} are given to {' and '.join(names[s] for s in self.to_score)}{how}")
        return f"{'; '.join(parts)}."

    def play(
        self, *, name: str | None = None, observer: Observer | None = None, pause: Pause = never
    ) -> tuple[Versus, Path, Path]:
        """The comparison, its record and its page, in A's run. Raises UserError, MachineError or GuardStop as
        an evaluation does."""
        home = self.home
        journal = Journal(home, observer or Quiet())
        with home.writing():
            home.repair()
            chosen = home.free_versus(name or self.b.name)
            if self.to_answer or self.to_score:
                outcomes, cost = self._made(journal, pause)
            else:
                outcomes, cost = dict(self.recorded), None
            versus = self._set_beside(outcomes, cost)
            record = {"verdict": versus.standing, **dataclasses.asdict(versus)}
            files = home.save_versus(chosen, record, render_versus(versus))
            if home.report.is_file():
                home.save_report(render(home))  # which lists it
            return versus, *files

    # -- what has to be made --------------------------------------------------------------------

    def _made(self, journal: Journal, pause: Pause) -> tuple[dict[str, Sequence[Outcome]], float | None]:
        """Every side's outcomes, and the dollars that they cost (None where that is not known)."""
        settings, home = self.settings, self.home
        connections = connect(settings, home, journal.observer.warning)
        check_models(settings, connections)
        exam = build_scorers(settings, self.given.rewards, connections, shelf=home.quiz).exam
        if NEARNESS in exam.component_names:
            raise UserError(
                f"The reward of {self.a.name} is nearness to its teacher, which is measured on its own model "
                f"alone. Look at that again: refine eval {quoted(self.home.path)}"
            )
        if told := isolation_of(exam):
            journal.observer.warning(told)
        exam.check_data(self.prompts)
        if self.to_score and exam.panel is not None:
            FirstLooks(
                folder=home,
                task=settings.task,
                panels={"evaluate.judge" if settings.evaluate.judge else "reward.judges": exam.panel},
                quiz=None,
                connections=connections,
                journal=journal,
                pause=pause,
            ).at_judges(home.prompts())
        cost = spending(settings, connections.ledger)
        with ScoringLoop(closing=connections.close) as scoring:
            answers = {side: answers_of(found) for side, found in self.recorded.items()}
            answers |= {side: self._answers(side, journal, pause) for side in self.to_answer}
            kept = set.intersection(*({a.prompt.id for a in some} for some in answers.values()))
            if not kept:
                raise UserError("No prompt is left that both models can read.")
            sides = {side: [a for a in answers[side] if a.prompt.id in kept] for side in _SIDES}
            score = self._scorer(exam, scoring, journal, pause)
            return self._scores(sides, score, journal), cost()

    def _answers(self, side: str, journal: Journal, pause: Pause) -> list[Answers]:
        """What a side answers to those of the prompts that it can read; its model is loaded for that
        alone."""
        player, rollout = self.players[side], self.settings.rollout
        journal.stage(f"Loading {player.name}")
        policy = player.load(self.settings)
        stage = stage_of(rollout, self.settings.folder)
        if stage is not None:
            world_at(self.settings, policy, 1, stage).fits()
        read, lines = readable(self.prompts, policy.encode, policy.control)
        room = policy.prompt_room(rollout.max_tokens)
        fitting = [p for p in read if len(policy.encode(p.messages)) <= room]
        if len(fitting) < len(read):
            lines = [*lines, f"{len(read) - len(fitting)} prompts are longer than the {room} tokens it reads"]
        for line in lines:
            journal.observer.note(f"{player.name}: {line}")
        known = player.folder.prompts() if player.folder is not None else []
        hold_positions(rollout, LocalEngine(policy), [*known, *fitting], journal.observer)
        journal.stage(f"{player.name} answers {count_of(len(fitting), 'prompt')}")
        return answer(
            policy,
            fitting,
            samples=self.settings.evaluate.samples,
            max_tokens=rollout.max_tokens,
            purpose=Purpose(seed=self.seed, step=0, name="held_out"),
            stage=stage,
            pause=pause,
        )

    def _scores(
        self, sides: Mapping[str, Sequence[Answers]], score: ScoreGroups, journal: Journal
    ) -> dict[str, Sequence[Outcome]]:
        """The outcomes of both sides; where scores are relative, of one group a prompt, in which a judge does
        not learn which answer is whose."""
        if self.to_score:
            journal.stage("The answers are scored")
        if self.relative:
            return dict(zip(_SIDES, scored([sides[side] for side in _SIDES], score), strict=True))
        kept = {a.prompt.id for a in sides["a"]}
        return {
            side: [o for o in self.recorded[side] if o.prompt.id in kept]
            if side in self.scored
            else scored([sides[side]], score)[0]
            for side in _SIDES
        }

    def _scorer(
        self, exam: CombinedReward, scoring: ScoringLoop, journal: Journal, pause: Pause
    ) -> ScoreGroups:
        """Scores as the run's own comparison does, at the end of training; says what is missing."""

        def score(prompts: Sequence[Prompt], groups: Sequence[Sequence[Trajectory]]) -> list[list[Score]]:
            grpo = self.settings.grpo
            with training_at(grpo.steps + 1, grpo, self.home.prompts()):
                found = scoring.score(exam, list(zip(prompts, groups, strict=True)), pause)
            if text := missing_text([s for group in found for s in group]):
                where = f"{self.a.name} beside {self.b.name}"
                journal.warning(f"missing_beside_{self.b.name}", f"{where}: {text}")
            return found

        return score

    def _set_beside(self, outcomes: Mapping[str, Sequence[Outcome]], cost: float | None) -> Versus:
        success = build_scorers(self.settings, self.given.rewards, _Nobody()).exam.success
        return Versus(
            a=self._model("a"),
            b=self._model("b"),
            comparison=compare(
                outcomes["a"],
                outcomes["b"],
                success=success,
                resamples=self.settings.evaluate.bootstrap,
                seed=self.seed,
            ),
            seed=self.seed,
            source=self.source,
            judge=self.judge,
            left_out=tuple(self.left_out),
            differs=tuple(self.differs),
            notes=tuple(self.notes),
            cost_usd=cost,
        )

    def _model(self, side: str) -> Model:
        player = self.players[side]
        return Model(
            name=player.name,
            run="" if player.folder is None else str(player.folder.path),
            base=player.model,
            step=0 if player.weights is None else player.weights.trained.step,
            answers="on record" if side in self.recorded else "anew",
            scores="on record" if side in self.scored else "anew",
        )


def lay_out(
    a: str | Path,
    b: str | Path,
    *,
    source: str | None = None,
    samples: int | None = None,
    judge: str | None = None,
    seed: int | None = None,
    again: bool = False,
    overrides: Sequence[str] = (),
    given: Given = NOTHING,
) -> Match:
    """The tuned model of run A beside that of run B (or beside any model, by its folder or its name on the
    hub), by the reward of A: on A's held-out prompts, or on those of another `source`, without what one of
    the two was trained on. The draws are those of A's own comparison (or of `seed`), so that answers that
    stand on record serve; `again` takes none from there, and the draws of the next seed.

    `given` is the code from Python that A's run was started with.

    Raises UserError where they cannot be compared so, before anything is loaded or asked.
    """
    one, other = _two(a, b)
    home = one.folder
    if home is None or home.config.kind() == "sft":
        raise UserError(
            f"{a} has no reward to compare by: name a run of `refine train` first, whose reward and held-out "
            "prompts are taken."
        )
    require_given(home, given, verb="compare_runs")
    settings = _settings(home.settings(), overrides, samples, judge)
    other.require(settings)
    own_seed = settings.grpo.seed
    seed = (own_seed + 1 if again else own_seed) if seed is None else seed
    scorers = build_scorers(settings, given.rewards, _Nobody())
    prompts, left_out, notes = _prompts(settings, source, home, (one, other))
    notes += _formats(one, other)
    differs = reward_differs(home, other.folder) if other.folder is not None else []
    players = dict(zip(_SIDES, (one, other), strict=True))
    recorded: dict[str, list[Outcome]] = {}
    if not again:
        found = {side: p.on_record(prompts, settings, seed) for side, p in players.items()}
        recorded = {side: outcomes for side, outcomes in found.items() if outcomes is not None}
    alike = judge is None and not scorers.exam.relative and not home.config.python_rewards()
    held = {"a": alike, "b": alike and not differs and _of_one_version(one, other)}
    if reward_files(settings) != home.config.source().get("reward_files", {}) and not (
        all(held.values()) and len(recorded) == 2
    ):
        held = dict.fromkeys(held, False)
        notes.append(f"Files of the reward have changed since {one.name} was scored: both are scored anew.")
    return Match(
        a=one,
        b=other,
        home=home,
        settings=settings,
        seed=seed,
        source=source or "",
        judge=judge or "",
        prompts=prompts,
        left_out=left_out,
        differs=differs,
        notes=notes,
        recorded=recorded,
        scored=frozenset(side for side in recorded if held[side]),
        relative=scorers.exam.relative,
        given=given,
    )


def _two(a: str | Path, b: str | Path) -> tuple[Player, Player]:
    """Both sides, by names that differ."""
    one, other = player_of(a), player_of(b)
    folders = [p.folder.path.resolve() for p in (one, other) if p.folder is not None]
    if len(folders) == 2 and folders[0] == folders[1]:
        raise UserError(
            f"{a} and {b} are the same run: name two. To set its base beside it: refine eval {quoted(a)}"
        )
    if one.name == other.name:
        names = [
            f"{p.folder.path.resolve().parent.name}/{p.name}" if p.folder else p.model for p in (one, other)
        ]
        if names[0] == names[1]:
            names = [f"{names[0]} (A)", f"{names[1]} (B)"]
        one, other = (dataclasses.replace(p, name=n) for p, n in zip((one, other), names, strict=True))
    return one, other


def _settings(own: Settings, overrides: Sequence[str], samples: int | None, judge: str | None) -> Settings:
    """A's settings, with what is another in this comparison; raises UserError for what cannot be."""
    now = override(own, list(overrides))
    if own.model_copy(update={"budget": now.budget, "endpoints": now.endpoints}) != now:
        raise UserError(
            "--set: a comparison takes other settings of `budget` and `endpoints` alone; the rest is as the "
            "first run had it."
        )
    if judge is not None and not own.reward.judges:
        raise UserError(f"--judge {judge}: the first run's reward has no judge that it could stand for.")
    evaluation: dict[str, Any] = {"metrics": [], "name": ""}  # none is measured here
    evaluation |= {} if samples is None else {"samples": samples}
    evaluation |= {} if judge is None else {"judge": judge}
    if judge is None and not own.reward.judges:
        evaluation["judge"] = ""  # it decided a metric
    return now.model_copy(update={"evaluate": now.evaluate.model_copy(update=evaluation)})


def _prompts(
    settings: Settings, source: str | None, home: RunFolder, players: Sequence[Player]
) -> tuple[list[Prompt], list[str], list[str]]:
    """The prompts that neither was trained on, the ids of those that were left out for it, and notes."""
    seen: list[Prompt] = []
    notes: list[str] = []
    for player in players:
        more, unknown = player.seen()
        seen += more
        notes += unknown
    if source is None:
        every = [p for p in home.prompts() if p.split == "held_out"]
    else:
        every, _ = load_all_prompts(settings, source, apart_from=())
    kept = unseen(settings, every, seen)
    if not kept:
        raise UserError(
            f"All {len(every)} prompts equal or resemble what one of the two was trained on, so they would "
            "show nothing: name others with --prompts FILE."
        )
    there = {p.id for p in kept}
    return kept, [p.id for p in every if p.id not in there], notes


def _formats(one: Player, other: Player) -> list[str]:
    """A note where the runs of the two compute in different number formats."""
    runs = [(p.name, p.folder.settings().model.dtype) for p in (one, other) if p.folder is not None]
    if len({form for _, form in runs}) < 2:
        return []
    said = ", ".join(f"{name} in {form}" for name, form in runs)
    return [
        f"The number formats differ: {said}. Each was trained and answers in its own, and a small difference "
        "between the two may be that of rounding. `--set model.dtype=float32` trains in one that all "
        "machines have."
    ]


def _of_one_version(one: Player, other: Player) -> bool:
    """Whether both were scored by the same version of this program."""
    versions = [p.folder.config.versions().get("refine-rl") for p in (one, other) if p.folder is not None]
    return len(set(versions)) == 1


class _Nobody:
    """Connections over which nothing is asked: a reward's names and limits are known without a key."""

    def client(self, model: str) -> Client:
        return Scripted((), model=model)

    async def close(self) -> None:
        """There is nothing to close."""
