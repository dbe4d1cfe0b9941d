"""What training changed outside of its task: looked at before and after, on record in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from refine_rl.evaluate.probes import Probed, Sampled, forgetting, probe
from refine_rl.pipeline.work import Work
from refine_rl.policy.protocol import Speaker
from refine_rl.types import Comparison

Looks = Mapping[str, Probed]
"""What "base" and "tuned" do outside of the task."""


def probes_wanted(work: Work, which: str) -> bool:
    """Whether a look is wanted that is not on record."""
    return work.settings.evaluate.probes and not work.evaluation and work.folder.probes(which) is None


def note_probes(work: Work, which: str) -> None:
    """Puts on record what the policy, as it is now, does outside of its task: as `which` ("base", "tuned").
    Nothing where that is not wanted, or is on record."""
    if not probes_wanted(work, which):
        return
    base = None
    if which == "tuned":
        known = work.folder.probes("base")
        if known is None:  # the settings ask for it since training began: too late
            return
        base = _read(known)
    work.journal.stage("A look at what is not its task")
    found = probe(work.speaker, seed=work.settings.grpo.seed, base=base, pause=work.pause)
    work.folder.save_probes(which, asdict(found))


def probed_before(work: Work, base: Speaker) -> Probed | None:
    """What the base model does, for another evaluation: as the run has it on record, else looked at now; None
    where no look is wanted."""
    if not work.settings.evaluate.probes:
        return None
    known = work.folder.probes("base")
    if known is not None:
        return _read(known)
    work.journal.stage("A look at what is not its task: the base model")
    return probe(base, seed=work.settings.grpo.seed, pause=work.pause)


def looked_again(work: Work, before: Probed | None) -> Looks:
    """What base and the tuned model, as it is now, do; where a look is wanted."""
    if before is None:
        return {}
    work.journal.stage("A look at what is not its task")
    found = probe(work.speaker, seed=work.settings.grpo.seed, base=before, pause=work.pause)
    return {"base": before, "tuned": found}


def with_forgetting(work: Work, comparison: Comparison, seed: int, looks: Looks | None = None) -> Comparison:
    """The comparison with what was forgotten, where there are both `looks`; without any named, those of the
    run on record."""
    if looks is None:
        records = {which: work.folder.probes(which) for which in ("base", "tuned")}
        looks = {which: _read(record) for which, record in records.items() if record is not None}
    if len(looks) < 2:
        return comparison
    resamples = work.settings.evaluate.bootstrap
    found = forgetting(looks["base"], looks["tuned"], resamples=resamples, seed=seed)
    return replace(comparison, forgetting=found)


def _read(record: dict[str, Any]) -> Probed:
    return Probed(
        losses=tuple(None if loss is None else (loss[0], loss[1]) for loss in record["losses"]),
        greedy=tuple((text, tokens, ended) for text, tokens, ended in record["greedy"]),
        sampled=tuple(
            Sampled(asked=tuple(one["asked"]), tokens=tuple(one["tokens"]), logprobs=tuple(one["logprobs"]))
            for one in record["sampled"]
        ),
        moved=tuple(record["moved"]),
    )
