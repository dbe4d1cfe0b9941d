"""What a run takes from the hub, held at one commit: the run's settings name it in the place of a branch or
tag, which may move, and whatever is loaded of the run afterwards is that."""

from __future__ import annotations

from collections.abc import Callable

from refine_rl.errors import MachineError, SettingsError, UserError
from refine_rl.policy.hub import commit_of
from refine_rl.prompts.rows import held
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.settings import Settings
from refine_rl.settings.models import with_models
from refine_rl.settings.revision import may_be_on_hub, name_and_revision, shown

_ROWS = ("prompts.source", "sft.data")
_MINILM = "minilm"

Change = Callable[[str, str], str]
"""(key, what is written there) -> what shall be."""


def hold_commits(folder: RunFolder, journal: Journal) -> Settings:
    """The settings of a run with commits; put on record as it begins, with what was asked for. Afterwards
    it is said what has moved on the hub. Raises SettingsError for a revision that there is not."""
    settings = folder.settings()
    if folder.config.asked_of_hub():
        tell_moved(folder, journal)
        return settings
    if folder.scored("base") or folder.recorded_to():
        return settings  # of before there was this: what its files hold is compared
    asked: dict[str, str] = {}

    def hold(key: str, written: str) -> str:
        found = held(written, key) if key in _ROWS else at_commit(written, key)
        if found != written:
            asked[key] = written
        return found

    after = _changed(settings, hold)
    if after != settings:
        folder.config.save(after)
        folder.config.note(hub=asked)
    return after


def hold_as(first: RunFolder, run: RunFolder) -> None:
    """Holds a run at the commits of the first of several that differ in their seeds alone."""
    asked = first.config.asked_of_hub()
    if not asked or run.config.asked_of_hub():
        return
    names = _names(first.settings())
    run.config.save(_changed(run.settings(), lambda key, written: names.get(key, written)))
    run.config.note(hub=asked)


def tell_moved(folder: RunFolder, journal: Journal) -> None:
    """Says what of a run is another commit on the hub by now; nothing where that cannot be told."""
    asked, names = folder.config.asked_of_hub(), _names(folder.settings())
    for key, written in asked.items():
        own = names.get(key, "")
        now = written
        try:
            now = held(written, key) if key in _ROWS else at_commit(written, key)
        except SettingsError:  # the branch or tag is gone
            journal.observer.note(f"{key}: {written} is not on the hub any more; the run goes on with {own}")
            continue
        except (UserError, MachineError):  # a data set of which nothing can be read now: the run has its rows
            continue
        if now not in (own, written):
            journal.observer.note(
                f"{key}: {written} has moved on the hub since the run began, to {shown(now)}; the run goes "
                f"on with {own}"
            )


def at_commit(written: str, key: str) -> str:
    """A model's name with the commit that it is on the hub now; as it is where it is none of the hub, or that
    cannot be told."""
    if not may_be_on_hub(written):
        return written
    name, revision = name_and_revision(written)
    commit = commit_of(name, revision, key=key)
    return written if commit is None else f"{name}@{commit}"


def _names(settings: Settings) -> dict[str, str]:
    found: dict[str, str] = {}

    def look(key: str, written: str) -> str:
        found[key] = written
        return written

    _changed(settings, look)
    return found


def _changed(settings: Settings, change: Change) -> Settings:
    """The settings, each name in them that may be the hub's as `change` gives it."""

    def of_hub(key: str, name: str) -> str:
        if key == "model.name":
            loaded = not settings.model.start
        elif key == "evaluate.encoder":
            loaded = name != _MINILM and "bertscore" in settings.evaluate.metrics
        else:
            loaded = key == "teacher.model" or name != _MINILM
        return change(key, name) if loaded else name

    source = change("prompts.source", settings.prompts.source)
    tables: dict[str, object] = {"prompts": settings.prompts.model_copy(update={"source": source})}
    if settings.sft is not None:
        data = change("sft.data", settings.sft.data)
        tables["sft"] = settings.sft.model_copy(update={"data": data})
    return with_models(settings, of_hub).model_copy(update=tables)
