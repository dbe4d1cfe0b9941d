"""A server in vLLM's place: how it is started, what it is asked, what goes through, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from refine_rl.errors import UserError
from refine_rl.pipeline.serve import vllm
from refine_rl.pipeline.serve.asked import Names, Refused, read_asked
from refine_rl.policy.load import load_policy
from refine_rl.run import RunFolder
from refine_rl.settings import ModelSettings, Settings
from refine_rl.settings.file import load_settings

from make import task_toml  # isort: skip

MakeModel = Callable[..., Path]
NAMES = Names(base=("base", "some/model"), max_tokens=12)
STAND_IN = '''#!{python} -SE
"""Says its arguments and what it is asked, as vLLM would listen for it."""
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
words = sys.argv[1:]
if {broken}:
    sys.exit("a line\\nValueError: no room for the model")
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        bad = body["max_tokens"] == 99
        self.send_response(400 if bad else 200)
        self.end_headers()
        if body["stream"] and not bad:
            self.wfile.write(b"data: 1\\n\\n")
            self.wfile.flush()
            self.wfile.write(b"data: [DONE]\\n\\n")
        else:
            self.wfile.write(json.dumps({{"words": words, "body": body}}).encode())
HTTPServer(("127.0.0.1", int(words[words.index("--port") + 1])), Handler).serve_forever()
'''


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    def make(*, broken: bool = False) -> Path:
        file = tmp_path / "vllm"
        file.write_text(STAND_IN.format(python=sys.executable, broken=broken))
        file.chmod(0o755)
        monkeypatch.setattr(vllm, "executable", lambda: str(file))
        monkeypatch.setattr(vllm, "_LOOK", 0.02)
        return file

    return make


@pytest.fixture(scope="module")
def settings(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    file = tmp_path_factory.mktemp("task") / "task.toml"
    file.write_text(task_toml(make_model("llama")).replace("model = {", "model = {rank = 4, "))
    return load_settings(file)


@pytest.fixture
def folder(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run whose model is exported as any is: an adapter, and the tokens that end its answers."""

    def export(folder: object, out: Path, *, weights: object, check: bool) -> float:
        assert not check  # the server is asked itself, over HTTP
        model = ModelSettings(name=settings.model.name, rank=12, dtype="float32")
        load_policy(model).save(out)
        return 0.0

    monkeypatch.setattr(vllm, "export_model", export)
    return SimpleNamespace()  # type: ignore[return-value]


def asked(**change: Any) -> Any:
    return read_asked(
        {"model": "tuned", "messages": [{"role": "user", "content": "hi"}], "seed": 3, **change}, NAMES
    )


def test_it_is_started_asked_and_ended(
    stand_in: Callable[..., Path], settings: Settings, folder: RunFolder
) -> None:
    stand_in()
    notes: list[str] = []
    server = vllm.start_vllm(folder, settings, None, notes.append)  # type: ignore[arg-type]
    try:
        sent = server.chat(asked(model="some/model", stop="x", top_p=0.5), lambda: True)
        told = json.loads(b"".join(sent.parts))
        assert (sent.status, sent.stream) == (200, False)
        body, words = told["body"], told["words"]
        assert body["model"] == "base"
        assert body["stop"] == ["x"]
        assert {body[name] for name in ("seed", "max_tokens")} == {3, 12}
        assert (body["top_p"], body["top_k"], body["temperature"]) == (0.5, -1, 1.0)
        assert body["stop_token_ids"] == [0]  # <|end|>
        assert words[:2] == ["serve", settings.model.name]
        place = {word: n for n, word in enumerate(words)}
        assert words[place["--max-lora-rank"] + 1] == "16"
        assert words[place["--served-model-name"] + 1] == "base"
        adapter = words[place["--lora-modules"] + 1].removeprefix("tuned=")
        assert words[place["--tokenizer"] + 1] == adapter
        assert (Path(adapter) / "adapter_model.safetensors").is_file()
        streamed = server.chat(asked(stream=True), lambda: True)
        assert streamed.stream
        assert b"".join(streamed.parts) == b"data: 1\n\ndata: [DONE]\n\n"
        refused = server.chat(asked(stream=True, max_tokens=99), lambda: True)
        assert (refused.status, refused.stream) == (400, False)
    finally:
        server.close()
    assert server._child.returncode is not None
    assert not Path(adapter).exists()
    assert "log" in notes[0]
    with pytest.raises(Refused, match="vLLM does not answer any more"):
        server.chat(asked(), lambda: True)


def test_one_that_ends_at_once_is_told_with_its_reason(
    stand_in: Callable[..., Path], settings: Settings, folder: RunFolder
) -> None:
    stand_in(broken=True)
    with pytest.raises(
        UserError, match=r"exit 1\)\. ValueError: no room for the model \(its log: .*\.log\)"
    ) as error:
        vllm.start_vllm(folder, settings, None, lambda text: None)  # type: ignore[arg-type]
    kept = Path(str(error.value).partition("its log: ")[2].partition(")")[0])
    assert "a line" in kept.read_text()
    kept.unlink()


def test_who_leaves_while_it_computes(stand_in: Callable[..., Path]) -> None:
    stand_in()
    child = subprocess.Popen([sys.executable, "-SEc", "import time; time.sleep(60)"])
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        server = vllm.Vllm(child, silent.getsockname()[1], [1], SimpleNamespace(cleanup=lambda: None))
        with pytest.raises(ConnectionAbortedError):
            server.chat(asked(), lambda: False)
    child.kill()
    child.wait()
