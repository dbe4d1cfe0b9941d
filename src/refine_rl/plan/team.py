"""Several processes: what the busiest of them does, and what all take of the machine.

Whole groups are dealt, so shares are rounded up, and the largest decides how long a step takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from refine_rl.plan.counts import Counts
from refine_rl.plan.machine import Rates, Size
from refine_rl.plan.memory import disk
from refine_rl.plan.pace import Work, estimate
from refine_rl.plan.supervised import Rows, Supervised, supervised
from refine_rl.settings import Settings, SFTSettings

TOGETHER = {"cpu": 1.0, "cuda": 0.9}
"""What several processes reach together, of the rates of the devices that they use (all cores of a processor
are one device): what it takes to add gradients up, and to wait for one another. Of GPUs it is assumed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Team:
    """So many processes, each with a share of the work, on so many devices of this machine."""

    processes: int = 1
    devices: int = 1

    @property
    def on_one(self) -> int:
        """Processes on the device that has most of them."""
        return -(-self.processes // self.devices)

    def share(self, number: int) -> int:
        """Of so many that are dealt, those of the busiest process.

        >>> Team(processes=3, devices=2).share(8), Team(processes=3, devices=2).on_one
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

    def memory(self, each: tuple[float, float]) -> tuple[float, float]:
        """Of one device, of what each process takes: every process holds the model."""
        return each[0] * self.on_one, each[1] * self.on_one


def team_of(settings: Settings, rates: Rates) -> Team:
    """The processes that `refine train` starts on this machine."""
    processes = settings.engine.processes
    return Team(processes=processes, devices=min(rates.devices, processes))


def idle(team: Team, prompts: int | None) -> list[str]:
    """A word about processes that find nothing to do where a step has so many prompts (None: it has none)."""
    if prompts is None or prompts >= team.processes:
        return []
    return [
        f"A step has {prompts} groups (grpo.prompts_per_step), and a group is never divided: "
        f"{team.processes - prompts} of the {team.processes} processes have nothing to do."
    ]


def work_of(settings: Settings, size: Size, rates: Rates, counts: Counts, team: Team) -> Work:
    """Of GRPO: a step and all evaluations take as long as the busiest process needs."""
    grpo, judge = settings.grpo, settings.judge
    some = replace(
        counts,
        train=team.share(counts.train),
        validation=team.share(counts.validation),
        held_out=team.share(counts.held_out),
    )
    own = settings.model_copy(
        update={
            "grpo": grpo.model_copy(update={"prompts_per_step": team.share(grpo.prompts_per_step)}),
            "judge": judge.model_copy(update={"anchor_prompts": team.share(judge.anchor_prompts)}),
        }
    )
    each = estimate(own, size, team.rates(rates), some)
    written = disk(settings.model, grpo, settings.rollout, size, counts)
    return replace(each, memory=team.memory(each.memory), disk=written)


def supervised_of(
    settings: Settings, sft: SFTSettings, rows: Rows, size: Size, rates: Rates, team: Team
) -> Supervised:
    """Of supervised fine-tuning: rows are dealt by their tokens."""
    own = replace(
        rows,
        tokens=team.share(rows.tokens),
        targets=team.share(rows.targets),
        looked=team.share(rows.looked),
    )
    asked = sft.model_copy(update={"examples": team.share(sft.examples)})
    each = supervised(settings, asked, own, size, team.rates(rates))
    memory = None if each.memory is None else team.memory(each.memory)
    return replace(each, rows=rows, memory=memory)
