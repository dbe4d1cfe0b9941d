"""The engine of several processes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from socket import gethostname

import torch

from refine_rl.engines.base import Loading
from refine_rl.engines.processes import crew
from refine_rl.engines.processes.hand import Hand
from refine_rl.engines.processes.learner import TeamLearner, give_weights, team_learner
from refine_rl.engines.processes.meet import cards
from refine_rl.engines.processes.orders import Forget, HoldStill, Load, Spread
from refine_rl.engines.processes.place import Place, launched
from refine_rl.engines.processes.speaker import TeamSpeaker
from refine_rl.engines.processes.team import Team
from refine_rl.errors import SettingsError, UserError
from refine_rl.policy.load import DTYPES, choose_device, choose_dtype
from refine_rl.policy.policy import Policy
from refine_rl.settings import EngineSettings, ModelSettings
from refine_rl.training import checkpoint
from refine_rl.training.learner import LearnerConfig
from refine_rl.types import count_of

_MODELS = itertools.count(1)
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(eq=False)
class ProcessesEngine:
    """A copy of the model in each process; they answer and learn together."""

    policy: Policy
    hand: Hand
    team: Team
    number: int
    closed: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        place = self.team.place
        hosts = len({*self.team.hosts.values(), gethostname()})
        threads = torch.get_num_threads()
        shares = f", {count_of(threads, 'thread')} each" if self.policy.device.type == "cpu" else ""
        spread = "; each has a part of the frozen weights" if self.hand.lockstep else ""
        where = count_of(hosts, "machine")
        return (f"{place.size} processes on {where} answer and learn together{shares}{spread}",)

    @cached_property
    def speaker(self) -> TeamSpeaker:
        return TeamSpeaker(policy=self.policy, hand=self.hand, team=self.team, number=self.number)

    def hold_still(self, longest: int) -> bool:
        order = HoldStill(model=self.number, longest=longest)
        return bool(self.team.all(order, lambda: self.policy.hold_still(longest))[0])

    def learner(self, config: LearnerConfig) -> TeamLearner:
        return team_learner(self.speaker, config)

    def take(self, folder: Path) -> None:
        checkpoint.load(folder, self.policy)
        give_weights(self.team, self.hand, self.number, states=False)

    def close(self) -> None:
        """The others forget the model; those that this process started end with the last one."""
        if self.closed:
            return
        self.closed = True
        self.team.tell(Forget(model=self.number))
        crew.release()


def place_of(settings: EngineSettings) -> Place | None:
    """Where this process stands: None where it is alone. Raises UserError where the settings and a launcher
    do not want the same."""
    place = launched()
    if place is None:
        if settings.kind == "processes" and settings.processes == 1:
            raise SettingsError(
                'engine.kind = "processes" and nobody says how many: set engine.processes = 2, or start the '
                "run with torchrun or accelerate launch."
            )
        if settings.processes == 1 and settings.shard:
            raise SettingsError(
                "engine.shard = true spreads a model over several processes: set engine.processes, or start "
                "the run with torchrun or accelerate launch."
            )
        if settings.processes == 1:
            return None
        return Place(rank=0, size=settings.processes, local_rank=0, local_size=settings.processes)
    if settings.kind not in ("auto", "processes"):
        raise UserError(
            f"A launcher started {place.size} processes, and engine.kind = {settings.kind!r} is for one. Use "
            'engine.kind = "processes", or start the run without a launcher.'
        )
    if settings.processes not in (1, place.size):
        raise UserError(
            f"engine.processes = {settings.processes}, and a launcher started {place.size}. Leave "
            "engine.processes out, or start as many."
        )
    return place


def require_devices(place: Place, model: ModelSettings) -> None:
    """Raises UserError where the processes of this machine cannot have a device each."""
    if model.device not in ("auto", "cpu") and ":" in model.device:
        raise UserError(
            f"model.device = {model.device!r} is one device, and each of {place.size} processes needs its "
            'own: use model.device = "cuda" (process n takes GPU n of its machine) or "auto".'
        )
    if choose_device(model.device).type == "cuda" and not cards(place):
        raise UserError(
            f"{place.local_size} processes on this machine need as many GPUs, and it has "
            f"{torch.cuda.device_count()}. Use fewer processes (engine.processes), or "
            'model.device = "cpu".'
        )


def processes_engine(settings: EngineSettings, place: Place, loading: Loading) -> ProcessesEngine:
    """The model in every process. Raises what loading it raises, and MachineError where the others do not
    come."""
    require_devices(place, loading.model)
    team = crew.acquire(place.size, settings.timeout)
    try:
        spread = choose_device(loading.model.device).type if settings.shard else None
        if spread is not None:
            loading = _on_processor(loading, torch.device(spread))
        policy = loading.policy()  # the first one alone: what is downloaded is there for the others
        hand = Hand(place=team.place, policy=policy)
        number = next(_MODELS)
        _load(team, hand, number, loading, spread)
    except BaseException:
        crew.release()
        raise
    return ProcessesEngine(policy=policy, hand=hand, team=team, number=number)


def _on_processor(loading: Loading, device: torch.device) -> Loading:
    """The same model where there is room for the whole of it, in the number format of the device."""
    dtype = choose_dtype(loading.model.dtype, device, lambda: torch.float32)
    chosen = {"device": "cpu", "dtype": _NAMES[dtype]}
    return replace(loading, model=loading.model.model_copy(update=chosen))


def _load(team: Team, hand: Hand, number: int, loading: Loading, spread: str | None) -> None:
    """The same model in all the others, in the number format and on the kind of device that was chosen
    here."""
    chosen = {"dtype": _NAMES[hand.policy.compute_dtype], "device": hand.policy.device.type}
    same = replace(loading, model=loading.model.model_copy(update=chosen))
    sums = team.all(Load(model=number, loading=same), lambda: hand.policy.check_sum(whole=True))
    for rank, found in sums.items():
        if found != sums[0]:
            raise UserError(
                f"The model of process {rank} (on {team.hosts[rank]}) has other weights than that of the "
                f"first one: {loading.model.called} must be the same on every machine."
            )
    if spread is not None:  # once all have it: who waits in a collective does not hear of one that refuses
        device = spread
        team.all(Spread(model=number, device=device), lambda: hand.spread(device))
