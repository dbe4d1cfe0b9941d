"""A server for the tests of this folder, and a quick pace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from refine_rl.engines.vllm import server as servers
from vllm_server import VllmServer


@pytest.fixture(scope="package", autouse=True)
def _quick() -> Iterator[None]:
    """A call that fails is repeated twice, at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(servers, "PACE", servers.Pace(retries=2, base=0.01))
        yield


@pytest.fixture
def serve() -> Iterator[Callable[..., VllmServer]]:
    """serve(folder, fault=...) -> a running server; see vllm_server.py."""
    running: list[VllmServer] = []

    def start(*where: Any, **how: Any) -> VllmServer:
        running.append(VllmServer(*where, **how))
        return running[-1]

    yield start
    for server in running:
        server.stop()
