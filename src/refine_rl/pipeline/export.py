"""A run's model as a folder of its own, and whether that is the tuned model."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from refine_rl.errors import MachineError, UserError
from refine_rl.evaluate.verdict import said_with
from refine_rl.export.check import Check, check_folder, failed
from refine_rl.export.witness import Witness, hear
from refine_rl.pipeline.model import require_same_model
from refine_rl.pipeline.sft_outcome import losses_of, sft_card
from refine_rl.pipeline.weights import Weights, open_model
from refine_rl.policy.card import base_of, model_card
from refine_rl.policy.files import as_other_files
from refine_rl.policy.load import DTYPES
from refine_rl.policy.merging import LOSS_WORTH_A_WORD, Rounding
from refine_rl.policy.share import Share
from refine_rl.progress import Observer, Quiet
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.types import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What was written of a model. `witness`: what it said before (None: nobody asks); `lost`: the share of
    what training changed that rounding took; `dtype` and `device`: the policy computed with them. `unheard`:
    why it could not be asked."""

    witness: Witness | None
    lost: float
    rounded: bool
    merged: bool
    dtype: torch.dtype
    device: torch.device
    unheard: str = ""


def _unheard(why: str = "") -> Written:
    """Of files that were copied and not looked at."""
    cpu = torch.device("cpu")
    return Written(
        witness=None, lost=0.0, rounded=False, merged=False, dtype=torch.float32, device=cpu, unheard=why
    )


def export_model(
    folder: RunFolder,
    out: Path,
    *,
    merged: bool = False,
    dtype: str | None = None,
    weights: Weights,
    check: bool = True,
    keep: bool = True,
    observer: Observer | None = None,
) -> float:
    """Writes weights of a run to the new folder `out`, with a card: as transformers and peft load them, or
    `merged` into one ordinary model, in `dtype` (without one, the run's). What was written is loaded anew and
    compared with the tuned model, unless `check` is False. Returns the share of what training changed that
    rounding took. Raises UserError where `out` is there already, MachineError where another model came out:
    then it is kept beside `out`, unless `keep` is False."""
    observer = observer or Quiet()
    with new_folder(out) as aside:
        written = write_model(folder, aside, merged=merged, dtype=dtype, weights=weights, hear_it=check)
        if check:
            look(aside, out, written, observer, keep=keep)
        tell_of(folder, written, observer)
    return written.lost


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write in, which gets that name when all is well: under its name it is whole.
    Raises UserError where `out` is there."""
    require_new(out)
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        yield aside
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def require_new(out: Path) -> None:
    if out.exists():
        what = "folder" if out.is_dir() else "file"
        raise UserError(f"{out} exists already; name a new {what}.")


def write_model(
    folder: RunFolder,
    aside: Path,
    *,
    merged: bool,
    dtype: str | None,
    weights: Weights,
    hear_it: bool = True,
    rounding: Rounding | None = None,
) -> Written:
    """Writes the model to the folder `aside`. `rounding` is that whose loss is measured, where the
    weights are to be rounded by somebody else later."""
    whole = merged or weights.checkpoint is not None
    if not whole:
        require_same_model(folder)
        if folder.model_changed():
            raise UserError(
                f"{folder.model} is not as the run wrote it. The run writes it again, from its best "
                f"checkpoint: {folder.resume}"
            )
        shutil.copytree(folder.model, aside)
        as_other_files(aside)
        if not hear_it:
            return _unheard()
    try:
        settings, policy = open_model(folder, weights)
    except (UserError, MachineError) as error:
        if whole:
            raise
        return _unheard(str(error))  # the files are the run's own, and need no base model to be copied
    witness = None
    if hear_it:
        witness = hear(policy, _asked(folder), settings.rollout.max_tokens, settings.model.quantised or 0)
    lost, form = 0.0, policy.compute_dtype
    if merged:
        form = policy.compute_dtype if dtype is None else DTYPES[dtype]
        lost = policy.save_merged(aside, form, rounding)
    elif whole:
        policy.save(aside)
    if whole:
        text = _card(folder, settings, weights, merged, policy.share)
        (aside / "README.md").write_text(text, encoding="utf-8")
        as_other_files(aside)
    return Written(
        witness=witness,
        lost=lost,
        rounded=form != torch.float32 and (merged or not settings.model.adapted),
        merged=merged or not settings.model.adapted,
        dtype=policy.compute_dtype,
        device=policy.device,
    )


def _asked(folder: RunFolder) -> list[Prompt]:
    """What the tuned model is asked: held-out prompts; where there are none, the examples of supervised
    fine-tuning, or the task itself."""
    if folder.config.kind() == "sft":
        rows = [(str(e["name"]), e["prompt"]) for e in folder.examples()]
        rows = rows or [("task", [{"role": "user", "content": folder.settings().task.strip() or "Hello."}])]
        return [Prompt(id=name, split="held_out", messages=tuple(messages)) for name, messages in rows]
    prompts = folder.prompts()
    return [p for p in prompts if p.split == "held_out"] or prompts


def look(aside: Path, out: Path, written: Written, observer: Observer, *, keep: bool = True) -> None:
    """Compares the folder with the tuned model, and says what was found. Where it is another one it is kept
    beside `out`, and MachineError raised."""
    if written.witness is None:
        observer.warning(f"copied, and not compared with the tuned model: {written.unheard}")
        return
    observer.stage("checking what was written")
    try:
        found = check_folder(
            aside,
            written.witness,
            dtype=written.dtype,
            device=written.device,
            rounded=written.rounded,
            adapter=not written.merged,
        )
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise MachineError(
            "Memory ran out while the written model was loaded for a look. --no-check writes it without one."
        ) from error
    except Exception as error:  # of transformers or peft, of whatever kind: their users would see it too
        reason = str(error).replace(str(aside), str(out)).strip() or type(error).__name__
        found = [Check(held=False, text=f"it cannot be loaded and asked: {reason}")]
    judge(found, aside, out, observer, keep=keep)


def judge(found: Sequence[Check], aside: Path, out: Path, observer: Observer, *, keep: bool = True) -> None:
    """Says what was found of `aside`, which is to be `out`. Where it is another model than the tuned one,
    raises MachineError, and keeps it beside `out` if that is wanted."""
    bad = failed(found)
    for check in found:
        if check.held:
            observer.note(check.text)
        elif check not in bad:
            observer.warning(check.text)
    if not bad:
        return
    text = "What was written is not the tuned model: " + "; ".join(c.text for c in bad)
    own = "The run itself is as it was."
    if not keep:
        raise MachineError(f"{text}. It was taken away. {own}")
    kept = out.with_name(f"{out.name}.not-the-tuned-model")
    if kept.is_dir():
        shutil.rmtree(kept)
    aside.rename(kept)
    raise MachineError(f"{text}. It is kept for a look, in {kept}; there is no {out}. {own}")


def tell_of(
    folder: RunFolder,
    written: Written,
    observer: Observer,
    *,
    form: str = "bfloat16",
    way_out: str = "--merged --dtype float32 keeps all of it; so does an export without --merged.",
) -> None:
    """What to know of the weights that were written, rounded to `form`."""
    if not written.merged:
        return
    if bits := folder.settings().model.quantised:
        observer.note(f"the base was trained on in {bits} bits: these are its weights unpacked")
    if written.lost >= LOSS_WORTH_A_WORD:
        observer.warning(
            f"rounding the merged weights to {form} loses {written.lost:.0%} of what training changed: this "
            f"is not quite the tuned model. {way_out}"
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
