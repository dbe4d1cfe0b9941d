"""The server itself: HTTP in, `Service` behind it, faults between them."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from tinker_server import wire
from tinker_server.lora import Base, WrongRequestError
from tinker_server.manners import Fault, Faults, Manners
from tinker_server.service import RefusedError, Service
from tinker_server.store import Store

KEY = "tml-key-of-the-tests"
API = "/api/v1/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One that came, faults or not; `body` of a forward_backward has its rows as `data`."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]


class _Http(ThreadingHTTPServer):
    request_queue_size = 128  # of five, a busy machine turns the sixth away for a second
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that resets its connection between two requests is no error; all else is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class TinkerServer:
    """Runs from its making until `stop`; see the package's docstring."""

    def __init__(self, folder: Path, *, store: Path, **manners: Any) -> None:
        self.manners = Manners(**{"name": str(folder), **manners})
        self.service = Service(Base(folder), Store(store), self.manners)
        self.requests: list[Request] = []
        self._faults = Faults()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._http = _Http(("127.0.0.1", 0), _handler(self))
        self._thread: threading.Thread | None = threading.Thread(
            target=self._http.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._clients: list[Any] = []

    def client(self, key: str = KEY) -> Any:
        """A tinker.ServiceClient of this server, closed by `stop`: it would go on sending heartbeats."""
        import tinker

        self._clients.append(tinker.ServiceClient(base_url=self.url, api_key=key))
        return self._clients[-1]

    # Faults

    def fail(
        self, path: str, *, status: int, times: int = 1, after: int = 0, text: str = "asked for"
    ) -> None:
        self._faults.add(Fault(path=path, times=times, after=after, status=status, text=text))

    def cut(
        self, path: str, *, when: Literal["before", "after"] = "before", times: int = 1, after: int = 0
    ) -> None:
        self._faults.add(Fault(path=path, times=times, after=after, cut=when))

    def break_promise(self, path: str, error: str, *, times: int = 1, after: int = 0) -> None:
        self._faults.add(Fault(path=path, times=times, after=after, error=error))

    def hold(self, path: str, until: Callable[[], Any], *, times: int = 1, after: int = 0) -> None:
        self._faults.add(Fault(path=path, times=times, after=after, hold=until))

    def vanish(self) -> None:
        """The address is nobody's from now on, and every connection ends."""
        if self._thread is None:
            return
        self._http.shutdown()
        self._thread.join()
        self._thread = None
        self._http.server_close()
        with self._lock:
            for connection in self._connections:
                _end(connection)

    def stop(self) -> None:
        for client in self._clients:
            _close(client, self._thread is not None)
        self.vanish()
        self.service.promises.stop()

    # What happened

    def asked(self, path: str) -> list[dict[str, Any]]:
        """The bodies of the requests of a path."""
        with self._lock:
            return [request.body for request in self.requests if request.path == path]

    def state(self, model_id: str) -> dict[str, Tensor]:
        """A training client's adapter, by peft's names."""
        return self.service.adapter(model_id).state()

    def gradients(self, model_id: str) -> dict[str, Tensor]:
        """What its forward_backwards have added up since the last optim_step."""
        return self.service.adapter(model_id).gradients()

    # HTTP

    def _post(self, handler: _Handler, path: str, raw: bytes) -> None:
        body = _body(path, raw, handler.headers.get("Content-Encoding", ""))
        with self._lock:
            headers = {name.lower(): value for name, value in handler.headers.items()}
            self.requests.append(Request(path=path, body=body, headers=headers))
        try:
            self._carry_out(handler, path, body)
        except RefusedError as error:
            if 400 <= error.status < 500 and error.status not in (408, 409, 429):  # it will not come again
                self.service.skip(body)
            raise

    def _carry_out(self, handler: _Handler, path: str, body: dict[str, Any]) -> None:
        fault = self._faults.meet(path)
        if fault and _instead(handler, fault):
            return
        if path == "retrieve_future":
            result = self.service.result(body["request_id"])
        elif fault and fault.error:
            result = self.service.fail(path, body, fault.error)
        else:
            result = self.service.post(path, body)
        if fault and fault.cut == "after":
            handler.end()
            return
        handler.send(200, result)

    def _get(self, handler: _Handler, path: str) -> None:
        fault = self._faults.meet(path.partition("/")[0])
        if fault and _instead(handler, fault):
            return
        store = self.service.store
        if path == "healthz":
            handler.send(200, {"status": "ok"})
        elif path == "get_server_capabilities":
            offered = {"model_name": self.manners.name, "max_context_length": self.service.base.context}
            handler.send(200, {"supported_models": [offered]})
        elif found := re.fullmatch("samplers/(.+)", path):
            if (sampler := self.service.samplers.get(found[1])) is None:
                raise RefusedError(404, f"no sampler {found[1]}")
            about = {"base_model": self.manners.name, "model_path": sampler.path}
            handler.send(200, {"sampler_id": found[1], **about})
        elif found := re.fullmatch("training_runs/(.+)/checkpoints", path):
            handler.send(200, {"checkpoints": store.listed(found[1])})
        elif found := re.fullmatch("training_runs/(.+)/checkpoints/(.+)/external_weights_urls", path):
            names = store.files(f"tinker://{found[1]}/{found[2]}")
            urls = {name: f"{self.url}{API}files/{found[1]}/{found[2]}/{name}" for name in names}
            handler.send(200, {"urls": urls, "expires": "2099-01-01T00:00:00Z"})
        elif found := re.fullmatch("training_runs/(.+)/checkpoints/(.+)/archive", path):
            name = found[2] if "/" in found[2] else f"sampler_weights/{found[2]}"
            handler.send(200, store.archive(f"tinker://{found[1]}/{name}"), "application/gzip")
        elif found := re.fullmatch("files/(.+)/(.+)", path):
            file = store.files(f"tinker://{found[1]}").get(found[2])
            if file is None:
                raise RefusedError(404, "Not Found")
            handler.send(200, file.read_bytes(), "application/octet-stream")
        else:
            raise RefusedError(404, "Not Found")

    def _delete(self, handler: _Handler, path: str) -> None:
        found = re.fullmatch("training_runs/(.+)/checkpoints/(.+)", path)
        if found is None:
            raise RefusedError(404, "Not Found")
        self.service.store.forget(f"tinker://{found[1]}/{found[2]}")
        handler.send(200, {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: TinkerServer

    def setup(self) -> None:
        super().setup()
        with self.server_of._lock:
            self.server_of._connections.add(self.connection)

    def finish(self) -> None:
        with self.server_of._lock:
            self.server_of._connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self._answer(lambda path: self.server_of._get(self, path))

    def do_DELETE(self) -> None:
        self._answer(lambda path: self.server_of._delete(self, path))

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(lambda path: self.server_of._post(self, path, raw))

    def _answer(self, answer: Callable[[str], None]) -> None:
        path = self.path.partition("?")[0].removeprefix(API)
        try:
            if not path.startswith("files/"):  # those addresses are signed
                self._let_in()
            answer(path)
        except RefusedError as error:
            self._refuse(error.status, str(error))
        except WrongRequestError as error:
            self._refuse(404 if "checkpoint" in str(error) else 400, str(error))
        except (KeyError, TypeError, ValueError) as error:
            self._refuse(422, f"{type(error).__name__}: {error}")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _let_in(self) -> None:
        key, keys = self.headers.get("X-API-Key", ""), self.server_of.manners.keys
        if not key or (keys is not None and key not in keys):
            raise RefusedError(401, f"Invalid API key: {key}")  # services do repeat it

    def _refuse(self, status: int, text: str) -> None:
        if status == 408:
            body = {"type": "try_again", "request_id": "", "queue_state": text}
        else:
            body = {"detail": text}
        self.send(status, body)

    def send(self, status: int, answer: dict[str, Any] | bytes, kind: str = "application/x-protobuf") -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind if isinstance(answer, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status >= 400:
            self.send_header("retry-after-ms", "20")  # the SDK's own pause is half a second and more
        if self.path.endswith("/client/config"):
            self.send_header("Connection", "close")  # the SDK forgets the client that asks for it, unclosed
        self.end_headers()
        self.wfile.write(data)

    def end(self) -> None:
        """No answer: the connection is over."""
        self.close_connection = True
        _end(self.connection)

    def log_message(self, *args: Any) -> None: ...


def _close(client: Any, there: bool) -> None:
    if client._session_holder is None:  # it never asked for anything
        return
    if there:
        client.close("success").result(60)
    else:
        client._session_holder.close()


def _instead(handler: _Handler, fault: Fault) -> bool:
    """Waits where the fault says so; True: the request has had its answer, or never gets one."""
    if fault.hold:
        fault.hold()
    if fault.status:
        raise RefusedError(fault.status, fault.text)
    if fault.cut == "before":
        handler.end()
    return fault.cut == "before"


def _handler(server: TinkerServer) -> type[_Handler]:
    return type("Handler", (_Handler,), {"server_of": server})


def _end(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is over already
        return


def _body(path: str, raw: bytes, encoding: str) -> dict[str, Any]:
    if encoding == "zstd":
        import zstandard

        raw = zstandard.ZstdDecompressor().decompress(raw)
    if path == "forward_backward":
        return wire.read_forward_backward(raw)
    return dict(json.loads(raw or b"{}"))
