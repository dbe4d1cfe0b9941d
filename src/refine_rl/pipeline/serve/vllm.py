"""A vLLM server of our own that answers in the policy's place: its own process, on the loopback, with the
tuned adapter upon the base. What it is asked is what `asked.py` read, with the tokens that end the policy's
answers, and its replies go through as they are."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from refine_rl.engines.vllm.start import start_command
from refine_rl.errors import MachineError, UserError
from refine_rl.foreign.parent import bound
from refine_rl.pipeline.export import export_model
from refine_rl.pipeline.serve.asked import Asked, Refused
from refine_rl.pipeline.serve.own import Sent
from refine_rl.pipeline.weights import Weights
from refine_rl.policy.origin import find_origin
from refine_rl.run import RunFolder
from refine_rl.settings import Settings

PATIENCE = 900.0
"""Seconds in which a server must have begun to answer; it loads the model, and compiles."""
_LOOK = 0.5
_LONGEST = 400  # signs of an error of its log


def why_not_vllm(settings: Settings, *, wanted: bool) -> str:
    """Why vLLM does not serve a run; "" where it can. Unless it is `wanted`, also that no GPU is there."""
    import torch

    if settings.model.adapter != "lora":
        adapter = settings.model.adapter
        return (
            f'model.adapter = "{adapter}": vLLM serves base and tuned as one model and a LoRA adapter of it.'
        )
    if settings.sft is not None or settings.model.start:
        return "the run began with fine-tuned weights, and the model before training is no model of the hub."
    if find_origin(settings.model.source).adapter is not None:
        return f"{settings.model.called} is an adapter itself."
    if _encoder_decoder(find_origin(settings.model.source).base):
        return f"{settings.model.called} is an encoder-decoder."
    if executable() is None:
        return "there is no vLLM beside this Python or on the PATH."
    if not wanted and not torch.cuda.is_available():
        return "there is no GPU."
    return ""


def executable() -> str | None:
    """The command `vllm`, of this environment or on the PATH."""
    beside = Path(sys.executable).with_name("vllm")
    return str(beside) if beside.is_file() else shutil.which("vllm")


def start_vllm(folder: RunFolder, settings: Settings, weights: Weights, note: Callable[[str], None]) -> Vllm:
    """The server, answering. Raises UserError where it ends at once, MachineError where it never answers."""
    temporary = tempfile.TemporaryDirectory(prefix="refine-serve-")
    try:
        place = Path(temporary.name)
        export_model(folder, place / "tuned", weights=weights, check=False)
        command = _command(settings, place / "tuned", _free_port())
        note("Starting vLLM, which loads the model (its log: " + str(place / "log") + ")")
        with (place / "log").open("w") as log:
            child = subprocess.Popen(bound(command), stdout=log, stderr=log, start_new_session=True)
        server = Vllm(child, int(command[command.index("--port") + 1]), _stop_ids(place / "tuned"), temporary)
    except BaseException:
        temporary.cleanup()
        raise
    try:
        _until_it_answers(child, server.port, place / "log")
    except BaseException:
        server.close()
        raise
    return server


class Vllm:
    """A running server. `stop_ids` end an answer, beside the model's own."""

    def __init__(
        self, child: subprocess.Popen[bytes], port: int, stop_ids: list[int], temporary: Any
    ) -> None:
        self.port = port
        self._child, self._stop_ids, self._temporary = child, stop_ids, temporary

    def chat(self, asked: Asked, still_there: Callable[[], bool]) -> Sent:
        """The reply as it came. Raises Refused where the server is gone."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        try:
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps(_body(asked, self._stop_ids)).encode(),
                {"Content-Type": "application/json"},
            )
            while not select.select([connection.sock], [], [], _LOOK)[0]:
                if not still_there():
                    raise ConnectionAbortedError("whoever asked is gone")  # closed below: vLLM stops as well
            reply = connection.getresponse()
        except (ConnectionAbortedError, BrokenPipeError):
            connection.close()
            raise
        except OSError as error:
            connection.close()
            raise Refused(
                503, f"vLLM does not answer any more ({error}); refine serve starts it anew."
            ) from None
        return Sent(asked.stream and reply.status == 200, _through(connection, reply), reply.status)

    def close(self) -> None:
        """Ends the server and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGTERM)
        try:
            self._child.wait(20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        self._temporary.cleanup()


def _through(connection: http.client.HTTPConnection, reply: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while part := reply.read1(1 << 16):
            yield part
    finally:
        connection.close()


def _body(asked: Asked, stop_ids: list[int]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": "base" if asked.base else "tuned",
        "messages": list(asked.messages),
        "max_tokens": asked.max_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k or -1,
        "seed": asked.seed,
        "n": asked.n,
        "stream": asked.stream,
        "logprobs": asked.logprobs,
        "stop_token_ids": stop_ids,
    }
    if asked.stop:
        body["stop"] = list(asked.stop)
    if asked.stream and asked.usage:
        body["stream_options"] = {"include_usage": True}
    return body


def _command(settings: Settings, adapter: Path, port: int) -> list[str]:
    rank = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    written = start_command(
        find_origin(settings.model.source).base,
        rank=rank,
        dtype=settings.model.dtype,
        base_url=f"http://127.0.0.1:{port}/v1",
        temperature=1.0,
    )
    _, _, *words = shlex.split(written)  # adapters that come later are not wanted
    found = executable()
    assert found is not None
    words += ["--served-model-name", "base", "--tokenizer", str(adapter)]
    return [found, *words, "--lora-modules", f"tuned={adapter}"]


def _stop_ids(adapter: Path) -> list[int]:
    config = json.loads((adapter / "generation_config.json").read_text(encoding="utf-8"))
    return [int(i) for i in config["eos_token_id"]]


def _encoder_decoder(source: str) -> bool:
    from refine_rl.policy.fetch import fetch_config, is_encoder_decoder

    return is_encoder_decoder(fetch_config(source, source))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _until_it_answers(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        if child.poll() is not None:
            raise UserError(
                f"--with vllm: it ended while it started (exit {child.returncode}). {_why(log)}\n"
                "--with own serves the run with its own sampler."
            )
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError):
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        connection.close()
        if time.monotonic() > deadline:
            raise MachineError(f"--with vllm: no answer after {PATIENCE:.0f} s. {_why(log)}")
        time.sleep(_LOOK)


def _why(log: Path) -> str:
    """The first error that a log names, and where the log is kept."""
    kept = Path(tempfile.gettempdir()) / f"refine-serve-vllm-{os.getpid()}.log"
    shutil.copyfile(log, kept)
    errors = re.findall(r"\w*(?:Error|Exception): .+", log.read_text(encoding="utf-8", errors="replace"))
    return f"{errors[0][:_LONGEST] if errors else 'It names no error.'} (its log: {kept})"
