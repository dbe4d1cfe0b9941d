"""The HTTP in front of a served model: who may ask, what is asked, and what goes back.

On the loopback it answers to the machine's own names alone, and to no page of another origin: a page that a
browser shows could else make this machine compute, or read its answers. Errors have the form of OpenAI's.
"""

from __future__ import annotations

import hmac
import json
import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar, Protocol
from urllib.parse import unquote, urlsplit

from refine_rl.errors import UserError
from refine_rl.pipeline.serve.asked import Asked, Names, Refused, read_asked
from refine_rl.pipeline.serve.own import Sent
from refine_rl.report.loopback import Server, called_by_own_name

MOST_BYTES = 16_000_000
"""Of a request's body."""
_JSON = "application/json"
_PATHS = "POST /v1/chat/completions, GET /v1/models, GET /health"


class Backend(Protocol):
    """Who answers."""

    def chat(self, asked: Asked, still_there: Callable[[], bool]) -> Sent:
        """The reply, already begun. Raises Refused where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """Who may come in: with `key` (where it is not ""), and where `loopback`, by this machine's own names."""

    loopback: bool
    key: str = ""


class _Handler(BaseHTTPRequestHandler):
    backend: ClassVar[Backend]
    names: ClassVar[Names]
    door: ClassVar[Door]
    created: ClassVar[int]
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds until a connection that asks for nothing is closed

    def do_GET(self) -> None:
        self._guarded(self._get)

    def do_POST(self) -> None:
        self._guarded(self._post)

    def _other(self) -> None:
        self._guarded(self._refuse_method)

    do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _other

    def _guarded(self, answer: Callable[[], None]) -> None:
        try:
            self._require_welcome()
            answer()
        except Refused as refused:
            self.close_connection = True  # the body may not be read yet
            self._json(refused.status, refused.body())

    def _require_welcome(self) -> None:
        hosts = self.headers.get_all("Host") or []
        if self.door.loopback and (len(hosts) != 1 or not called_by_own_name(hosts[0])):
            raise Refused(403, "Ask for it by the name localhost or 127.0.0.1.")
        origin = self.headers.get("Origin")
        if origin is not None and not self._own_origin(origin, hosts):
            raise Refused(403, "A web page of another origin is not answered.")
        if not self.door.key or self.path == "/health":
            return
        given = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(), self.door.key.encode()):
            raise Refused(401, "The key is missing, or is another one.", code="invalid_api_key")

    def _own_origin(self, origin: str, hosts: list[str]) -> bool:
        name = urlsplit(origin).netloc
        return called_by_own_name(name) if self.door.loopback else name in hosts

    def _get(self) -> None:
        path = unquote(self.path.partition("?")[0].rstrip("/"))
        if path == "/health":
            self._json(200, {"status": "ok"})
        elif path == "/v1/models":
            self._json(200, {"object": "list", "data": [self._model(name) for name in self.names.all]})
        elif path.startswith("/v1/models/") and path.removeprefix("/v1/models/") in self.names.all:
            self._json(200, self._model(path.removeprefix("/v1/models/")))
        else:
            raise self._not_here()

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "refine"}

    def _refuse_method(self) -> None:
        raise Refused(405, f"{self.command} is not answered; there are: {_PATHS}.")

    def _not_here(self) -> Refused:
        return Refused(
            404, f"{self.command} {self.path:.80} is not here; there are: {_PATHS}.", code="not_found"
        )

    def _post(self) -> None:
        if self.path.partition("?")[0].rstrip("/") != "/v1/chat/completions":
            raise self._not_here()
        asked = read_asked(self._body(), self.names)
        sent = self.backend.chat(asked, self._still_there)
        if sent.stream:
            self._stream(sent.parts)
        else:
            self._bytes(sent.status, b"".join(sent.parts))

    def _body(self) -> object:
        """The JSON of the request. Another kind than JSON is what a web page may send unasked."""
        if self.headers.get_content_type() != _JSON:
            raise Refused(415, f"The body must be {_JSON}; say so in Content-Type.")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refused(411, "The request must say its Content-Length.")
        if int(length) > MOST_BYTES:
            raise Refused(413, f"The body may have {MOST_BYTES} bytes, and this one has {length}.")
        try:
            body: object = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"The body is no JSON: {error}.") from None
        return body

    def _still_there(self) -> bool:
        """Whether whoever asked still waits: a closed connection can be read from, and gives nothing."""
        try:
            if not select.select([self.connection], [], [], 0)[0]:
                return True
            return bool(self.connection.recv(1, socket.MSG_PEEK))
        except (OSError, ValueError):
            return False

    def _json(self, status: int, body: dict[str, Any]) -> None:
        self._bytes(status, json.dumps(body).encode())

    def _bytes(self, status: int, body: bytes) -> None:
        self._head(status, _JSON)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self, parts: Iterator[bytes]) -> None:
        """In chunks (RFC 9112, 7.1), each sent at once."""
        self._head(200, "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in parts:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def _head(self, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Of a request that cannot be read."""
        self.close_connection = True
        self._json(code, Refused(code, message or "The request cannot be read.").body())

    def version_string(self) -> str:
        return "refine"

    def log_message(self, *arguments: Any) -> None:
        """Silent: the terminal is the person's."""


class _Front(Server):
    pass


class _Front6(_Front):
    address_family = socket.AF_INET6


def front(host: str, port: int, backend: Backend, names: Names, door: Door, *, created: int) -> Server:
    """A server that is bound, and answers from `serve_forever` on. Raises UserError where the address cannot
    be had; port 0 is any."""
    handler = type(
        "Handler", (_Handler,), {"backend": backend, "names": names, "door": door, "created": created}
    )
    kind = _Front6 if ":" in host else _Front
    try:
        return kind((host, port), handler)
    except socket.gaierror as error:
        raise UserError(f"--host {host}: there is no such address ({error.strerror}).") from error
    except PermissionError as error:
        raise UserError(f"--port {port}: this machine does not allow it: take one from 1024 on.") from error
    except OverflowError as error:
        raise UserError(f"--port {port}: it is a number from 0 to 65535.") from error
    except OSError as error:
        import errno

        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"--port {port}: it is taken. Name another one, or --port 0 for any that is free."
            ) from error
        raise UserError(f"--host {host} --port {port}: {error.strerror}.") from error
