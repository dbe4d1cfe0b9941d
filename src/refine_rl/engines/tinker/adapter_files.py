"""A service's adapter as peft reads it.

Services leave parts of its configuration out, or have one lora_A for layers that they compute together (q, k
and v; gate and up): then the tensors say which layers there are, and each gets a matrix of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from refine_rl.errors import MachineError
from refine_rl.policy.files import as_other_files

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
ALPHA = 32
"""What Tinker multiplies an adapter's product by, times its rank."""


def write_adapter(
    files: Mapping[str, bytes], folder: Path, *, base: str, revision: str | None = None
) -> None:
    """The files of an adapter for the model `base`, at a `revision` of it. Raises MachineError where
    they are none of an adapter."""
    by_name = {name.rpartition("/")[2]: data for name, data in files.items()}
    try:
        tensors, config = load(by_name[WEIGHTS]), json.loads(by_name[CONFIG])
        rank = int(config["r"])
    except (KeyError, ValueError, TypeError, SafetensorError) as error:
        raise MachineError(
            f"The service gave {', '.join(sorted(by_name)) or 'nothing'} for the adapter, and not {WEIGHTS} "
            f"and {CONFIG} as peft writes them ({type(error).__name__}: {error})."
        ) from error
    tensors = apart(tensors)
    config |= {
        "base_model_name_or_path": base,
        "revision": revision,
        "lora_alpha": config.get("lora_alpha") or ALPHA,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted({key.partition(".lora_")[0].rpartition(".")[2] for key in tensors}),
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    as_other_files(folder)


def apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors with a lora_A for every lora_B: where layers share one, each has it.

    >>> made = apart({"m.q_proj.lora_A.weight": torch.ones(1), "m.q_proj.lora_B.weight": torch.ones(1),
    ...               "m.v_proj.lora_B.weight": torch.ones(1)})
    >>> sorted(made)[2]
    'm.v_proj.lora_A.weight'
    """
    found = {key: value.contiguous() for key, value in tensors.items()}
    for key in tensors:
        module, second, rest = key.partition(".lora_B.")
        first = f"{module}.lora_A.{rest}"
        if not second or first in found:
            continue
        above, _, own = module.rpartition(".")
        for names in TOGETHER:
            shared = [f"{above}.{name}.lora_A.{rest}" for name in names if own in names]
            if there := [name for name in shared if name in tensors]:
                found[first] = tensors[there[0]].clone().contiguous()
    return found
