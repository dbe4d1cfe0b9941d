"""What one can do with a run now, as commands that work as they stand where the page was made."""

from __future__ import annotations

from dataclasses import dataclass

from refine_rl.errors import quoted
from refine_rl.evaluate.verdict import FEW_PROMPTS
from refine_rl.run import RunFolder
from refine_rl.run.state import end_of
from refine_rl.settings import Settings
from refine_rl.types import Comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command, and what it is for."""

    text: str
    what: str


def after_verdict(run: RunFolder, settings: Settings, comparison: Comparison) -> list[Command]:
    """What to try where a comparison did not show that the tuned model is better, or rests on few prompts.
    FILE stands for what a person has. Nothing for a run with
    code that was given from Python: no command finds that."""
    path, c = quoted(run.path), comparison
    if _from_python(run, settings):
        return []
    if c.verdict == "not possible":
        return [Command(text=f"refine eval {path}", what="Once it is mended, compare again:")]
    found = []
    if c.prompts < FEW_PROMPTS:
        more = Command(text=f"refine eval {path} --prompts FILE", what="Compare on more prompts, of a file:")
        found.append(more)
    anew = quoted(run.config.path)
    rate, size = settings.learning_rate / 2, 2 * settings.rollout.group_size
    match c.verdict:
        case "no signal":
            found += [
                Command(text=f"refine check {anew}", what="See whether the reward tells answers apart:"),
                Command(
                    text=f"refine train {anew} --set rollout.group_size={size}",
                    what="Train anew with larger groups, whose rewards differ more often:",
                ),
            ]
        case "worse":
            slower = f"refine train {anew} --set grpo.learning_rate={rate:g}"
            found.append(Command(text=slower, what="Train anew at half the learning rate:"))
        case "not better":
            if c.prompts >= FEW_PROMPTS:
                again = f"refine eval {path} --samples {4 * c.samples}"
                found.append(Command(text=again, what="More answers to each prompt may narrow the interval:"))
            longer = f"refine train {anew} --set grpo.steps={2 * settings.grpo.steps}"
            found.append(
                Command(text=longer, what="More training may move it; a new run of twice as many steps:")
            )
    return found


def _from_python(run: RunFolder, settings: Settings) -> bool:
    code = (settings.rollout.environment, *settings.rollout.tools)
    return bool(run.config.python_rewards()) or any(name.startswith("python:") for name in code)


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
