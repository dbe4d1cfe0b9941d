"""Pages on this machine's own address, for the person at it: asked for by a browser, and by nobody else.

The server listens on 127.0.0.1 alone, and refuses a request that calls it by another name: a page elsewhere
could have its own name led here (DNS rebinding) and read what it must not. What a path is answered with is
looked up in a table; no part of it reaches the disk. Where nothing may be sent, GET and HEAD alone are
answered. What is sent is JSON of a page of its own: of the same origin, so that no other page can send it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from refine_rl.errors import UserError

HOST = "127.0.0.1"
NAMES = frozenset({HOST, "localhost", "[::1]"})
HTML = "text/html; charset=utf-8"
_TRIED = 100  # ports from the wanted one on
_COMPRESSED_FROM = 1000  # bytes
_LONGEST = 10_000  # bytes that may be sent
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the page has a policy of its own besides
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A body, with its media type."""

    body: bytes
    kind: str = HTML
    status: int = 200


Routes = Mapping[str, Callable[[], Answer]]
"""By path, without what follows a question mark."""
Posts = Mapping[str, Callable[[bytes], Answer]]
"""Those to which JSON may be sent."""


def called_by_own_name(host: str | None) -> bool:
    """Whether a Host header names this machine; the port may be another one, of a tunnel's other end.

    >>> [called_by_own_name(h) for h in ("localhost:8710", "127.0.0.1", "[::1]:9", "LOCALHOST")]
    [True, True, True, True]
    >>> [called_by_own_name(h) for h in ("evil.example", "localhost.evil.example:8710", "", None)]
    [False, False, False, False]
    """
    if host is None:
        return False
    name, colon, port = host.strip().lower().rpartition(":")
    if not colon or port.endswith("]"):  # without a port, or the end of [::1]
        name, port = host.strip().lower(), "0"
    return name in NAMES and port.isascii() and port.isdecimal()


def sent_by_own_page(origin: str | None, host: str) -> bool:
    """Whether an Origin header names a page of this very server.

    >>> sent_by_own_page("http://localhost:8711", "localhost:8711")
    True
    >>> others = ("http://localhost:8712", "http://evil.example", "null", None)
    >>> [sent_by_own_page(origin, "localhost:8711") for origin in others]
    [False, False, False, False]
    """
    return origin is not None and origin.strip().lower() == f"http://{host.strip().lower()}"


class _Handler(BaseHTTPRequestHandler):
    routes: ClassVar[Routes] = {}
    posts: ClassVar[Posts] = {}
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds until a connection that asks for nothing is closed

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _refused(self) -> None:
        self.send_error(405)

    def do_POST(self) -> None:
        """Takes JSON for a path of `posts`, from a page of this server."""
        post = self.posts.get(self.path.partition("?")[0])
        if post is None:
            self.send_error(404 if self.posts else 405)
            return
        host, length = self._host(), self.headers.get("Content-Length", "")
        if host is None:
            return
        if not sent_by_own_page(self.headers.get("Origin"), host):
            self.send_error(403, "Forbidden", "Only a page of this server may send anything here.")
        elif self.headers.get_content_type() != "application/json":
            self.send_error(415)
        elif not (length.isascii() and length.isdecimal()):
            self.send_error(411)
        elif int(length) > _LONGEST:
            self.send_error(413)
        else:
            answer = post(self.rfile.read(int(length)))
            self._send(answer.status, answer.body, answer.kind, with_body=True)

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refused

    def _host(self) -> str | None:
        """The name by which this server is called; None where that is not its own, which is said."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) == 1 and called_by_own_name(hosts[0]):
            return str(hosts[0])
        self.send_error(403, "Forbidden", "Ask for it by the name localhost or 127.0.0.1.")
        return None

    def _answer(self, *, with_body: bool) -> None:
        if self._host() is None:
            return
        route = self.routes.get(self.path.partition("?")[0])
        if route is None:
            self.send_error(404)
            return
        answer = route()
        self._send(answer.status, answer.body, answer.kind, with_body=with_body, tagged=answer.status == 200)

    def _send(self, status: int, body: bytes, kind: str, *, with_body: bool, tagged: bool = False) -> None:
        headers = {**_HEADERS, "Content-Type": kind}
        if tagged:
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            if self.headers.get("If-None-Match") == headers["ETag"]:
                status, body = 304, b""
        if status != 304 and len(body) >= _COMPRESSED_FROM and self._takes_gzip():
            body = gzip.compress(body, 1)
            headers["Content-Encoding"] = "gzip"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _takes_gzip(self) -> bool:
        accepted = self.headers.get("Accept-Encoding", "").split(",")
        return any(one.strip().partition(";")[0] == "gzip" for one in accepted)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """In a line of text, with the headers of every answer; the connection is closed."""
        self.close_connection = True
        short = self.responses[code][0] if code in self.responses else "Error"
        body = f"{code} {message if code == 403 and message else short}. {explain or ''}".strip().encode()
        self.send_response(code, short)
        if code == 405:
            self.send_header("Allow", "GET, HEAD")
        for name, value in {**_HEADERS, "Content-Type": "text/plain; charset=utf-8"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "refine"

    def log_message(self, *arguments: Any) -> None:
        """Silent: the terminal is the person's."""


class Server(ThreadingHTTPServer):
    """Threads that end with the program; closing it also closes what browsers keep open."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, *arguments: Any) -> None:
        self._open: set[Any] = set()  # connections; a browser keeps some of them for its next request
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no error."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def server(port: int, routes: Routes, posts: Posts | None = None) -> ThreadingHTTPServer:
    """A server for `routes`, and for what may be sent to `posts`, that is bound, and answers from
    `serve_forever` on: on `port`, or where that is taken on the next free one (0: any). Raises UserError
    where there is none."""
    handler = type("Handler", (_Handler,), {"routes": dict(routes), "posts": dict(posts or {})})
    last = min(port + _TRIED, 65536) if port else 1
    for tried in range(port, last):
        try:
            return Server((HOST, tried), handler)
        except PermissionError as error:
            raise UserError(
                f"--port {tried}: this machine does not allow it: take one from 1024 on."
            ) from error
        except OSError:  # taken
            continue
    raise UserError(f"--port {port}: it is taken, and so are those up to {last - 1}. Name another one.")
