"""What one can do with a run now, as commands that work as they stand where the page was made."""

from __future__ import annotations

from dataclasses import dataclass

from refine_rl.errors import quoted
from refine_rl.run import RunFolder
from refine_rl.run.state import end_of
from refine_rl.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command, and what it is for."""

    text: str
    what: str


def over(run: RunFolder) -> bool:
    """Whether a run is at its end, as its newest event says; the weights are not looked at, which may be
    large."""
    return end_of(run.events()) == "finished"


def next_steps(run: RunFolder, settings: Settings) -> list[Command]:
    """What to do next with a run, the nearest thing first."""
    path = quoted(run.path)
    sft = run.config.kind() == "sft"
    found: list[Command] = []
    model = run.model.is_dir()
    if not over(run):
        found.append(Command(text=run.resume, what="Go on exactly where it stopped."))
    if not model and not run.checkpoints():
        return found
    weights = "" if model else " --checkpoint last"
    which = "tuned model" if model else "model of the last checkpoint"
    beside = "" if sft else " --base"
    answers = "" if sft else ", the untrained one’s answers beside its own"
    found.append(Command(text=f"refine chat {path}{weights}{beside}", what=f"Talk to the {which}{answers}."))
    if settings.rollout.several_turns and not sft:
        found.append(
            Command(text=f"refine play {path}", what="Play in its world yourself, and watch the model play.")
        )
    if not sft:
        found.append(
            Command(
                text=f"refine eval {path}{weights}", what="Compare base and tuned again, with fresh draws."
            )
        )
    out = quoted(run.path.with_name(f"{run.name}-model"))
    found.append(
        Command(
            text=f"refine export {path} --out {out} --merged{weights}",
            what="Write one ordinary model that transformers, vLLM and others load.",
        )
    )
    return found
