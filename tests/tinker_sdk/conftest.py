"""The Tinker service of the tests with a small model, for the real SDK."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tinker_server import TinkerServer


@pytest.fixture(scope="module")
def folder(make_model: Callable[..., Path]) -> Path:
    """Embeddings and head share a weight, as in small models; the head's adapter moves the head alone."""
    return make_model("qwen3", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinkerServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_TELEMETRY", "0")
        server = TinkerServer(folder, store=tmp_path_factory.mktemp("store"))
        yield server
        server.stop()
