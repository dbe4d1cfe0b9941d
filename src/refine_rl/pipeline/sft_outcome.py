"""What came of supervised fine-tuning: its losses, and the card of its model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from refine_rl.policy.card import Supervised, Trained, base_of, model_card
from refine_rl.policy.share import Share
from refine_rl.run import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Losses:
    """What came of it: nats a token of the answers on the validation rows before the first step and of the
    weights that were kept (None without such rows), and in the last step on what it was trained on. `step` is
    that of the weights that were kept, of `steps` that were taken."""

    before: float | None
    after: float | None
    training: float
    step: int
    steps: int

    def __str__(self) -> str:
        if self.before is None or self.after is None:
            return f"trained for {self.steps} steps: training loss {self.training:.4f}"
        return (
            f"validation loss {self.before:.4f} -> {self.after:.4f} (perplexity "
            f"{math.exp(self.before):.4g} -> {math.exp(self.after):.4g}), step {self.step} of {self.steps}"
        )


def losses_of(folder: RunFolder) -> Losses:
    """What came of a run that has taken a step."""
    looks = {look["step"]: look["loss"] for look in folder.validation()}
    history = folder.sft_history()
    last = history[-1].step
    seen = {step: loss for step, loss in looks.items() if 0 < step <= last}
    kept = min(seen, key=lambda step: (seen[step], step)) if seen else last
    return Losses(
        before=looks.get(0),
        after=seen.get(kept),
        training=history[-1].loss,
        step=kept,
        steps=last,
    )


def sft_card(
    folder: RunFolder,
    trained: Trained,
    losses: Losses | None = None,
    *,
    merged: bool = False,
    share: Share | None = None,
) -> str:
    """The card of weights of the run; `losses` are theirs, where they are those that were kept."""
    settings = folder.settings()
    sft = settings.sft
    assert sft is not None
    return model_card(
        settings.model_copy(update={"model": settings.sft_model}),
        None,
        trained=trained,
        base=base_of(settings.model.name),
        merged=merged,
        changes=[str(change) for change in folder.changed_settings()],
        share=share,
        supervised=Supervised(
            data=sft.data,
            rows=int(folder.config.source()["sft_rows"]),
            rate=settings.sft_learning_rate,
            steps=folder.planned_steps(),
            losses="these weights are a checkpoint" if losses is None else str(losses),
        ),
    )
