"""Several processes, each with a share of the work.

Whole groups are dealt to answer, so the largest share decides how long it takes; rows to train on are dealt
by their tokens, in parts that are about equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from refine_rl.plan.machine import Rates
from refine_rl.policy.size import Size
from refine_rl.settings import EngineSettings
from refine_rl.training.memory import form_of

TOGETHER = {"cpu": 1.0, "cuda": 0.9}
"""What several processes reach together, of the rates of the devices that they use (all cores of a processor
are one device): what it takes to add gradients up, and to wait for one another. Of GPUs it is assumed."""
LINK = {"cpu": 0.35e9, "cuda": 50e9}
"""Bytes a second in which a process gets its parts of a spread model from the others: two of one processor,
by gloo, measured; what PCIe 5 gives a GPU, assumed (NVLink gives it several times that)."""
AT_HAND = 2
"""Layers of a spread model that are together at once: one is computed while the next one comes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Team:
    """So many processes, on so many devices of this machine. `shard`: each keeps a part of the layers'
    frozen weights."""

    processes: int = 1
    devices: int = 1
    shard: bool = False

    @property
    def on_one(self) -> int:
        """Processes on the device that has most of them."""
        return -(-self.processes // self.devices)

    def groups(self, number: int) -> int:
        """Of so many groups, those of the busiest process.

        >>> Team(processes=3, devices=2).groups(8), Team(processes=3, devices=2).on_one
        (3, 2)
        """
        return -(-number // self.processes)

    def rates(self, machine: Rates) -> Rates:
        """What each process reaches."""
        if self.processes == 1:
            return machine
        part = TOGETHER.get(machine.device, TOGETHER["cuda"]) / self.on_one
        return replace(
            machine, train=machine.train * part, decode=machine.decode * part, bytes=machine.bytes * part
        )

    def apart(self, size: Size, machine: Rates) -> float:
        """Bytes of the layers' weights that a process does not have, as others keep them."""
        if not self.shard:
            return 0.0
        whole = size.linear * form_of(machine)
        kept = whole / self.processes + AT_HAND * whole / size.layers
        return max(0.0, whole - kept)

    def gathering(self, size: Size, machine: Rates) -> float:
        """Seconds in which all layers are brought together once."""
        if not self.shard:
            return 0.0
        moved = size.linear * form_of(machine) * (1 - 1 / self.processes)
        return moved / (machine.link or LINK.get(machine.device, LINK["cuda"]))

    def words(self, device: str, groups: int | None) -> Iterator[str]:
        """What a run with so many groups a step (None: it has none) would find on this kind of device."""
        if device == "cuda" and self.on_one > 1:
            yield (
                f"engine.processes = {self.processes} needs as many GPUs, and this machine has "
                f"{self.devices}: the run would be refused here."
            )
        if groups is not None and groups < self.processes:
            yield (
                f"A step has {groups} groups (grpo.prompts_per_step), and no group is divided: "
                f"{self.processes - groups} of the {self.processes} processes wait while the others sample."
            )


ALONE = Team()


def team_of(engine: EngineSettings, rates: Rates | None) -> Team:
    """The processes that `refine train` starts on a machine with these rates."""
    devices = 1 if rates is None else rates.devices
    return Team(processes=engine.processes, devices=min(devices, engine.processes), shard=engine.shard)
