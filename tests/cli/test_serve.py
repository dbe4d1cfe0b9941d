"""refine serve, on a finished run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.cli.serve import _check, _greet
from refine_rl.pipeline.serve.opened import Serving, greedy_on_record, serving
from refine_rl.pipeline.serve.vllm import why_not_vllm
from refine_rl.pipeline.weights import choose_weights
from refine_rl.run import RunFolder
from refine_rl.settings.file import override

Refine = Callable[..., Any]
Trained = tuple[Path, Any]


def test_what_is_printed_works_and_the_answers_are_the_runs(
    trained: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = RunFolder.open(Path(shutil.copytree(trained[0], tmp_path / "run")))
    weights = choose_weights(folder)
    assert greedy_on_record(folder, weights)
    with serving(folder, weights, host="127.0.0.1", port=0) as served:
        assert served.names.all == ("tuned", "base", folder.settings().model.name)
        assert served.check() == (2, [])
        python: dict[str, Any] = {}
        exec(served.python(), python)  # noqa: S102
        said = capsys.readouterr().out.strip()
        wanted = next(
            o for o in folder.outcomes("tuned") or [] if o.prompt.messages[-1]["content"] == served.example
        )
        assert said == wanted.greedy[0].completion.strip()
        if shutil.which("curl"):
            done = subprocess.run(served.curl(), shell=True, capture_output=True, check=True)
            assert json.loads(done.stdout)["choices"][0]["message"]["content"].strip() == said
        _greedy_is_noticed(folder, served, capsys)


def _greedy_is_noticed(folder: RunFolder, served: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    """An answer on record that is another one."""
    file = folder.answers("base").path
    lines = file.read_text().splitlines()
    first = json.loads(lines[0])
    first["greedy"]["messages"][-1]["content"] = "something else"
    file.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    asked, (found,) = served.check()
    assert (asked, found.model, found.recorded) == (2, "base", "something else")
    _check(served, "")
    assert '"base" answers' in " ".join(capsys.readouterr().err.split())


def test_with_a_key_the_python_lines_name_the_variable(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVE_KEY", "s3cret")
    folder = RunFolder.open(trained[0])
    with serving(folder, choose_weights(folder), host="127.0.0.1", port=0, key_env="SERVE_KEY") as served:
        assert served.check("s3cret") == (2, [])
        assert "s3cret" not in served.python() + served.curl()
        assert 'os.environ["SERVE_KEY"]' in served.python()
        assert "$SERVE_KEY" in served.curl()


def test_mistakes_cost_nothing(refine: Refine, trained: Trained) -> None:
    run = trained[0]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, said in (
            (("--port", port), f"--port {port}: it is taken. Name another one, or --port 0"),
            (("--with", "magic"), "--with magic: it is auto, own or vllm"),
            (("--with", "vllm", "--port", "0"), "--with vllm: there is no vLLM beside this Python"),
            (("--key-env", "NOBODY_SET_IT"), "--key-env NOBODY_SET_IT: this variable is not set"),
            (("--system", "x", "--no-system"), "--system and --no-system: one of them"),
            (("--host", "no.such.address.invalid"), "there is no such address"),
            (("--checkpoint", "77"), "--checkpoint 77: there is none"),
        ):
            done = refine("serve", run, *arguments)
            assert done.code == 2
            assert said in " ".join(done.err.split())
            assert "Loading" not in done.err


def test_why_a_run_is_not_vllms(trained: Trained) -> None:
    settings = RunFolder.open(trained[0]).settings()
    assert "there is no vLLM" in why_not_vllm(settings, wanted=True)
    whole = override(settings, ["model.adapter=none"])
    assert 'model.adapter = "none"' in why_not_vllm(whole, wanted=True)


def test_ctrl_c_ends_it_well(refine: Refine, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    greeted = threading.Event()
    addresses: list[str] = []
    names: list[str] = []

    def greet(served: Serving, host: str, world: bool) -> None:
        _greet(served, host, world)
        addresses.append(served.address)
        greeted.set()

    def ask_and_stop() -> None:
        assert greeted.wait(250)
        with urllib.request.urlopen(f"{addresses[0]}/models", timeout=60) as reply:
            names.extend(m["id"] for m in json.load(reply)["data"])
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("refine_rl.cli.serve._greet", greet)
    asking = threading.Thread(target=ask_and_stop)
    asking.start()
    done = refine("serve", trained[0], "--port", "0", "--no-check", "--system", "Be kind.")
    asking.join()
    assert (done.code, names[:2]) == (0, ["tuned", "base"])
    assert f"Serving {trained[0]}: {addresses[0]}" in " ".join(done.out.split())
    assert "System message: 'Be kind.' goes before messages that have none" in " ".join(done.err.split())
    assert "is no longer served" in done.err
