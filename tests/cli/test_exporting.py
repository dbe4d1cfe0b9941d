"""refine export in its forms, from the command line and from Python; what is said, and where it ends."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import refine_rl
from refine_rl.errors import MachineError
from refine_rl.policy.policy import Policy

Refine = Callable[..., Any]
Trained = tuple[Path, Any]
STAND_IN = Path(__file__).parents[1] / "export"


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "Where to? --out FOLDER, --gguf FILE, --ollama NAME or --hub OWNER/NAME"),
        (["--gguf", "a", "--hub", "b/c"], "--gguf and --hub: one at a time"),
        (["--gguf", "a", "--merged"], "--gguf merges the adapter anyway"),
        (["--gguf", "a", "--out", "b"], "leave --out out"),
        (["--gguf", "a", "--outtype", "q4"], "--outtype q4: it is one of f32, f16, bf16, q8_0"),
        (["--out", "a", "--outtype", "f32"], "--outtype goes with --gguf or --ollama"),
        (["--out", "a", "--private"], "--private goes with --hub"),
        (["--ollama", "a b"], "a name is letters"),
        (["--hub", "ab"], "--hub ab: say whose it is, OWNER/ab."),
        (["--hub", "me/x"], "names its base model by a folder of this machine"),
        (["--hub", "me/x", "--merged"], "HF_HUB_OFFLINE=1"),
    ],
)
def test_what_cannot_be(refine: Refine, run: Path, flags: list[str], said: str) -> None:
    done = refine("export", run, *flags, *(["--llama-cpp", str(STAND_IN)] if "a b" in flags else []))
    assert done.code == 2
    assert said in words(done.err)
    assert {p.name for p in Path.cwd().iterdir()} == {"run"}


def test_each_finding_is_a_line(refine: Refine, run: Path) -> None:
    done = refine("export", run, "--out", "out", "--merged")
    assert (done.code, done.out) == (0, "out\n")
    lines = [line.strip() for line in done.err.splitlines()]
    assert [line.partition(":")[0] for line in lines[1:]] == ["ends", "prompts", "head", "answers"]
    quiet = refine("export", run, "--out", "unseen", "--merged", "--no-check")
    assert (quiet.code, quiet.err) == (0, "")


def test_another_model_is_kept_aside(refine: Refine, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be written if merging forgot the adapter."""

    def forgetful(self: Policy, folder: Path, *how: object) -> float:
        with torch.no_grad():
            for p in self.trainable().values():
                p.zero_()
        return real(self, folder, *how)

    real: Callable[..., float] = Policy.save_merged
    monkeypatch.setattr(Policy, "save_merged", forgetful)
    done = refine("export", run, "--out", "out", "--merged")
    assert done.code == 4
    assert "What was written is not the tuned model: answers: " in words(done.err)
    assert "kept for a look, in out.not-the-tuned-model; there is no out" in words(done.err)
    assert {p.name for p in Path.cwd().iterdir()} == {"run", "out.not-the-tuned-model"}
    with pytest.raises(MachineError, match="not the tuned model"):
        refine_rl.export(run, "again", merged=True, observer=Told())


def test_an_adapter_is_copied_where_its_base_is_gone(
    refine: Refine, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refine_rl.errors import UserError
    from refine_rl.pipeline import export

    def gone(*anything: object) -> None:
        raise UserError("the base model is gone")

    monkeypatch.setattr(export, "open_model", gone)
    done = refine("export", run, "--out", "out")
    assert (done.code, done.out) == (0, "out\n")
    assert "copied, and not compared with the tuned model: the base model is gone" in words(done.err)
    assert refine("export", run, "--out", "whole", "--merged").code == 2


class Told:
    """Hears what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    stage = warning = note

    def step(self, *anything: object) -> None: ...


def test_gguf_from_python(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    monkeypatch.chdir(tmp_path)
    told = Told()
    file = refine_rl.export(run, gguf="mine.gguf", llama_cpp=STAND_IN, observer=told)
    assert (file, file.is_file()) == (Path("mine.gguf"), True)
    assert any(note.startswith("weights: 21 tensors of llama, equal") for note in told.notes)
    assert {p.name for p in tmp_path.iterdir()} == {"run", "mine.gguf"}


FAKE = """#!/bin/sh
echo "$@" > "$CREATED"
[ -z "$REFUSES" ] || { echo "Error: could not connect to ollama" >&2; exit 1; }
"""


class OllamaServer:
    """Answers chats with `answers` by the last message, or else with nonsense."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        ours = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                ours.asked.append(asked)
                text = ours.answers.get(asked["messages"][-1]["content"], "nonsense")
                data = json.dumps({"choices": [{"message": {"content": text}}], "usage": {}}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def ollama(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OllamaServer]:
    """An `ollama` on PATH that writes down what it is told, and the server that it stands for."""
    place, server = tmp_path_factory.mktemp("bin"), OllamaServer()
    (place / "ollama").write_text(FAKE)
    (place / "ollama").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    monkeypatch.setenv("CREATED", str(place / "created"))
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.server.server_address[1]}")
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_a_model_of_ollama(
    refine: Refine, run: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setenv("LLAMA_CPP", str(STAND_IN))
    done = refine("export", run, "--ollama", "me/mine:v1")
    assert done.code == 4
    assert "Ollama's answers: 0 of " in words(done.err)
    assert "ollama rm me/mine:v1 takes it away" in words(done.err)
    told = Path("mine-ollama/Modelfile").read_text()
    assert told.startswith('FROM ./mine.gguf\nTEMPLATE """{{ range .Messages }}')
    assert 'PARAMETER stop "<|end|>"' in told
    assert "PARAMETER num_predict 10" in told
    from refine_rl.export.witness import hear
    from refine_rl.pipeline.export import _asked
    from refine_rl.pipeline.weights import open_model
    from refine_rl.run import RunFolder

    folder = RunFolder.open(run)
    _, policy = open_model(folder)
    for said in hear(policy, _asked(folder), 10).said:
        ollama.answers[said.messages[-1]["content"]] = said.text
    done = refine("export", run, "--ollama", "mine", "--out", "third")
    assert done.code == 0, done.err
    assert "Ollama's answers: the same" in words(done.err)
    assert ollama.asked[-1]["temperature"] == 0
    monkeypatch.setenv("REFUSES", "1")
    done = refine("export", run, "--ollama", "mine", "--out", "fourth", "--no-check")
    assert done.code == 4
    assert "could not connect to ollama" in words(done.err)
    assert "The files are in fourth; to try again: cd fourth && ollama create mine -f Modelfile" in words(
        done.err
    )
    monkeypatch.setenv("PATH", "/bin")
    done = refine("export", run, "--ollama", "mine", "--out", "fifth", "--no-check")
    assert done.code == 0
    assert "ollama is not on PATH: nothing was created yet. Where it is: cd fifth && ollama create" in words(
        done.err
    )
