"""Loading a policy: from a hub id, a folder or "tiny" (bundled).

Only safetensors are loaded, and no code that lies beside a model is ever run.
"""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from refine_rl.config import ModelSettings
from refine_rl.errors import UserError
from refine_rl.policy.lora import make_lean
from refine_rl.policy.norm import lean_norms
from refine_rl.policy.policy import Policy
from refine_rl.policy.recompute import recompute_layers
from refine_rl.policy.template import ensure_template, stop_ids
from refine_rl.randomness import torch_seed


def load_policy(
    settings: ModelSettings, *, seed: int = 0, adapter_from: Path | None = None, keep_reference: bool = False
) -> Policy:
    """Loads the model of `settings`, with a fresh adapter (or the one in `adapter_from`).

    Raises UserError where the model cannot be had or is of a kind that is not trained here.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    device = choose_device(settings.device)
    if device.type == "cuda":
        # A resumed run equals an unbroken one to the bit only if the kernels do.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    compute_dtype = choose_dtype(settings.dtype, device)
    source = model_source(settings.name)
    weights_from = str(adapter_from) if adapter_from and settings.adapter == "none" else source
    model_config = _fetch(transformers.AutoConfig, source)
    if getattr(model_config, "is_encoder_decoder", False):
        raise UserError(
            f"{settings.name} is an encoder-decoder ({model_config.model_type}); GRPO here trains "
            "decoder-only models."
        )
    # Without an adapter every weight is trained: they stay float32, or small updates would be lost.
    dtype = compute_dtype if settings.adapter == "lora" else torch.float32
    model = _fetch(transformers.AutoModelForCausalLM, weights_from, dtype=dtype, use_safetensors=True)
    lean_norms(model)
    tokenizer = _fetch(transformers.AutoTokenizer, source)
    frozen = None
    if settings.adapter == "lora":
        model = _with_adapter(model, settings, seed, adapter_from)
    elif keep_reference:
        untrained = (
            copy.deepcopy(model)
            if weights_from == source
            else _fetch(transformers.AutoModelForCausalLM, source, dtype=dtype, use_safetensors=True)
        )
        frozen = untrained.requires_grad_(False).eval().to(device)
    model.to(device).eval()
    if settings.gradient_checkpointing and not recompute_layers(model):
        raise UserError(
            f"model.gradient_checkpointing = true: {settings.name} ({model_config.model_type}) has no "
            "layers that can be computed again. Leave it out, and lower grpo.tokens_per_micro_batch instead."
        )
    ensure_template(tokenizer)
    return Policy(
        model=model,
        tokenizer=tokenizer,
        stop_ids=stop_ids(model, tokenizer),
        device=device,
        compute_dtype=compute_dtype,
        context_length=context_length(model_config),
        source=settings.name,
        adapter=settings.adapter == "lora",
        frozen=frozen,
    )


def model_source(name: str) -> str:
    """What from_pretrained is given: the bundled folder for "tiny", else the name itself."""
    if name == "tiny":
        return str(resources.files("refine_rl") / "assets" / "tiny")
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if looks_like_path:
        raise UserError(f"model.name = {name!r}: there is no such folder.")
    return name


def choose_device(wanted: str) -> torch.device:
    """ "auto": cuda, else mps, else cpu."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"model.device = {wanted!r} cannot be used here: {reason}") from error
    return device


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """ "auto": bfloat16 where the processor multiplies it in hardware, else float32."""
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # Private names of torch 2.x; where they are gone we fall back to float32, which is always right.
        fast = any(
            getattr(torch.cpu, probe, bool)()
            for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32


def context_length(config: Any) -> int:
    """Tokens that a model of this configuration reads, prompt and answer together."""
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(getattr(text_config, "max_position_embeddings", None) or 1 << 20)


def _with_adapter(model: Any, settings: ModelSettings, seed: int, adapter_from: Path | None) -> Any:
    import peft

    if adapter_from is not None:
        with _peft_quiet():
            adapted = peft.PeftModel.from_pretrained(model, str(adapter_from), is_trainable=True)
        make_lean(adapted)
        return adapted
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), _peft_quiet():
        torch.manual_seed(torch_seed(seed, "adapter"))
        try:
            adapted = peft.get_peft_model(model, config)
        except ValueError as error:
            linear = sorted(
                {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear)}
            )
            raise UserError(
                f"model.targets = {settings.targets!r} matches no layer; this model has {', '.join(linear)}."
            ) from error
    make_lean(adapted)
    return adapted


@contextlib.contextmanager
def _peft_quiet() -> Iterator[None]:
    """Without peft's remarks that no user can act on: its use of a transformers name that is going to
    change, and that it transposes GPT-2's Conv1D by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        yield


def _fetch(kind: Any, source: str, **options: Any) -> Any:
    local = Path(source).is_dir()
    try:
        return kind.from_pretrained(source, trust_remote_code=False, local_files_only=local, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        if local:
            hint = "The folder needs config.json, *.safetensors and the tokenizer's files."
        elif os.environ.get("HF_HUB_OFFLINE") == "1":
            hint = "HF_HUB_OFFLINE=1 is set, and the model is not in the local cache."
        else:
            hint = 'Check the name and the network; offline, use a folder or name = "tiny".'
        raise UserError(f"Cannot load the model {source!r}: {reason} {hint}") from error
