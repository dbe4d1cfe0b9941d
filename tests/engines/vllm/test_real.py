"""A run sampled by vLLM itself. It wants an environment of its own, so this is for whoever has one:

REFINE_VLLM=/path/to/its/bin/vllm pytest -m slow tests/engines/vllm/test_real.py
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from refine_rl.run import RunFolder

Refine = Callable[..., Any]
VLLM = os.environ.get("REFINE_VLLM", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not VLLM, reason="REFINE_VLLM does not name a vllm"),
    pytest.mark.usefixtures("no_plots"),
]
RUN = (
    *("train", "--recipe", "dots", "--run", "run", "--set", "model.dtype=float32", "--set", "grpo.steps=3"),
    *("--set", "model.device=cpu", "--set", "engine.kind=vllm"),
)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str, int], None]]:
    """start(command, port): runs a command that was printed, as it stands, until the server answers."""
    children: list[subprocess.Popen[bytes]] = []

    def begin(command: str, port: int) -> None:
        path = f"{Path(VLLM).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        environment.pop("PYTHONPATH", None)
        log = tmp_path / "log"
        with log.open("w") as out:
            children.append(
                subprocess.Popen(["sh", "-c", f"exec env {command}"], stdout=out, stderr=out, env=environment)
            )
        deadline = time.monotonic() + 280
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                return
            except OSError:
                assert children[-1].poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)

    yield begin
    for child in children:
        child.terminate()
        child.wait()


def test_vllm_itself(refine: Refine, port: int, start: Callable[[str, int], None]) -> None:
    address = ("--set", f"engine.base_url=http://127.0.0.1:{port}/v1")
    nobody = refine(*RUN, *address)
    assert nobody.code == 4
    (command,) = re.findall(r"(?m)^(VLLM_.*)$", nobody.err)
    start(command, port)
    (go_on,) = re.findall(r"Go on with: refine (.*)", nobody.err)
    done = refine(*go_on.split())
    assert done.code == 0, done.err
    metrics = RunFolder.open(Path("run")).metrics()
    assert [m["step"] for m in metrics] == [1, 2, 3]
    assert all(m["mismatch_mean"] < 1e-4 for m in metrics)
    assert refine("replay", "run", "--step", "3").code == 0
