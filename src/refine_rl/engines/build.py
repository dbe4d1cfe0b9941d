"""The door: [engine] is read here, and nowhere else in this room."""

from __future__ import annotations

from refine_rl.engines.base import Engine, Loading
from refine_rl.engines.local import LocalEngine
from refine_rl.engines.processes.engine import place_of, processes_engine, require_devices
from refine_rl.settings import EngineSettings, ModelSettings
from refine_rl.training.learner import LearnerConfig


def engine_of(settings: EngineSettings, loading: Loading, config: LearnerConfig) -> Engine:
    """The engine that the settings ask for, with its model loaded; `config` is the learner's that it will be
    asked for. Raises UserError where the model cannot be had, MachineError where whoever is to compute with
    it cannot be reached."""
    if (place := place_of(settings)) is not None:
        return processes_engine(settings, place, loading)
    return LocalEngine(loading.policy())


def require_engine(settings: EngineSettings, model: ModelSettings) -> None:
    """Raises UserError where the engine cannot do what the settings ask for, as far as can be told before
    anything is asked of anybody."""
    if (place := place_of(settings)) is not None:
        require_devices(place, model)
