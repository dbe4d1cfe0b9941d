"""The door: [engine] is read here, and nowhere else in this room."""

from __future__ import annotations

from refine_rl.engines.base import Engine, Loading
from refine_rl.engines.local import LocalEngine
from refine_rl.settings import EngineSettings


def engine_of(settings: EngineSettings, loading: Loading) -> Engine:
    """The engine that the settings ask for, with its model loaded. Raises UserError where the model cannot
    be had, or whoever is to compute with it cannot be reached."""
    return LocalEngine(loading.policy())
