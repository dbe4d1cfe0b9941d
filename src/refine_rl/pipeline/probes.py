"""What training changed outside of its task: looked at before and after, on record in between."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from refine_rl.evaluate.probes import Probed, Sampled, forgetting, probe
from refine_rl.pipeline.work import Work
from refine_rl.types import Comparison


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


def with_forgetting(work: Work, comparison: Comparison, seed: int) -> Comparison:
    """The comparison with what was forgotten, where both looks are on record."""
    base, tuned = (work.folder.probes(which) for which in ("base", "tuned"))
    if work.evaluation or base is None or tuned is None:
        return comparison
    resamples = work.settings.evaluate.bootstrap
    found = forgetting(_read(base), _read(tuned), resamples=resamples, seed=seed)
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
