"""Which weights of a run are meant, and the model with them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from refine_rl.errors import UserError
from refine_rl.pipeline.model import run_policy
from refine_rl.policy.card import Trained
from refine_rl.policy.policy import Policy
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.training import checkpoint as checkpoints
from refine_rl.training.checkpoint import DamagedCheckpoint, Position, position_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Which weights of a run: those in a checkpoint's folder, or (None) the model that it ended with.
    `tuned`: they are that model, so that the run's comparison is theirs."""

    checkpoint: Path | None
    trained: Trained
    tuned: bool


def choose_weights(folder: RunFolder, checkpoint: str | None = None) -> Weights:
    """The tuned model of a run, or its checkpoint `checkpoint`: "best" (on validation), "last" or a step.
    Raises UserError, which names what there is."""
    steps, ended = folder.checkpoints(), folder.model.is_dir()
    newest = _newest(folder, steps)
    taken = newest.step or max((m["step"] for m in folder.metrics()), default=0)
    best = newest.best_step if newest.best_step in steps else 0
    chosen = newest.best_step or taken
    if checkpoint is None and ended:
        trained = Trained(step=chosen, taken=taken, best=chosen == newest.best_step)
        return Weights(checkpoint=None, trained=trained, tuned=True)
    found = {"best": best, "last": max(steps, default=0)}.get(checkpoint or "") or _step(checkpoint or "")
    if found not in steps:
        raise UserError(_no_weights(folder, checkpoint, steps, best))
    trained = Trained(step=found, taken=taken, best=found == best)
    return Weights(checkpoint=folder.checkpoint(found), trained=trained, tuned=ended and found == chosen)


def _newest(folder: RunFolder, steps: Sequence[int]) -> Position:
    """The position of the newest checkpoint of which one can be read."""
    for step in reversed(steps):
        with contextlib.suppress(DamagedCheckpoint):  # a resume names it, and goes on from the one before
            return position_of(folder.checkpoint(step))
    return Position()


def _step(text: str) -> int:
    """A step's number; 0, which no checkpoint has, for what is none."""
    return int(text) if text.isdecimal() else 0


def _no_weights(folder: RunFolder, asked: str | None, steps: Sequence[int], best: int) -> str:
    """What there is in the place of the weights that were asked for, and how to get further."""
    resume = folder.resume
    if not steps:
        settings = folder.settings()
        first = settings.grpo.checkpoint_every if folder.config.kind() == "grpo" else None
        when = "after the first tenth of the steps" if first is None else f"after step {first}"
        return (
            f"{folder.path} has no tuned model yet: {resume}. There is no checkpoint either; the first comes "
            f"{when}."
        )
    listed = ", ".join(map(str, steps)) + (f" (best on validation: {best})" if best else "")
    ways = "--checkpoint last" + (", --checkpoint best" if best else "") + f" or --checkpoint {steps[0]}"
    if asked is None:
        return (
            f"{folder.path} has no tuned model yet: {resume}. Its checkpoints so far: {listed}; to take one: "
            f"{ways}."
        )
    why = "no validation has chosen one yet" if asked == "best" else "there is none"
    return f"--checkpoint {asked}: {why}. The checkpoints of {folder.path}: {listed}; to take one: {ways}."


def open_model(folder: RunFolder, weights: Weights | None = None) -> tuple[Settings, Policy]:
    """The tuned model of a run, or other weights of it; its reference is the model before training."""
    weights = weights or choose_weights(folder)
    adapter_from = folder.model if weights.checkpoint is None else None
    try:
        policy = run_policy(folder, adapter_from=adapter_from, keep_reference=True)
    except UserError as error:
        if str(folder.model) not in str(error):
            raise
        again = "The run writes it again, from its best checkpoint"
        raise UserError(f"{error} {again}: {folder.resume}") from error
    if weights.checkpoint is not None:
        checkpoints.load(weights.checkpoint, policy)
    return folder.settings(), policy


def system_of(folder: RunFolder) -> str:
    """The system message with which all of a run's prompts begin, whoever wrote it; "" where they do not."""
    prompts = folder.prompts()
    said = {p.messages[0]["content"] if p.messages[0]["role"] == "system" else "" for p in prompts}
    return said.pop() if len(said) == 1 else folder.settings().prompts.system
