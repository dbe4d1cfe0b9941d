"""The model's size from its configuration, and this machine's speed, measured now in the shapes of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refine_rl.errors import UserError
from refine_rl.policy.share import Share
from refine_rl.settings import ModelSettings

if TYPE_CHECKING:
    import torch

MAX_ROWS = 512  # sampled at once
_MEASURED = 0.1  # seconds a rate
_SPREAD = 1 << 27  # bytes of matrices, so that they are read from memory as a model's are


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What of a model's architecture decides time and memory. `linear` are the weights of all linear layers
    but the head, `adapted` the sum of their inputs and outputs where an adapter is put on them. Of an
    encoder-decoder a token goes through half: `linear` is the mean of both, `layers` are the decoder's."""

    parameters: int
    linear: int
    adapted: int
    layers: int
    hidden: int
    intermediate: int
    kv: int  # width of the keys of one token in one layer
    vocabulary: int
    context: int  # tokens that it reads, prompt and answer together (an encoder-decoder: each)
    listens: bool = False  # an encoder-decoder

    def prompt_room(self, max_tokens: int) -> int:
        """As `Policy.prompt_room`."""
        if self.listens:
            return self.context if max_tokens <= self.context else 0
        return self.context - max_tokens

    def trainable(self, model: ModelSettings) -> int:
        """Weights that training changes."""
        return self.adapted * model.rank if model.adapted else self.parameters

    def share(self, model: ModelSettings) -> Share:
        """Of all parameters, an adapter's included."""
        trained = self.trainable(model)
        return Share(trained=trained, whole=self.parameters + (trained if model.adapted else 0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What the machine reaches: multiplications and additions a second with many rows (training) and with
    as many as are sampled at once, and bytes a second; of one device where there are several."""

    device: str  # "cpu" or "cuda"
    dtype: str
    train: float
    decode: float
    bytes: float
    devices: int = 1  # GPUs of this machine; a processor's cores are one


class UnknownSize(UserError):  # noqa: N818 - it is a gap in what is known, not a mistake
    """The model's configuration is not on this machine."""


def model_size(model: ModelSettings) -> Size:
    """From the model's configuration alone; no weight is read and nothing is downloaded. Raises
    UnknownSize where the configuration is not on this machine, UserError where it is no model to train."""
    import transformers

    from refine_rl.policy.fetch import fetch_config, refusal
    from refine_rl.policy.origin import find_origin

    origin = find_origin(model.source, local_only=True)
    if origin.local:
        config = fetch_config(model.source, origin.base)
        try:
            return size_of(config, model.targets)
        except UserError:
            raise
        except Exception as error:
            raise refusal(error, origin.base) from error
    try:
        config = transformers.AutoConfig.from_pretrained(
            origin.base, trust_remote_code=False, local_files_only=True
        )
        return size_of(config, model.targets)
    except (OSError, ValueError, KeyError) as error:
        raise UnknownSize(
            f"{model.name} is not on this machine yet, so its size is unknown (refine train loads it)"
        ) from error


def size_of(config: Any, targets: str | list[str]) -> Size:
    """Of any architecture that is trained here: the model is built without memory for its weights. Raises
    UserError for targets that are no layers of it."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from refine_rl.policy.adapter import check_targets, is_target
    from refine_rl.policy.fetch import auto_class, is_encoder_decoder
    from refine_rl.policy.load import context_length

    with torch.device("meta"):
        model = auto_class(config, config.model_type).from_config(config)
    listens = is_encoder_decoder(config)
    check_targets(model, targets)
    head = model.get_output_embeddings()
    linear = adapted = 0
    for name, module in model.named_modules():
        usual = isinstance(module, torch.nn.Linear | Conv1D) and module is not head
        if usual:
            linear += module.weight.numel()
        if usual if isinstance(targets, str) else is_target(name, targets):
            adapted += sum(sum(p.shape) for p in module.parameters() if p.ndim == 2)
    text = config.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Size(
        parameters=sum(p.numel() for p in model.parameters()),
        linear=linear // 2 if listens else linear,
        adapted=adapted,
        layers=_decoder_layers(text) if listens else text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=_first(text, "intermediate_size", "d_ff", "decoder_ffn_dim") or 4 * text.hidden_size,
        kv=(getattr(text, "num_key_value_heads", None) or heads) * width,
        vocabulary=text.vocab_size,
        context=context_length(config),
        listens=listens,
    )


def _decoder_layers(config: Any) -> int:
    return _first(config, "num_decoder_layers", "decoder_layers") or int(config.num_hidden_layers)


def _first(config: Any, *names: str) -> int:
    """The first of these sizes that a configuration has; 0 where it has none."""
    return next((int(found) for name in names if (found := getattr(config, name, None))), 0)


def measure(model: ModelSettings, size: Size, *, sampled: int, trained: int) -> Rates:
    """This machine's rates, in about a third of a second: with so many rows sampled, and so many tokens
    trained on, at once."""
    import torch
    import transformers

    from refine_rl.policy.load import choose_device, choose_dtype, faster_here
    from refine_rl.policy.origin import find_origin

    def faster() -> torch.dtype:
        base = find_origin(model.source, local_only=True).base
        config = transformers.AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True)
        return faster_here(config, model)

    device = choose_device(model.device)
    dtype = choose_dtype(model.dtype, device, faster)
    shape = size.hidden, size.intermediate
    number = max(1, min(64, _SPREAD // (shape[0] * shape[1] * dtype.itemsize)))
    matrices = [torch.randn(shape, device=device, dtype=dtype) for _ in range(number)]

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def matrix_rate(n: int) -> float:
        x = torch.randn(n, shape[0], device=device, dtype=dtype)
        return 2 * n * shape[0] * shape[1] * _a_second(lambda i: x @ matrices[i % number], wait)

    block = torch.empty(_SPREAD // 4, device=device, dtype=torch.float32)
    copy = torch.empty_like(block)
    copied = _a_second(lambda _: copy.copy_(block), wait)
    return Rates(
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        train=matrix_rate(trained),
        decode=matrix_rate(min(MAX_ROWS, sampled)),
        bytes=copied * 2 * block.numel() * block.itemsize,
        devices=torch.cuda.device_count() if device.type == "cuda" else 1,
    )


def _a_second(work: Callable[[int], torch.Tensor], wait: Callable[[], None]) -> float:
    """How often `work` can be done in a second."""
    for i in range(3):
        work(i)
    wait()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < _MEASURED:
        for i in range(done, done + 4):
            work(i)
        wait()
        done += 4
    return done / (time.perf_counter() - began)


def installed_memory(device: str) -> float:
    """Bytes of the memory that a run on this device lives in."""
    if device == "cuda":
        import torch

        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
