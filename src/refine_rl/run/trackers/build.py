"""Which trackers there are, and whether they can be used here."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec

from refine_rl.errors import SettingsError
from refine_rl.run.folder import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.run.trackers.base import Tracker
from refine_rl.run.trackers.courier import Courier
from refine_rl.run.trackers.known import Knowledge
from refine_rl.run.trackers.source import Source
from refine_rl.run.trackers.tracking import Tracking
from refine_rl.settings import Settings, TrackSettings


def require_trackers(track: TrackSettings) -> None:
    """Raises SettingsError where a package that a tracker needs is not installed."""
    for name in track.to:
        missing = [package for package in _packages(name) if find_spec(package) is None]
        if missing:
            raise SettingsError(
                f'`track.to`: "{name}" needs {" and ".join(missing)}: pip install "refine-rl[{name}]"; or '
                "leave it out"
            )


def _packages(name: str) -> list[str]:
    if name != "mlflow":
        return [name]
    address = os.environ.get("MLFLOW_TRACKING_URI", "sqlite:")
    return ["mlflow", *(["sqlalchemy"] if address.startswith("sqlite:") else [])]


def tracking_of(
    folder: RunFolder, settings: Settings, journal: Journal, *, part_of: str = ""
) -> Tracking | None:
    """The listener that shows the run elsewhere, as the settings say; None where they name no tracker.
    `part_of` is the name of the run whose fine-tuning this one is."""
    if not settings.track.to:
        return None
    source, knowledge = Source(folder, settings, part_of=part_of), Knowledge(folder.path)
    couriers = [Courier(name, _MAKE[name], source, knowledge) for name in settings.track.to]
    return Tracking(couriers, journal)


def _trackio() -> Tracker:
    from refine_rl.run.trackers.trackio import Trackio

    return Trackio()


def _wandb() -> Tracker:
    from refine_rl.run.trackers.wandb import Wandb

    return Wandb()


def _tensorboard() -> Tracker:
    from refine_rl.run.trackers.tensorboard import TensorBoard

    return TensorBoard()


def _mlflow() -> Tracker:
    from refine_rl.run.trackers.mlflow import MLflow

    return MLflow()


_MAKE: dict[str, Callable[[], Tracker]] = {
    "trackio": _trackio,
    "wandb": _wandb,
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
}
