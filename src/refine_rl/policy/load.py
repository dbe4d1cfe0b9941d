"""Loading a policy: from a hub id, a folder or "tiny" (bundled).

Only safetensors are loaded, and no code that lies beside a model is ever run.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from refine_rl.errors import UserError
from refine_rl.policy.adapter import Start, fresh_adapter, merge_start, name_base, saved_adapter
from refine_rl.policy.control import control_of, control_of_plain
from refine_rl.policy.decoder_only import DecoderOnly
from refine_rl.policy.encoder_decoder import EncoderDecoder
from refine_rl.policy.fetch import auto_class, fetch, fetch_config, fetch_weights, is_encoder_decoder
from refine_rl.policy.fit import require_causal, require_listening, require_words
from refine_rl.policy.heap import keep_memory
from refine_rl.policy.lean import lean_parts
from refine_rl.policy.origin import Origin, find_origin
from refine_rl.policy.policy import Policy
from refine_rl.policy.quantised import own_products, quantisation, quantised, require_quantiser
from refine_rl.policy.recompute import recompute_layers
from refine_rl.policy.template import ensure_template, render, stop_ids
from refine_rl.settings import ModelSettings
from refine_rl.settings.revision import on_hub

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_policy(
    settings: ModelSettings,
    *,
    seed: int = 0,
    adapter_from: Path | None = None,
    keep_reference: bool = False,
    moment: datetime | None = None,
) -> Policy:
    """Loads the model of `settings`, with a fresh adapter (or the one in `adapter_from`). `moment` is what a
    template that asks for the time is told; without it, now.

    Raises UserError where the model cannot be had or is of a kind that is not trained here.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    require_extra(settings)
    device = choose_device(settings.device)
    if device.type == "cuda":
        _same_to_the_bit()
    elif device.type == "cpu":
        keep_memory()
    origin = find_origin(settings.source)
    config = _config(settings, origin)
    compute_dtype = choose_dtype(settings.dtype, device, lambda: faster_here(config, settings))
    # Without an adapter every weight is trained: they stay float32, or small updates would be lost.
    dtype = compute_dtype if settings.adapted else torch.float32
    tuned = None if settings.adapted else adapter_from
    if settings.quantised:
        model, start = _quantised_start(origin, settings.quantised, dtype, device)
    else:
        model, start = _start(origin, dtype) if tuned is None else (_plain(str(tuned), dtype), None)
    tokenizer = _tokenizer(origin, config)
    require_words(model, tokenizer, settings.source)
    stops = stop_ids(model, tokenizer)
    frozen = None
    if settings.adapted:
        if adapter_from is None:
            model = fresh_adapter(model, settings, seed)
        else:
            model = saved_adapter(model, settings, adapter_from, start)
        name_base(model, origin)
    elif keep_reference:
        untrained = copy.deepcopy(model) if tuned is None else _start(origin, dtype)[0]
        frozen = untrained.requires_grad_(False).eval().to(device)
    if not settings.quantised:  # such a model is there, and its scales would stay behind
        model.to(device)
    model.eval()
    if settings.gradient_checkpointing and not recompute_layers(model):
        raise UserError(
            f"model.gradient_checkpointing = true: {settings.name} ({config.model_type}) has no "
            "layers that can be computed again. Leave it out, and lower grpo.tokens_per_micro_batch instead."
        )
    return _player(
        settings,
        model=model,
        tokenizer=tokenizer,
        stop_ids=stops,
        moment=moment or datetime.now(),
        device=device,
        compute_dtype=compute_dtype,
        context_length=context_length(config),
        source=settings.source,
        adapter=settings.adapted,
        start=start,
        frozen=frozen,
    )


def without_weights(
    settings: ModelSettings, *, moment: datetime | None = None, adapted: bool = False
) -> Policy:
    """What its tokenizer, its template and its configuration say of a model: a policy that encodes texts as
    the whole one does, and computes nothing; `adapted`, with the shapes of its adapter. Raises what
    `load_policy` raises for these."""
    import transformers

    origin = find_origin(settings.source)
    config = _config(settings, origin)
    with torch.device("meta"):
        model = auto_class(config, config.model_type).from_config(config)
    with contextlib.suppress(OSError):  # where there is none, what follows from the configuration holds
        name, at = on_hub(origin.base)
        model.generation_config = transformers.GenerationConfig.from_pretrained(
            name, local_files_only=True, **at
        )
    tokenizer = _tokenizer(origin, config)
    require_words(model, tokenizer, settings.source)
    stops = stop_ids(model, tokenizer)
    return _of_its_kind(
        settings,
        model=fresh_adapter(model, settings, seed=0) if adapted else model,
        tokenizer=tokenizer,
        stop_ids=stops,
        moment=moment or datetime.now(),
        device=torch.device("meta"),
        compute_dtype=torch.float32,
        context_length=context_length(config),
        source=settings.source,
        adapter=adapted,
    )


