"""A run's model as a folder of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from refine_rl.errors import UserError
from refine_rl.evaluate.verdict import said_with
from refine_rl.pipeline.model import require_same_model
from refine_rl.pipeline.sft_outcome import losses_of, sft_card
from refine_rl.pipeline.weights import Weights, open_model
from refine_rl.policy.card import base_of, model_card
from refine_rl.policy.files import as_other_files
from refine_rl.policy.load import DTYPES
from refine_rl.policy.merging import LOSS_WORTH_A_WORD
from refine_rl.policy.share import Share
from refine_rl.run import RunFolder
from refine_rl.settings import Settings


def export_model(
    folder: RunFolder, out: Path, *, merged: bool = False, dtype: str | None = None, weights: Weights
) -> float:
    """Writes weights of a run to the new folder `out`, with a card: as transformers and peft load them, or
    `merged` into one ordinary model, in `dtype` (without one, the run's). Returns the share of what training
    changed that rounding took. Raises UserError where `out` is there already."""
    if out.exists():
        raise UserError(f"{out} exists already; name a new folder.")
    # Written aside first: under its name it is whole.
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    lost = 0.0
    try:
        if merged or weights.checkpoint is not None:
            settings, policy = open_model(folder, weights)
            if merged:
                lost = policy.save_merged(aside, None if dtype is None else DTYPES[dtype])
            else:
                policy.save(aside)
            (aside / "README.md").write_text(
                _card(folder, settings, weights, merged, policy.share), encoding="utf-8"
            )
        else:
            require_same_model(folder)
            if folder.model_changed():
                raise UserError(
                    f"{folder.model} is not as the run wrote it. The run writes it again, from its best "
                    f"checkpoint: {folder.resume}"
                )
            shutil.copytree(folder.model, aside)
        as_other_files(aside)
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return lost


def told_of(lost: float) -> str:
    """What to say where rounding took a good part of what training changed; "" where it did not."""
    if lost < LOSS_WORTH_A_WORD:
        return ""
    return (
        f"Rounding the merged weights to bfloat16 loses {lost:.0%} of what training changed: this is not "
        "quite the tuned model. Export with --merged --dtype float32, which keeps all of it; or without "
        "--merged."
    )


def _card(folder: RunFolder, settings: Settings, weights: Weights, merged: bool, share: Share) -> str:
    if folder.config.kind() == "sft":
        losses = losses_of(folder) if weights.tuned else None
        return sft_card(folder, weights.trained, losses, merged=merged, share=share)
    comparison = folder.comparison() if weights.tuned else None
    return model_card(
        settings,
        comparison,
        trained=weights.trained,
        base=base_of(settings.model.name),
        merged=merged,
        share=share,
        changes=[str(change) for change in folder.changed_settings()],
        said=() if comparison is None else said_with(comparison),
    )
