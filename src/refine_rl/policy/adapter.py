"""The adapter that is trained: fresh, or read again from a run; and one that a model comes with.

An adapter that a model comes with is merged into the weights first (merging.py): the sum is the start and
the reference, and a fresh adapter is trained upon it. What is saved is one adapter for the plain base model
that does what both do: their matrices side by side, so that any program loads it as it is.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from refine_rl.errors import UserError
from refine_rl.policy.dropout import own_dropout
from refine_rl.policy.fetch import fetch, is_encoder_decoder, refusal, require_whole
from refine_rl.policy.lora import make_lean
from refine_rl.policy.merging import merge
from refine_rl.policy.origin import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Origin, merge_command
from refine_rl.randomness import torch_seed
from refine_rl.settings import ModelSettings
from refine_rl.settings.revision import on_hub

_PREFIX = "base_model.model."

# peft imports it wherever it is installed, and it complains about kernels that nothing here asks for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """An adapter that was merged into the weights: its matrices by their names in its file, and what each
    layer's product is multiplied by. `lost` is the share of it that rounding took."""

    base: str
    matrices: Mapping[str, torch.Tensor]
    scaling: Mapping[str, float]
    lost: float


def fresh_adapter(model: Any, settings: ModelSettings, seed: int) -> Any:
    """The model with a new adapter, which changes nothing yet. Raises UserError for targets that are no
    layers of the model, each of them."""
    import peft

    check_targets(model, settings.targets)
    linear = _linear_names(model)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        task_type=_task(model),
    )
    with torch.random.fork_rng(devices=[]), peft_quiet():
        torch.manual_seed(torch_seed(seed, "adapter"))
        try:
            adapted = peft.get_peft_model(model, config)
        except ValueError as error:
            raise UserError(
                f"model.targets = {settings.targets!r} cannot have an adapter: "
                f"{str(error).splitlines()[0]} This model's linear layers are {', '.join(linear)}."
            ) from error
    own_dropout(adapted)
    make_lean(adapted)
    return adapted


def _task(model: Any) -> str:
    """What peft calls a model of this kind."""
    return "SEQ_2_SEQ_LM" if is_encoder_decoder(model.config) else "CAUSAL_LM"


def saved_adapter(model: Any, settings: ModelSettings, folder: Path, start: Start | None) -> Any:
    """The model with the adapter in a run's folder. Raises UserError unless every matrix is there."""
    if start is None:
        adapted = _read(model, str(folder), trainable=True)
    else:
        adapted = fresh_adapter(model, settings, seed=0)
        _put_in(adapted, _own_part(_matrices(str(folder)), start), str(folder))
    own_dropout(adapted)
    make_lean(adapted)
    return adapted


def merge_start(model: Any, origin: Origin) -> tuple[Any, Start | None]:
    """The model with the adapter that it comes with merged in, where there is one. Raises UserError for one
    that cannot be merged layer by layer."""
    if origin.adapter is None:
        return model, None
    import peft
    from peft.tuners.lora import Embedding, Linear

    config: Any = fetch(peft.PeftConfig, origin.adapter)
    if config.peft_type != "LORA" or config.use_dora or config.bias != "none" or config.modules_to_save:
        raise _more_than_lora(origin, config, str(config.peft_type.value))
    whole = _whole_weights(model, _matrices(origin.adapter))
    adapted = _read(model, origin.adapter, trainable=False)
    layers = {n: m for n, m in adapted.get_base_model().named_modules() if isinstance(m, (Linear, Embedding))}
    with peft_quiet():
        matrices = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    known = {_module(key) for key in matrices}
    if whole or known != layers.keys() or any(layer.lora_bias["default"] for layer in layers.values()):
        raise _more_than_lora(origin, config, "LORA")
    kept = {key: value.detach().cpu().float().clone() for key, value in matrices.items()}
    scaling = {name: float(layer.scaling["default"]) for name, layer in layers.items()}
    merged, lost = merge(adapted, model.dtype)
    merged.requires_grad_(True)  # peft had frozen it
    return merged, Start(base=origin.base, matrices=kept, scaling=scaling, lost=lost)


