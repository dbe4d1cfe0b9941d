"""What a run's settings do not say: where they came from, and what was installed."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from refine_rl.settings import Settings

_PACKAGES = ("refine-rl", "torch", "transformers", "peft", "accelerate", "safetensors", "numpy")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def versions_now() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def where_from(settings: Settings, python_rewards: Sequence[str]) -> dict[str, Any]:
    """What the settings themselves do not say: where they came from, and what the reward's files held."""
    return {
        "folder": str(settings.folder.resolve()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python_rewards": list(python_rewards),
        "reward_files": reward_files(settings),
    }


def reward_files(settings: Settings) -> dict[str, str]:
    """SHA-256 of each file that a reward function of the settings, or the rubric, comes from."""
    specs = [f if isinstance(f, str) else f.function for f in settings.reward.functions]
    if settings.reward.steps is not None:
        specs.append(settings.reward.steps.function)
    files = {spec.rpartition(":")[0] for spec in specs}
    if settings.reward.rubric.startswith("file:"):
        files.add(settings.reward.rubric.removeprefix("file:"))
    return {
        file: sha256((settings.folder / file).read_bytes())
        for file in sorted(files)
        if (settings.folder / file).is_file()
    }
