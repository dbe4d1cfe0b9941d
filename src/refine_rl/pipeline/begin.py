"""The beginning of a run, on record."""

from __future__ import annotations

from refine_rl.policy.policy import Policy
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.settings import Settings


def begin(folder: RunFolder, settings: Settings, policy: Policy, journal: Journal) -> Settings:
    """Puts the start (or the resume) on record, with the number format that was found; the settings in
    force. A resume goes on in the format of the start, and says what else has changed since."""
    resumed = any(e["kind"] == "started" for e in folder.events())
    form = policy.form
    journal.event("resumed" if resumed else "started", "run", policy.where)
    for change in folder.config.changes() if resumed else []:
        text = f"Since the run began, {change}: it may not go on exactly as it would have."
        journal.warning("changed", text)
    if settings.model.dtype == form:
        return settings
    model = settings.model.model_copy(update={"dtype": form})
    settings = settings.model_copy(update={"model": model})
    folder.config.save(settings)
    return settings
