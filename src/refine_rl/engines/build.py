"""The door: [engine] is read here, and nowhere else in this room."""

from __future__ import annotations

from refine_rl.engines.base import Engine, Loading
from refine_rl.engines.local import LocalEngine
from refine_rl.settings import EngineSettings
from refine_rl.training.learner import LearnerConfig


def engine_of(settings: EngineSettings, loading: Loading, config: LearnerConfig) -> Engine:
    """The engine that the settings ask for, with its model loaded; `config` is the learner's that it will be
    asked for. Raises UserError where the model cannot be had, MachineError where whoever is to compute with
    it cannot be reached."""
    return LocalEngine(loading.policy())
