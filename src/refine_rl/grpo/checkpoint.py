"""The state of training in a folder: trained weights, optimizer, position. Safetensors and JSON only.

No generator state is kept: randomness is a function of seed and step (see randomness.py).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from refine_rl.errors import UserError
from refine_rl.policy.files import as_other_files
from refine_rl.policy.policy import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """How far training has come. `step` is the last whole one, `kept` the last one whose validation and
    checkpoint (where they were due) are behind it; `best_step` 0: nothing validated yet."""

    step: int = 0
    kept: int = 0
    best_step: int = 0
    best_reward: float | None = None
    seconds: float = 0.0


def save(folder: Path, policy: Policy, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Fills an empty folder."""
    parameters = policy.trainable()
    save_file(
        {n: p.detach().cpu().contiguous() for n, p in parameters.items()}, folder / "weights.safetensors"
    )
    state = {
        f"{name}|{key}": value.detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    save_file(state, folder / "optimizer.safetensors")
    (folder / "position.json").write_text(json.dumps(dataclasses.asdict(position)), encoding="utf-8")
    as_other_files(folder)


def position_of(folder: Path) -> Position:
    """How far training had come when this checkpoint was written."""
    return Position(**json.loads((folder / "position.json").read_text(encoding="utf-8")))


def load(folder: Path, policy: Policy, optimizer: torch.optim.Optimizer | None = None) -> Position:
    """Puts weights (and the optimizer's state) back, to the bit. Raises UserError where they do not fit."""
    parameters = policy.trainable()
    weights = load_file(folder / "weights.safetensors")
    if weights.keys() != parameters.keys():
        raise UserError(f"{folder} was written for another model or adapter; [model] must not change.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != weights[name].shape:
                raise UserError(f"{folder}: {name} has another shape here; [model] must not change.")
            parameter.copy_(weights[name])
    if optimizer is not None:
        for name_and_key, value in load_file(folder / "optimizer.safetensors").items():
            name, key = name_and_key.rsplit("|", 1)
            parameter = parameters[name]
            # AdamW counts its steps in a CPU tensor, whatever the parameter's device.
            on = value if key == "step" else value.to(parameter.device)
            optimizer.state[parameter][key] = on
    return position_of(folder)
