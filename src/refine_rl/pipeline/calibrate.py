"""Which judge, and which rubric, agrees best with people: each judges the pairs that were voted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from refine_rl.errors import MachineError, UserError, quoted
from refine_rl.evaluate.agreement import Agreement, agreement
from refine_rl.evaluate.votes import Pair, majority, ordered, standing
from refine_rl.llm.meter import meter
from refine_rl.pipeline.review import pairs_in
from refine_rl.plan.calls import Calls, calls_for_groups
from refine_rl.plan.counts import count_prompts
from refine_rl.progress import Observer, Pause, count, never
from refine_rl.report.page import render
from refine_rl.rewards.build import build_panel
from refine_rl.rewards.judges.rubric import read_rubric, rubric_named
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.run import RunFolder
from refine_rl.run.endpoints import connect
from refine_rl.settings import Settings
from refine_rl.settings.file import override
from refine_rl.types import Score

OWN = "the run's rubric"
LEAST = 5
"""Votes with which a calibration begins to mean anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A judge ("ENDPOINT/MODEL") and what it judges by: the name of a rubric, and its text."""

    judge: str
    rubric: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How far a candidate agrees with people. `failed` pairs got no verdict from it; `cost_usd` is None where
    a price is unknown."""

    judge: str
    rubric: str
    agreement: Agreement
    failed: int
    calls: int
    cost_usd: float | None


def candidates(settings: Settings, judges: Sequence[str], rubrics: Sequence[Path]) -> list[Candidate]:
    """The run's judges, the one of its comparison and further ones, each with the run's rubric and with every
    other. Raises UserError where nobody is named, or a rubric cannot be read."""
    own = [*settings.reward.judges, *([settings.evaluate.judge] if settings.evaluate.judge else []), *judges]
    if not own:
        raise UserError(
            "the run has no judge, so there is none to calibrate: name one with --judge ENDPOINT/MODEL."
        )
    texts = {OWN: rubric_named(settings.reward.rubric, settings.folder)}
    texts |= {str(path): read_rubric(path) for path in rubrics}
    return [
        Candidate(judge=judge, rubric=name, text=text)
        for judge in dict.fromkeys(own)
        for name, text in texts.items()
    ]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The pairs that people have voted on, and who is to judge them."""

    folder: RunFolder
    settings: Settings
    candidates: Sequence[Candidate]
    pairs: Sequence[Pair]
    votes: Mapping[str, str]

    def calls(self) -> list[Calls]:
        """What the candidates will be asked."""
        counts = count_prompts([pair.prompt for pair in self.pairs])
        return [
            call
            for one in self.candidates
            for call in calls_for_groups(
                _with(self.settings, one), counts, groups=len(self.pairs), answers=2, stage="calibration"
            )
        ]

    def on_record(self) -> Agreement:
        """How far the rewards on record agree with people."""
        both = [(self.votes[p.prompt.id], p.judged) for p in self.pairs]
        return agreement([(vote, said) for vote, said in both if said is not None], self.settings.grpo.seed)

    def judged(self, observer: Observer, pause: Pause = never) -> list[Calibration]:
        """Asks every candidate about every pair, under the run's cap, and puts down what came of it; the best
        comes first. Raises MachineError where one gives no verdict at all."""
        found = []
        with self.folder.writing():
            self.folder.repair()
            for number, one in enumerate(self.candidates):
                observer.stage(f"{one.judge} judges {len(self.pairs)} pairs by {one.rubric}")
                found.append(self._judged_by(one, observer, pause))
                count(observer, "judges", number + 1, len(self.candidates))
            self.folder.calibrations.append(*map(_record, found))
            if self.folder.report.is_file():
                self.folder.save_report(render(self.folder))
        return sorted(found, key=lambda one: -(one.agreement.kappa or 0.0))

    def _judged_by(self, one: Candidate, observer: Observer, pause: Pause) -> Calibration:
        settings = _with(self.settings, one)
        connections = connect(settings, self.folder, observer.warning)
        panel = build_panel(settings, connections, one.text).asking_for("calibration")
        with meter() as counted, ScoringLoop(closing=connections.close) as loop:
            groups = [(pair.prompt, (pair.base[0], pair.tuned[0])) for pair in self.pairs]
            scores = loop.score(panel, groups, pause)
        verdicts = [_verdict(score) for score in scores]
        if all(verdict is None for verdict in verdicts):
            raise MachineError(f"{one.judge} gave no verdict that could be used: {scores[0][0].explanation}")
        both = [
            (self.votes[pair.prompt.id], said)
            for pair, said in zip(self.pairs, verdicts, strict=True)
            if said is not None
        ]
        return Calibration(
            judge=one.judge,
            rubric=one.rubric,
            agreement=agreement(both, settings.grpo.seed),
            failed=sum(verdict is None for verdict in verdicts),
            calls=counted.calls,
            cost_usd=counted.cost_usd,
        )


def bench_of(
    folder: RunFolder, judges: Sequence[str], rubrics: Sequence[Path], overrides: Sequence[str] = ()
) -> Bench:
    """Everything that is needed before anybody is asked. Raises UserError where too few pairs were voted
    on, or a candidate cannot be had."""
    settings = override(folder.settings(), overrides)
    pairs = pairs_in(folder)
    votes = majority(standing(folder.votes(), pairs))
    voted = [pair for pair in pairs if pair.prompt.id in votes]
    if len(voted) < LEAST:
        raise UserError(
            f"{len(voted)} pairs were voted on, and from fewer than {LEAST} nothing can be said: vote first, "
            f"with refine review {quoted(folder.path)}"
        )
    found = candidates(settings, judges, rubrics)
    connections = connect(settings, None, lambda text: None)
    for one in found:
        connections.client(one.judge)  # an address, a key, a price under a cap
    return Bench(folder=folder, settings=settings, candidates=found, pairs=voted, votes=votes)


def _with(settings: Settings, one: Candidate) -> Settings:
    """The settings in which the candidate alone judges, each pair once."""
    reward = settings.reward.model_copy(update={"judges": [one.judge], "quiz": None})
    judge = settings.judge.model_copy(
        update={"larger": "", "adaptive": False, "repeats": 1, "gate": [], "anchors": False}
    )
    return settings.model_copy(update={"reward": reward, "judge": judge})


def _verdict(scores: Sequence[Score]) -> str | None:
    base, tuned = (score.value for score in scores)
    return None if base is None or tuned is None else ordered(base, tuned)


def _record(one: Calibration) -> dict[str, object]:
    a = one.agreement
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "judge": one.judge,
        "rubric": one.rubric,
        "pairs": a.pairs,
        "alike": a.alike,
        "kappa": a.kappa,
        "ci95": list(a.ci95),
        "failed": one.failed,
        "calls": one.calls,
        "cost_usd": one.cost_usd,
    }
