"""This machine's speed, measured now in the shapes of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from refine_rl.policy.size import Size
from refine_rl.settings import ModelSettings
from refine_rl.types import count_of

if TYPE_CHECKING:
    import torch

MAX_ROWS = 512  # sampled at once
MOST_TIMED = {"cpu": 2048, "cuda": 16384}
"""Rows of a product that is timed, at most: with more of them the rate is the same, and a micro-batch that
the settings ask for need not fit into this machine to be planned for."""
_MEASURED = 0.1  # seconds a rate
_SPREAD = 1 << 27  # bytes of matrices, so that they are read from memory as a model's are


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
    link: float | None = None  # bytes a second that a process gets from others; None: not known


def measure(model: ModelSettings, size: Size, *, sampled: int, trained: int) -> Rates:
    """This machine's rates, in about a third of a second (a large product takes its time, seven times): with
    so many rows sampled, and so many tokens trained on, at once, but no more of them than `MOST_TIMED`."""
    import torch

    from refine_rl.policy.fetch import config_here
    from refine_rl.policy.load import choose_device, choose_dtype, faster_here
    from refine_rl.policy.onednn import linear
    from refine_rl.policy.origin import find_origin

    def faster() -> torch.dtype:
        return faster_here(config_here(find_origin(model.source, local_only=True).base), model)

    device = choose_device(model.device)
    dtype = choose_dtype(model.dtype, device, faster)
    shape = size.intermediate, size.hidden
    number = max(1, min(64, _SPREAD // (shape[0] * shape[1] * dtype.itemsize)))
    matrices = [torch.randn(shape, device=device, dtype=dtype) for _ in range(number)]

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def matrix_rate(n: int) -> float:
        x = torch.randn(n, shape[1], device=device, dtype=dtype)
        with torch.no_grad():
            return (
                2 * n * shape[0] * shape[1] * _a_second(lambda i: linear(x, matrices[i % number], None), wait)
            )

    block = torch.empty(_SPREAD // 4, device=device, dtype=torch.float32)
    copy = torch.empty_like(block)
    copied = _a_second(lambda _: copy.copy_(block), wait)
    return Rates(
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        train=matrix_rate(min(trained, MOST_TIMED.get(device.type, MOST_TIMED["cuda"]))),
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


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def crowded(device: str) -> str:
    """That other programs were at work while the rates of a processor were measured: in the last minute more
    threads wanted to run than there are cores. "" where that was not so, and where the system does not tell.
    """
    if device != "cpu" or not hasattr(os, "getloadavg"):
        return ""
    load = os.getloadavg()[0]
    if load <= cores():
        return ""
    return (
        f"Other programs are at work on this machine (a load of {load:.1f} on {count_of(cores(), 'core')}), "
        "and its speed was measured beside them: alone a run takes less."
    )


def installed_memory(device: str) -> float:
    """Bytes of the memory that a run on this device lives in."""
    if device == "cuda":
        import torch

        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
