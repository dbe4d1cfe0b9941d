"""The beginning of a run, on record."""

from __future__ import annotations

from refine_rl.plan.teacher import teacher_bytes
from refine_rl.policy.policy import Policy
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.settings import Settings
from refine_rl.training.grpo.setup import settled_for


def begin(folder: RunFolder, settings: Settings, policy: Policy, journal: Journal) -> Settings:
    """Puts the start (or the resume) on record, with what was found where the settings say "auto": the
    number format, and how many tokens go through the model at once. Gives the settings in force. A resume
    goes on with what the start found, and says what else has changed since."""
    resumed = any(e["kind"] == "started" for e in folder.events())
    form = policy.form if policy.form != "auto" else settings.model.dtype  # a service's own affair
    journal.event("resumed" if resumed else "started", "run", policy.where)
    for change in folder.config.changes() if resumed else []:
        text = f"Since the run began, {change}: it may not go on exactly as it would have."
        journal.warning("changed", text)
    model = settings.model.model_copy(update={"dtype": form})
    beside = teacher_bytes(settings, policy.compute_dtype.itemsize)  # it is loaded after this
    found = settled_for(settings.model_copy(update={"model": model}), policy, beside=beside)
    if policy.device.type == "cuda":  # elsewhere it is a fixed number
        _tell_at_once(settings, found, folder.config.kind(), journal)
    if found != settings:
        folder.config.save(found)
    return found


def _tell_at_once(before: Settings, after: Settings, kind: str, journal: Journal) -> None:
    """How many tokens go through the model at once, where the card's memory decided."""
    for table in ("sft",) if kind == "sft" else ("grpo", "sft"):
        asked, found = getattr(before, table), getattr(after, table)
        if asked != found:
            text = f"{table}.tokens_per_micro_batch: {found.at_once:,} tokens go through the model at once"
            journal.note(f"{table}_at_once", text, once=True)
