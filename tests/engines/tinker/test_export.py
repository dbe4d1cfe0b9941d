"""Where an adapter's files are fetched from, and who gets to see the key on the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from refine_rl.engines.tinker.export import _read


class _Storage(HTTPServer):
    """Leads from /archive to /stored, as a service does to the storage of somebody else; `keys` has what came
    with each request."""

    keys: dict[str, str | None]


class _Handler(BaseHTTPRequestHandler):
    server: _Storage

    def do_GET(self) -> None:
        self.server.keys[self.path] = self.headers.get("X-API-Key")
        stored = self.path == "/stored"
        self.send_response(200 if stored else 302)
        self.send_header("Location", f"http://localhost:{self.server.server_port}/stored")
        self.send_header("Content-Length", "4" if stored else "0")
        self.end_headers()
        self.wfile.write(b"file" if stored else b"")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def storage() -> Iterator[_Storage]:
    with _Storage(("127.0.0.1", 0), _Handler) as server:
        server.keys = {}
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_key_does_not_follow_to_where_a_service_leads(storage: _Storage) -> None:
    url = f"http://127.0.0.1:{storage.server_port}/archive"
    assert _read(url, 60.0, {"X-API-Key": "tml-secret"}) == b"file"
    assert storage.keys == {"/archive": "tml-secret", "/stored": None}
