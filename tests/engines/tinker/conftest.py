"""A service with a small model, and engines at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from refine_rl.engines.base import Loading
from refine_rl.engines.tinker.engine import TinkerEngine, tinker_engine
from refine_rl.settings import EngineSettings, ModelSettings
from refine_rl.training.learner import LearnerConfig
from tinker_server import KEY, TinkerServer

CONFIG = LearnerConfig(tokens=4096)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", KEY)


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Path]) -> Path:
    return make_model("qwen3", tie_word_embeddings=True)


@pytest.fixture
def engines(tinker_server: Callable[..., Any]) -> Iterator[Callable[..., TinkerEngine]]:
    """engines(server, model, config=..., ledger=..., **settings) -> an engine, closed in the end: before the
    servers are, or it would wait for them."""
    yield from _closing()


@pytest.fixture(scope="module")
def steady(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinkerServer]:
    """A service that nothing happens to."""
    server = TinkerServer(model, store=tmp_path_factory.mktemp("store"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def steady_engines(steady: TinkerServer) -> Iterator[Callable[..., TinkerEngine]]:
    """`engines` at `steady`, for a whole module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_API_KEY", KEY)  # before a test's own is there, and gone with the module
        yield from _closing()


def _closing() -> Iterator[Callable[..., TinkerEngine]]:
    made: list[TinkerEngine] = []

    def make(
        server: Any,
        model: Path,
        *,
        config: LearnerConfig = CONFIG,
        rank: int = 4,
        ledger: Any = None,
        **settings: Any,
    ) -> TinkerEngine:
        loading = Loading(
            model=ModelSettings(name=str(model), rank=rank),
            seed=0,
            adapter_from=None,
            keep_reference=False,
            moment=datetime(2026, 1, 1),
        )
        wanted = EngineSettings(kind="tinker", base_url=server.url, model=server.manners.name, **settings)
        made.append(tinker_engine(wanted, loading, config, ledger))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
