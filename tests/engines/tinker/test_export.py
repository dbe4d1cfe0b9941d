"""Where an adapter's files are fetched from, and who gets to see the key on the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from refine_rl.engines.tinker.address import Address
from refine_rl.engines.tinker.bill import Bill
from refine_rl.engines.tinker.export import _read
from refine_rl.engines.tinker.service import Service, in_background
from refine_rl.errors import MachineError
from refine_rl.llm.client import Call
from refine_rl.llm.ledger import Ledger


class _Storage(HTTPServer):
    """Leads from /archive to /stored, as a service does to the storage of somebody else; `keys` has what came
    with each request."""

    keys: dict[str, str | None]


class _Handler(BaseHTTPRequestHandler):
    server: _Storage

    def do_GET(self) -> None:
        self.server.keys[self.path] = self.headers.get("X-API-Key")
        if self.path.startswith("/refused"):
            self.send_error(403)
            return
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


def test_a_signed_address_that_is_refused_is_told_without_its_signature(storage: _Storage) -> None:
    """Neither a person's screen nor the ledger is a place for what lets anybody in."""
    where = f"http://127.0.0.1:{storage.server_port}/refused"
    lines: list[Call] = []
    bill = Bill(model="m", ledger=Ledger(lines.append))
    address = Address(url="http://s", model="m", key_env="KEY", key="tml-secret", timeout=60.0)
    service = Service(address=address, bill=bill, client=None)
    asked = in_background(lambda: _read(f"{where}?X-Signature=abc&X-Date=1", 60.0))
    with pytest.raises(MachineError, match="403 Forbidden") as caught:
        service.result(service.ask(asked, "Fetching the adapter", bill.begin("export")))
    for text in (str(caught.value), lines[0].extra["error"]):
        assert f"'{where}'" in text
        assert "Signature" not in text
