"""Pages for this machine's browser, and for nobody else."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from http.server import ThreadingHTTPServer
from typing import Any

import pytest

from refine_rl.errors import UserError
from refine_rl.report import loopback
from refine_rl.report.loopback import Answer, server

LONG = "long " * 1000
asked: list[str] = []


def page(text: str) -> Callable[[], Answer]:
    def answer() -> Answer:
        asked.append(text)
        return Answer(body=text.encode())

    return answer


@pytest.fixture
def serving() -> Iterator[ThreadingHTTPServer]:
    made = server(0, {"/": page("here"), "/long": page(LONG)})
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    asked.clear()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def ask(
    serving: ThreadingHTTPServer, path: str, method: str = "GET", **headers: str
) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", serving.server_address[1], timeout=60)
    connection.request(
        method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return reply, body


def raw(serving: ThreadingHTTPServer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", serving.server_address[1]), timeout=60) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_it_listens_on_this_machine_alone(serving: ThreadingHTTPServer) -> None:
    assert serving.server_address[0] == "127.0.0.1"
    assert serving.socket.getsockname()[0] == "127.0.0.1"


def test_a_page_comes_with_headers_that_keep_it_here(serving: ThreadingHTTPServer) -> None:
    reply, body = ask(serving, "/?step=3")
    assert (reply.status, body) == (200, b"here")
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert reply.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["X-Frame-Options"] == "DENY"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert reply.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in reply.headers
    assert reply.headers["Server"] == "refine"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8710", "[::1]", "[::1]:80"])
def test_it_answers_to_its_own_names(serving: ThreadingHTTPServer, host: str) -> None:
    assert ask(serving, "/", Host=host)[0].status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "127.0.0.2", "[::2]", "",
     "localhost:x", "evil.example:127.0.0.1", "localhost:80:80", "user@localhost", "0.0.0.0"],
)  # fmt: skip
def test_a_page_elsewhere_that_leads_its_name_here_is_refused(
    serving: ThreadingHTTPServer, host: str
) -> None:
    reply, body = ask(serving, "/", Host=host)
    assert reply.status == 403
    assert body == b"403 Forbidden. Ask for it by the name localhost or 127.0.0.1."
    assert asked == []


def test_two_names_or_none_are_refused(serving: ThreadingHTTPServer) -> None:
    assert raw(serving, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 403 ")
    both = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert raw(serving, both).startswith(b"HTTP/1.1 403 ")
    assert asked == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_nothing_but_reading(serving: ThreadingHTTPServer, method: str) -> None:
    reply, _ = ask(serving, "/", method)
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")
    assert asked == []


def test_head_has_the_headers_alone(serving: ThreadingHTTPServer) -> None:
    whole, _ = ask(serving, "/long")
    reply, body = ask(serving, "/long", "HEAD")
    assert (reply.status, body) == (200, b"")
    assert reply.headers["Content-Length"] == whole.headers["Content-Length"] == str(len(LONG))
    assert reply.headers["ETag"] == whole.headers["ETag"]
    assert ask(serving, "/none", "HEAD")[1] == b""


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/../../etc/passwd",
        "/%2e%2e/config.toml",
        "//etc/passwd",
        "/long/",
        "/config.toml",
        "/\\",
        "/.lock",
        "*",
    ],
)
def test_what_is_not_in_the_table_is_not_there(
    serving: ThreadingHTTPServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)
    monkeypatch.setattr("os.open", refuse)
    answer = raw(serving, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b"\r\n\r\n404 Not Found.")
    assert asked == []


def test_what_the_browser_has_is_not_sent_again(serving: ThreadingHTTPServer) -> None:
    tag = ask(serving, "/")[0].headers["ETag"]
    reply, body = ask(serving, "/", If_None_Match=tag)
    assert (reply.status, body) == (304, b"")
    assert ask(serving, "/", If_None_Match='"other"')[0].status == 200


def test_what_is_long_is_compressed_for_who_can_read_it(serving: ThreadingHTTPServer) -> None:
    reply, body = ask(serving, "/long", Accept_Encoding="br, gzip;q=0.5")
    assert reply.headers["Content-Encoding"] == "gzip"
    assert len(body) < 500
    assert gzip.decompress(body).decode() == LONG
    assert ask(serving, "/long", Accept_Encoding="br")[1].decode() == LONG
    assert "Content-Encoding" not in ask(serving, "/", Accept_Encoding="gzip")[0].headers


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n", b"GET / HTTP/9\r\n\r\n"]
)
def test_what_is_no_request_is_refused_without_a_word_in_the_terminal(
    serving: ThreadingHTTPServer, junk: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    assert b"200" not in raw(serving, junk)[:20]
    assert ask(serving, "/")[0].status == 200
    assert capfd.readouterr() == ("", "")


def test_it_ends_with_the_connections_that_browsers_keep() -> None:
    made = server(0, {"/": page("here")})
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    connection = HTTPConnection("127.0.0.1", made.server_address[1], timeout=60)
    for _ in range(2):
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"here"
    kept = connection.sock
    made.shutdown()
    thread.join()
    made.server_close()
    assert kept.recv(1) == b""
    kept.close()


def test_a_port_that_is_taken(serving: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = serving.server_address[1]
    monkeypatch.setattr(loopback, "_TRIED", 200)
    other = server(taken, {})
    assert taken < other.server_address[1] < taken + 200
    other.server_close()
    monkeypatch.setattr(loopback, "_TRIED", 1)
    with pytest.raises(UserError, match=f"--port {taken}: it is taken"):
        server(taken, {})


def test_no_port_is_looked_for_beyond_the_last() -> None:
    with socket.socket() as last:
        last.bind(("127.0.0.1", 65535))
        last.listen()
        with pytest.raises(UserError, match="--port 65535: it is taken"):
            server(65535, {})
