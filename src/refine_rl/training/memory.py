"""What training takes of a device's memory, and how many tokens it can work at once.

On an accelerator attention leaves no scores behind, an adapter's inputs no copy, and the head works in tiles
whatever the vocabulary: 0.5 billion weights in bfloat16 with LoRA took 22.4 GB with 16,896 tokens at once and
41.2 GB with 32,768 on an H200 (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from refine_rl.policy.size import Size
from refine_rl.settings import ModelSettings

PROGRAM = {"cpu": 0.5e9, "cuda": 0.7e9}  # bytes: Python and libraries; the device's context
OPTIMIZER = 16  # bytes a trained weight: itself, its gradient, two moments of AdamW, all float32
TILES = 3 * 4 * 2048 * 32768  # bytes of the head's tiles on an accelerator, with what is made of them
SLACK = 2.0  # activations and buffers in the high figure: what an allocator does not give back

MOST = 32_768
"""Tokens at once, behind which a card has enough to do whatever is launched."""
LEAST = 256
"""... and as many at least; also the step from one number to the next."""


class Machine(Protocol):
    """Where the model is: the kind of device, and the number format of its products."""

    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A `Machine` of which nothing else is known."""

    device: str
    dtype: str


def activation(model: ModelSettings, size: Size, machine: Machine) -> float:
    """Bytes that one token leaves behind in one layer for the way back: 34 numbers of the hidden width (on an
    accelerator 10) and 4 of the inner one in the compute format; on a processor an adapter keeps its inputs
    in float32 beside them."""
    form, processor = form_of(machine), machine.device == "cpu"
    kept = form * ((34 if processor else 10) * size.hidden + 4.0 * size.intermediate)
    return kept + (4.0 * (6 * size.hidden + size.intermediate) if model.adapted and processor else 0.0)


def weights(model: ModelSettings, size: Size, form: int) -> float:
    """Bytes of the model as it is held, its products in a format of `form` bytes: autocast keeps a copy in
    that one of weights that are trained."""
    if model.quantised:
        return (size.parameters - size.linear) * form + size.linear * packed(model.quantised)
    return size.parameters * (form if model.adapted or form == 2 else 0)


def packed(bits: int) -> float:
    """Bytes of a quantised weight, with its part of the scales: of 4 bits a byte for 64."""
    return bits / 8 + (1 / 64 if bits == 4 else 0)


def whole(model: ModelSettings, size: Size, form: int) -> float:
    """Bytes of the model's weights alone."""
    return weights(model, size, form) if model.adapted else size.parameters * 4.0


def held(model: ModelSettings, size: Size, machine: Machine) -> float:
    """Bytes that are there all the time while it is trained: the program, the model, what is trained."""
    return program(machine) + size.trainable(model) * OPTIMIZER + weights(model, size, form_of(machine))


def program(machine: Machine) -> float:
    """Bytes without any model."""
    return PROGRAM.get(machine.device, PROGRAM["cuda"])


def form_of(machine: Machine) -> int:
    """Bytes of a number in the compute format."""
    return 2 if machine.dtype == "bfloat16" else 4


def training_bytes(model: ModelSettings, size: Size, machine: Machine, batch: int) -> float:
    """Of a micro-batch of so many tokens: activations and logits."""
    form = form_of(machine)
    logits = float(TILES)
    if machine.device == "cpu":
        logits = batch * size.vocabulary * 2 * form + min(batch * size.vocabulary, 1 << 25) * 12
    layers = 1 if model.gradient_checkpointing else size.layers
    training = batch * layers * activation(model, size, machine) + logits
    if model.gradient_checkpointing:
        training += batch * size.layers * size.hidden * form
    return training


def tokens_that_fit(model: ModelSettings, size: Size, machine: Machine, free: float) -> int:
    """As many tokens as can be trained on at once in `free` bytes, by the high figure; LEAST where not even
    those can."""
    room = free - held(model, size, machine)
    nothing = training_bytes(model, size, machine, 0)
    each = (training_bytes(model, size, machine, LEAST) - nothing) / LEAST  # bytes are linear in tokens
    fits = int((room / SLACK - nothing) / each)
    return min(MOST, max(LEAST, fits - fits % LEAST))


def free_memory(device: str) -> float:
    """Bytes of the device that are free, but for what this process holds of it; 0 where there is no such
    device here."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    where = torch.device(device)
    return float(torch.cuda.mem_get_info(where)[0] + torch.cuda.memory_reserved(where))


def on_one_card(processes: int) -> int:
    """Of so many processes, those on the card that has most of them."""
    import torch

    return -(-processes // max(1, torch.cuda.device_count()))
