"""The state of training in a folder: trained weights, optimizer, position. Safetensors and JSON only.

No generator state is kept: randomness is a function of seed and step (see randomness.py). The position
holds the sizes and check sums of the other two files, so that a checkpoint that a crash or a full disk has
damaged is seen before a weight is taken from it.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from refine_rl.errors import UserError
from refine_rl.policy.files import as_other_files
from refine_rl.policy.protocol import Speaker


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """How far training has come. `step` is the last whole one, `kept` the last one whose validation and
    checkpoint (where they were due) are behind it; `best_step` 0: nothing validated yet."""

    step: int = 0
    kept: int = 0
    best_step: int = 0
    best_reward: float | None = None
    seconds: float = 0.0


_WEIGHTS, _OPTIMIZER, _POSITION = "weights.safetensors", "optimizer.safetensors", "position.json"
_BLOCK = 1 << 24  # bytes


class DamagedCheckpoint(UserError):  # noqa: N818 - as its parents are named
    """A file of the checkpoint is missing, cut or changed; the message names it."""


def save(folder: Path, speaker: Speaker, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Fills an empty folder."""
    parameters = speaker.trainable()
    save_file({n: p.detach().cpu().contiguous() for n, p in parameters.items()}, folder / _WEIGHTS)
    state = {
        f"{name}|{key}": value.detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    save_file(state, folder / _OPTIMIZER)
    seal(folder, position, [_WEIGHTS, _OPTIMIZER])


def seal(folder: Path, position: Position, names: Iterable[str]) -> None:
    """Ends the writing of a checkpoint that has these files: their sums, and the position, stand in it."""
    record = {
        **dataclasses.asdict(position),
        "files": {name: _sum(folder / name) for name in names},
    }
    (folder / _POSITION).write_text(json.dumps(record), encoding="utf-8")
    as_other_files(folder)


def position_of(folder: Path) -> Position:
    """How far training had come when this checkpoint was written. Raises DamagedCheckpoint where that cannot
    be read; its weights are not looked at."""
    record = _position(folder)
    record.pop("files", None)
    return Position(**record)


def check(folder: Path) -> Position:
    """The position of a checkpoint whose files are what was written. Raises DamagedCheckpoint otherwise."""
    record = _position(folder)
    files = record.pop("files", {_WEIGHTS: None, _OPTIMIZER: None})
    for name, written in files.items():
        path = folder / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{path} is missing.")
        if written is None:  # of an earlier version; loading it tells
            continue
        if (size := path.stat().st_size) != written["bytes"]:
            raise DamagedCheckpoint(f"{path} has {size} bytes instead of {written['bytes']}.")
        if _sum(path) != written:
            raise DamagedCheckpoint(f"{path} is not what was written.")
    return Position(**record)


def _position(folder: Path) -> dict[str, Any]:
    path = folder / _POSITION
    names = {field.name for field in dataclasses.fields(Position)}
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path} is missing.") from None
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpoint(f"{path} is cut or changed.") from error
    if not isinstance(record, dict) or not names <= record.keys() <= {*names, "files"}:
        raise DamagedCheckpoint(f"{path} is cut or changed.")
    files = record.get("files", {})
    sums = files.values() if isinstance(files, dict) else [None]
    if not all(isinstance(f, dict) and f.keys() == {"bytes", "crc32"} for f in sums):
        raise DamagedCheckpoint(f"{path} is cut or changed.")
    return record


def _sum(path: Path) -> dict[str, int]:
    """Size and check sum, which finds what a crash leaves, and a slip of the hand."""
    found, size = 0, 0
    with path.open("rb") as f:
        while block := f.read(_BLOCK):
            found, size = zlib.crc32(block, found), size + len(block)
    return {"bytes": size, "crc32": found}


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{path} is cut or changed: {error}") from error
    return tensors


def load(folder: Path, speaker: Speaker, optimizer: torch.optim.Optimizer | None = None) -> Position:
    """Puts weights (and the optimizer's state) back, to the bit. Raises DamagedCheckpoint where a file is not
    what was written, UserError where they do not fit; nothing is changed then."""
    parameters = speaker.trainable()
    position = check(folder)
    if not (folder / _WEIGHTS).is_file():
        raise UserError(
            f"{folder} holds no weights: a service keeps them, and only its engine can go on from there. The "
            "model with which the run ends lies in its model/."
        )
    weights = _load(folder / _WEIGHTS)
    states = _load(folder / _OPTIMIZER) if optimizer is not None else {}
    if weights.keys() != parameters.keys():
        raise UserError(f"{folder} was written for another model or adapter; [model] must not change.")
    for name, parameter in parameters.items():
        if parameter.shape != weights[name].shape:
            raise UserError(f"{folder}: {name} has another shape here; [model] must not change.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    if optimizer is not None:
        for name_and_key, value in states.items():
            name, key = name_and_key.rsplit("|", 1)
            parameter = parameters[name]
            # AdamW counts its steps in a CPU tensor, whatever the parameter's device.
            on = value if key == "step" else value.to(parameter.device)
            optimizer.state[parameter][key] = on
    return position
