"""Which of how many processes this one is, as a launcher says it (torchrun, accelerate launch)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from refine_rl.errors import UserError

ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_HERE = ("127.0.0.1", "::1", "localhost")
"""A first process with such an address has all others on its machine."""
PARENT = "REFINE_PARENT"
"""The environment variable by which a process that this package starts knows who started it."""
SECRET = "REFINE_SECRET"
"""That by which it proves to be one: nobody but its user reads it there. Processes of a launcher that have
none find theirs on its store, which torch lets everybody read who reaches it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """`rank` of `size`; `local_rank` of `local_size` on its machine. Rank 0 runs the pipeline."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    @property
    def one_machine(self) -> bool:
        return self.local_size == self.size

    def environment(self) -> dict[str, str]:
        """
        >>> Place(rank=1, size=2, local_rank=1, local_size=2).environment()["RANK"]
        '1'
        """
        numbers = (self.rank, self.size, self.local_rank, self.local_size)
        return {name: str(n) for name, n in zip(_NUMBERS, numbers, strict=True)}


def launched(environ: Mapping[str, str] = os.environ) -> Place | None:
    """What a launcher says; None where none started this process, or only this one. Raises UserError where
    it leaves open who is on which machine.

    >>> launched({}) is None
    True
    """
    if not all(environ.get(name) for name in ("RANK", "WORLD_SIZE", *ADDRESS)):
        return None
    missing = [name for name in _NUMBERS if not environ.get(name)]
    if missing and environ["WORLD_SIZE"] != "1" and environ["MASTER_ADDR"] not in _HERE:
        raise UserError(
            f"A launcher started {environ['WORLD_SIZE']} processes and does not say how they share their "
            f"machines: {' and '.join(missing)} missing in the environment. With one process on each, set "
            "LOCAL_RANK=0 LOCAL_WORLD_SIZE=1; torchrun and accelerate launch set both by themselves."
        )
    defaults = {"LOCAL_RANK": environ["RANK"], "LOCAL_WORLD_SIZE": environ["WORLD_SIZE"]}
    texts = [environ.get(name) or defaults[name] for name in _NUMBERS]
    if not all(text.isdecimal() for text in texts):
        found = ", ".join(f"{name}={text}" for name, text in zip(_NUMBERS, texts, strict=True))
        raise UserError(f"The environment says which process this is, and not in numbers: {found}.")
    rank, size, local_rank, local_size = map(int, texts)
    if size == 1:
        return None
    return Place(rank=rank, size=size, local_rank=local_rank, local_size=local_size)