def _more_than_lora(origin: Origin, config: Any, kind: str) -> UserError:
    return UserError(
        f"{origin.adapter} holds an adapter ({kind}) that is not LoRA matrices alone. Make an ordinary model "
        f'of it, with this command, and train that, with model.name = "merged":\n'
        f"{merge_command(str(origin.adapter), config.task_type)}"
    )


def name_base(adapted: Any, origin: Origin) -> None:
    """Has the adapter's configuration say, beside the base model's name, which revision of it was trained."""
    for config in adapted.peft_config.values():
        config.revision = on_hub(origin.base)[1].get("revision")


def save_adapter(adapted: Any, folder: Path, start: Start | None) -> None:
    """The adapter as peft reads it, for the plain base model."""
    # The base's own embeddings stay out, though an adapter be on them: training does not change them.
    with peft_quiet():
        adapted.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    if start is not None:
        _put_beside(adapted, folder, start)


@contextlib.contextmanager
def peft_quiet() -> Iterator[None]:
    """Without peft's remarks that no user can act on: its use of a transformers name that is going to
    change, that it transposes GPT-2's Conv1D (and not its head) by itself, and that tied weights need care
    (merging.py has it)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to (True|False)")
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        yield


def _read(model: Any, source: str, *, trainable: bool) -> Any:
    """The model with an adapter of a folder or the hub, whole."""
    import peft

    matrices = _matrices(source)
    config: Any = fetch(peft.PeftConfig, source)
    config.inference_mode = not trainable
    config.base_model_name_or_path = None  # peft would remark that it is called otherwise here
    with torch.random.fork_rng(devices=[]), peft_quiet():
        try:
            adapted = peft.get_peft_model(model, config)
        except (ValueError, KeyError, TypeError) as error:
            raise refusal(error, source) from error
    _put_in(adapted, matrices, source)
    return adapted


def _put_in(adapted: Any, matrices: Mapping[str, torch.Tensor], source: str) -> None:
    """Puts an adapter's matrices into the model, all of them and each in its place."""
    import peft

    with peft_quiet():
        try:
            result = peft.set_peft_model_state_dict(adapted, dict(matrices))
        except (ValueError, KeyError, TypeError) as error:
            raise refusal(error, source) from error
        except RuntimeError as error:
            said = (line.strip() for line in str(error).splitlines())
            shapes = [line.removeprefix("size mismatch for ") for line in said if "size mismatch" in line]
            require_whole(f"The adapter {source!r}", [], [], shapes)
            raise refusal(error, source) from error
    own = {n for n, _ in adapted.named_parameters() if "lora_" in n or ".modules_to_save." in n}
    # In the file the adapter's name is not part of a key.
    missing = sorted(key.replace(".default", "") for key in result.missing_keys if key in own)
    unexpected = sorted(key.replace(".default", "") for key in result.unexpected_keys)
    require_whole(f"The adapter {source!r}", missing, unexpected, [])


def _matrices(source: str) -> dict[str, torch.Tensor]:
    """The matrices of an adapter's file."""
    if Path(source).is_dir():
        file = Path(source) / ADAPTER_WEIGHTS
        if not file.is_file():
            raise UserError(
                f"{source} has an {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS}: the adapter's weights are not "
                "there. Copy them; or where the folder's model is meant without an adapter, take the "
                f"{ADAPTER_CONFIG} away."
            )
    else:
        from transformers.utils import cached_file

        try:
            name, at = on_hub(source)
            file = Path(cached_file(name, ADAPTER_WEIGHTS, **at))
        except (OSError, ValueError) as error:
            raise refusal(error, source) from error
    try:
        return dict(load_file(file))
    except Exception as error:
        raise refusal(error, source) from error


