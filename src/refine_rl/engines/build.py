"""The door: [engine] is read here, and nowhere else in this room."""

from __future__ import annotations

from refine_rl.engines.base import Engine, Loading
from refine_rl.engines.local import LocalEngine
from refine_rl.engines.processes.engine import place_of, processes_engine, require_devices
from refine_rl.engines.tinker.engine import require_service, tinker_engine
from refine_rl.engines.vllm.engine import require_server, vllm_engine
from refine_rl.llm.ledger import Ledger
from refine_rl.settings import EngineSettings, ModelSettings
from refine_rl.training.learner import LearnerConfig


def require_engine(settings: EngineSettings, model: ModelSettings, *, samples: bool = True) -> None:
    """Raises UserError where the engine cannot be had with these settings, MachineError where whoever is to
    compute cannot be reached: as far as that can be told before anything is loaded or paid for. `samples`:
    whether anything is to be answered."""
    if settings.kind == "tinker":
        require_service(settings, model)
    if settings.kind == "vllm" and samples:
        require_server(settings, model)
    if (place := place_of(settings)) is not None:
        require_devices(place, model)


def engine_of(
    settings: EngineSettings, loading: Loading, config: LearnerConfig, ledger: Ledger | None = None
) -> Engine:
    """The engine that the settings ask for, with its model loaded; `config` is the learner's that it will be
    asked for, and `ledger` gets what a service's calls cost. Raises UserError where the model cannot be had,
    MachineError where whoever is to compute with it cannot be reached."""
    if settings.kind == "tinker":
        return tinker_engine(settings, loading, config, ledger)
    if settings.kind == "vllm":
        return vllm_engine(settings, loading, config)
    if (place := place_of(settings)) is not None:
        return processes_engine(settings, place, loading)
    return LocalEngine(loading.policy())
