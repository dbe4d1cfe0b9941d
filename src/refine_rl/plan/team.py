"""Several processes, each with a share of the work.

Whole groups are dealt to answer, so the largest share decides how long it takes; rows to train on are dealt
by their tokens, in parts that are about equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from refine_rl.plan.machine import Rates
from refine_rl.settings import EngineSettings

TOGETHER = {"cpu": 1.0, "cuda": 0.9}
"""What several processes reach together, of the rates of the devices that they use (all cores of a processor
are one device): what it takes to add gradients up, and to wait for one another. Of GPUs it is assumed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Team:
    """So many processes, on so many devices of this machine."""

    processes: int = 1
    devices: int = 1

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
    return Team(processes=engine.processes, devices=min(devices, engine.processes))