def _whole_weights(model: nn.Module, matrices: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of an adapter's file that are weights of the base model, and others than it has (peft stores
    embeddings whole where their number was changed, or may have been)."""
    own = model.state_dict()
    found = []
    for key, value in matrices.items():
        if ".lora_" in key:
            continue
        mine = own.get(key.removeprefix(_PREFIX).replace(".base_layer.", "."))
        if mine is None or mine.shape != value.shape or not torch.equal(mine, value.to(mine.dtype)):
            found.append(key)
    return found


def check_targets(model: nn.Module, targets: str | list[str]) -> None:
    """Raises UserError where a name of the list is no layer's: peft says so only where none of them is."""
    if isinstance(targets, str):
        return
    if not targets:
        raise UserError('model.targets = [] names no layer. Leave it out: "all-linear" is the default.')
    modules = [name for name, _ in model.named_modules() if name]
    problems = []
    for target in targets:
        if any(is_target(name, [target]) for name in modules):
            continue
        last = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in modules))
        near = difflib.get_close_matches(target, [n for n in last if not n.isdigit()], n=2, cutoff=0.5)
        meant = f" (nearest: {', '.join(near)})" if near else ""
        problems.append(f"{target!r} is no layer of this model{meant}")
    if problems:
        raise UserError(
            f"model.targets = {targets!r}: {'; '.join(problems)}. Its linear layers are "
            f"{', '.join(_linear_names(model))}."
        )


def is_target(name: str, targets: list[str]) -> bool:
    """Whether a layer is meant by one of the names, as peft reads them: the end of its own."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _linear_names(model: nn.Module) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    found = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))}
    return sorted(found)


def _module(key: str) -> str:
    return key.removeprefix(_PREFIX).split(".lora_")[0]


def _is_first(key: str) -> bool:
    """Whether a matrix is the first of its product (A, [rank, in]); the other is B, [out, rank]."""
    return ".lora_A." in key or key.endswith(".lora_embedding_A")


def _put_beside(adapted: Any, folder: Path, start: Start) -> None:
    """Makes of the adapter in `folder` one that holds the start's matrices too: A above A, B beside B. The
    trained ones stay as they are, to the bit; the start's B takes up that its product is scaled otherwise."""
    import peft

    own = load_file(folder / ADAPTER_WEIGHTS)
    config = adapted.peft_config["default"]
    scale = config.lora_alpha / config.r
    both, ranks, scales = {}, {}, {}
    for key in dict.fromkeys((*start.matrices, *own)):
        name = _module(key)
        parts = [m[key] for m in (start.matrices, own) if key in m]
        scales[name] = scale if key in own else start.scaling[name]
        if len(parts) == 2 and not _is_first(key):
            parts[0] = parts[0] * (start.scaling[name] / scale)
        both[key] = torch.cat(parts, dim=0 if _is_first(key) else 1).contiguous()
        if _is_first(key):
            ranks[name] = both[key].shape[0]
    save_file(both, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    name, at = on_hub(start.base)
    peft.LoraConfig(
        base_model_name_or_path=name,
        **at,
        task_type=config.task_type,
        r=config.r,
        lora_alpha=config.lora_alpha,
        target_modules=sorted(ranks),
        rank_pattern={name: rank for name, rank in ranks.items() if rank != config.r},
        alpha_pattern={name: scales[name] * rank for name, rank in ranks.items()},
        inference_mode=True,
    ).save_pretrained(folder)


def _own_part(both: Mapping[str, torch.Tensor], start: Start) -> dict[str, torch.Tensor]:
    """The trained matrices of an adapter that `_put_beside` made."""
    own = {}
    for key, value in both.items():
        first = start.matrices.get(key)
        if first is None:
            own[key] = value
            continue
        dim = 0 if _is_first(key) else 1
        if (rest := value.shape[dim] - first.shape[dim]) > 0:
            own[key] = value.narrow(dim, first.shape[dim], rest).contiguous()
    return own