def _tokenizer(origin: Origin, config: Any) -> Any:
    """The tokenizer, with a template where it has none and needs one."""
    import transformers

    # An adapter's folder has no configuration that would tell the tokenizer's kind.
    known = {} if origin.adapter is None else {"config": config}
    tokenizer = fetch(transformers.AutoTokenizer, origin.tokenizer, **known)
    if not is_encoder_decoder(config):
        ensure_template(tokenizer)
    return tokenizer


def _player(settings: ModelSettings, **parts: Any) -> Policy:
    """The policy of a model of its kind, once it has been seen to compute what it should."""
    policy = _of_its_kind(settings, **parts)
    if isinstance(policy, EncoderDecoder):
        require_listening(policy)
    elif isinstance(policy, DecoderOnly):
        require_causal(policy)
    return policy


def _of_its_kind(settings: ModelSettings, **parts: Any) -> Policy:
    tokenizer, moment, source = parts["tokenizer"], parts["moment"], parts["source"]
    if is_encoder_decoder(parts["model"].config):
        return EncoderDecoder(
            **parts,
            control=control_of_plain(tokenizer, parts["stop_ids"]),
            prefix=settings.prefix,
            recomputes=settings.gradient_checkpointing,
        )
    written = partial(render, tokenizer, moment=moment, source=source)
    return DecoderOnly(**parts, control=control_of(tokenizer, parts["stop_ids"], written))


def _same_to_the_bit() -> None:
    """A resumed run equals an unbroken one to the bit only if the accelerator's kernels do."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Neither cuDNN's attention nor the memory-efficient one keeps to that where torch only warns.
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    # Else every buffer that is made is written over once more, a launch each.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def require_extra(settings: ModelSettings) -> None:
    """Raises SettingsError where a package that these settings need is not installed."""
    if settings.quantised:
        require_quantiser()


def require_model(settings: ModelSettings) -> None:
    """Raises UserError where the model cannot be had or is of a kind that is not trained here, as far as
    can be told without its weights: before anything is asked of anybody."""
    require_extra(settings)
    _config(settings, find_origin(settings.source))


def _config(settings: ModelSettings, origin: Origin) -> Any:
    """The configuration. Raises UserError where the settings ask for what its kind of model has not."""
    config = fetch_config(settings.source, origin.base)
    if settings.prefix and not is_encoder_decoder(config):
        raise UserError(
            f"model.prefix = {settings.prefix!r} is what an encoder-decoder reads before each prompt, and "
            f"{settings.source} ({config.model_type}) is a decoder-only model, which has a chat template. "
            "Leave it out; prompts.system says something before each prompt."
        )
    return config


def _start(origin: Origin, dtype: torch.dtype) -> tuple[Any, Start | None]:
    """The untrained model, the adapter that it comes with merged in."""
    return merge_start(_plain(origin.base, dtype), origin)


def _quantised_start(
    origin: Origin, bits: int, dtype: torch.dtype, device: torch.device
) -> tuple[Any, Start | None]:
    """The untrained model with quantised layers, on the device. An adapter that it comes with is merged into
    the whole weights: packed ones would keep little of it."""
    if origin.adapter is not None:
        model, start = _start(origin, torch.float32)
        model = quantised(model, bits, dtype, device)
    else:
        options = {"quantization_config": quantisation(bits, dtype), "device_map": {"": device}}
        model, start = own_products(fetch_weights(origin.base, dtype, **options)), None
    lean_parts(model)
    return model, start


def _plain(source: str, dtype: torch.dtype) -> Any:
    model = fetch_weights(source, dtype)
    lean_parts(model)
    return model


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


def choose_dtype(
    wanted: str, device: torch.device, faster: Callable[[], torch.dtype] = lambda: torch.bfloat16
) -> torch.dtype:
    """ "auto": float32 where bfloat16 is not multiplied in hardware; else bfloat16 on an accelerator; on a
    processor what `faster` finds."""
    if wanted != "auto":
        return DTYPES[wanted]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # Private names of torch 2.x; where they are gone we fall back to float32, which is always right.
        fast = any(
            getattr(torch.cpu, probe, bool)()
            for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
        return faster() if fast else torch.float32
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32


def faster_here(config: Any, settings: ModelSettings) -> torch.dtype:
    """The format in which this processor samples and trains this model sooner."""
    from refine_rl.policy.number_format import faster_format

    if settings.adapter == "none":
        return faster_format(config, lambda model: model, trains_all=True, adapter={"adapter": "none"})

    def adapt(model: Any) -> Any:
        if settings.quantised:
            model = quantised(model, settings.quantised, model.dtype, torch.device("cpu"))
            lean_parts(model)
        return fresh_adapter(model, settings, 0)

    what: dict[str, Any] = {"adapter": settings.adapter, "rank": settings.rank, "targets": settings.targets}
    what |= {"bits": settings.quantised, "dropout": settings.dropout > 0}
    return faster_format(config, adapt, trains_all=False, adapter=what)


def context_length(config: Any) -> int:
    """Tokens that a model of this configuration reads, prompt and answer together."""
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(getattr(text_config, "max_position_embeddings", None) or 1 << 20)
