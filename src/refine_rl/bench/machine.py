"""What the machine reaches and what a process took: the matrix rate, peak memory, the processor's name."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from refine_rl.policy import onednn

SIDE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose product is timed."""


def matmul_rates(
    device: torch.device, dtype: torch.dtype, *, times: int, side: int | None = None
) -> list[float]:
    """Operations a second of `times` products of large square matrices, after two that do not count: by
    torch's own product, or by that of policy/onednn.py where it is the faster one here."""
    n = side or SIDE.get(device.type, 2048)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    ways: list[Callable[[], object]] = [lambda: torch.mm(a, b, out=out)]
    if onednn.at_hand(device, dtype):
        ways.append(lambda: onednn.linear(a, b, None))

    def rates(way: Callable[[], object]) -> list[float]:
        found = []
        for number in range(times + 2):
            synchronize(device)
            began = time.perf_counter()
            way()
            synchronize(device)
            if number >= 2:
                found.append(2 * n**3 / (time.perf_counter() - began))
        return found

    with torch.no_grad():
        return max(map(rates, ways), key=median)


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_rss_mb() -> float:
    """The most memory that this process has held, in MB (10**6 bytes)."""
    # Not ru_maxrss: a process that was just started has inherited its parent's peak there.
    if peak_kib := _told("/proc/self/status", "VmHWM"):
        return int(peak_kib.split()[0]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def processor(device: torch.device) -> str:
    """The name of what computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _told("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def _told(file: str, key: str) -> str:
    """What a file of the system's says behind `key` and a colon; "" where there is neither."""
    lines = Path(file).read_text(encoding="utf-8").splitlines() if Path(file).exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
