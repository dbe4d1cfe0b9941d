"""A run's model onto the hub, and whether that is the tuned model."""

from __future__ import annotations

import tempfile
from pathlib import Path

from refine_rl.errors import MachineError, UserError
from refine_rl.export.check import failed
from refine_rl.export.hub import check_uploaded, require_hub, require_name, upload
from refine_rl.pipeline.export import export_model
from refine_rl.pipeline.weights import Weights
from refine_rl.policy.origin import find_origin
from refine_rl.progress import Observer, Quiet
from refine_rl.run import RunFolder


def export_hub(
    folder: RunFolder,
    name: str,
    *,
    merged: bool = False,
    dtype: str | None = None,
    private: bool = False,
    weights: Weights,
    check: bool = True,
    observer: Observer | None = None,
) -> str:
    """Sends weights of a run to the hub's repository `name`, as `export_model` writes and checks them. What
    the hub has then is compared file by file, whatever `check` is. Returns the address of the repository."""
    observer = observer or Quiet()
    require_name(name)
    adapter = folder.settings().model.adapted and not merged
    if adapter and find_origin(folder.settings().model.source).local:
        raise UserError(
            "The hub: this adapter names its base model by a folder of this machine, which nobody else has. "
            "Add --merged, which needs no base model."
        )
    require_hub(name, adapter=adapter)
    with tempfile.TemporaryDirectory(prefix="refine-export-") as place:
        whole = Path(place) / "model"
        export_model(
            folder,
            whole,
            merged=merged,
            dtype=dtype,
            weights=weights,
            check=check,
            keep=False,
            observer=observer,
        )
        observer.stage(f"sending it to {name}")
        message = f"{folder.settings().name or 'A tuned model'}, {weights.trained.step} steps (Re:Fine)"
        uploaded = upload(name, whole, private=private, message=message)
        found = check_uploaded(name, whole, uploaded)
    for one in found:
        if one.held:
            observer.note(one.text)
        elif not one.fatal:
            observer.warning(one.text)
    if bad := failed(found):
        raise MachineError(f"{bad[0].text}. {uploaded.url} holds it; send it again.")
    return uploaded.url
