"""How the processes of a run find one another, and become torch's group of processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from refine_rl.engines.processes.place import Place

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the first word of the others."""

VERSIONS = ("refine-rl", "torch", "transformers", "peft")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """Who has come, and with what."""

    rank: int
    host: str
    versions: tuple[str, ...]


def versions() -> tuple[str, ...]:
    """Of what all processes must have alike."""
    return tuple(f"{name} {version(name)}" for name in VERSIONS)


def board(place: Place) -> Store:
    """Where the processes that a launcher started leave word for one another."""
    found: Store = next(rendezvous("env://", place.rank, place.size, timeout=PATIENCE))[0]
    return found


def address(place: Place) -> str:
    """Where the first process listens, for those that it does not share a machine with, too."""
    return "127.0.0.1" if place.one_machine else os.environ["MASTER_ADDR"]


def cards(place: Place) -> bool:
    """Whether every process on this machine has a GPU of its own."""
    return torch.cuda.is_available() and torch.cuda.device_count() >= place.local_size


def join(place: Place, store: Store, seconds: float) -> None:
    """Makes torch's group of the processes; they wait for one another, `seconds` at most in each collective.
    A process takes the GPU of its number on its machine."""
    if cards(place):
        torch.cuda.set_device(place.local_rank)
    with _by_itself(place):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cards(place) else "gloo",
            store=PrefixStore("group", store),
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=seconds),
        )


@contextlib.contextmanager
def _by_itself(place: Place) -> Iterator[None]:
    """Processes of one machine need no other network than its own, whatever its name leads to."""
    name = "GLOO_SOCKET_IFNAME"
    known = os.environ.get(name)
    if place.one_machine and known is None and Path("/sys/class/net/lo").exists():
        os.environ[name] = "lo"
    try:
        yield
    finally:
        if known is None:
            os.environ.pop(name, None)
