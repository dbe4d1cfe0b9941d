"""A small OpenAI-compatible server on the loopback that can be told to misbehave.

    server = LlmServer(brain=lambda body: "Hello.", moods=["busy:0.1", "500"])    # then "ok" for ever
    server.base_url, server.requests, server.billed_tokens, server.most_at_once
    server.stop()

`brain` gets the request's body and gives the answer's text, a whole message, or bytes: a body as it is.
`models` are the names that it lists.
`hold` is called with a request's number before it is answered, in a thread of its own, and may wait for
whatever the test wants to happen first: `hold=Barrier(5).wait`, `hold=lambda n: free.wait(60)`.
`moods` is one mood for all requests, a sequence (one a request, then "ok"), or a function of the number
(from 0) and body of the request:

    ok                      as it should be
    busy, busy:SECONDS      429, without and with Retry-After; busy-ms:MS, busy-date:SECONDS (an HTTP date)
    500, 503, 503:SECONDS   and any other status, with an error's body
    drop-before             the connection ends without a word; drop-headers: after the headers;
                            drop-body: in the middle of the body
    late                    answers, and bills, after `late` seconds
    cut                     half of the answer, finish_reason "length"
    no-choice               an empty list of choices; error-in-200: an error in an answer of status 200
    refusal, filtered       message.refusal, or finish_reason "content_filter"
    not-json, html          an answer of status 200 that is no completion; html-502: a proxy's error page
    401, 402, 404           with the words that endpoints use; they name the key that came with the request
    quota                   429 with insufficient_quota
    too-long                400 context_length_exceeded
    no-schema, no-forms     400 where response_format is json_schema, or is there at all; else ok
    no-temperature          400 where there is a temperature; else ok; never-temperature: 400 always
    new-max-tokens          400 where there is max_tokens; else ok
    no-usage                ok, but does not say what was used
"""

from __future__ import annotations

import email.utils
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Brain = Callable[[dict[str, Any]], "str | dict[str, Any] | bytes"]
Moods = "str | Sequence[str] | Callable[[int, dict[str, Any]], str]"

_WORDS = {
    401: ("invalid_api_key", "Incorrect API key provided: {key}."),
    402: ("insufficient_credits", "This request requires more credits."),
    404: ("model_not_found", "The model `{model}` does not exist."),
    500: ("server_error", "The server had an error."),
    503: ("overloaded", "The engine is overloaded."),
}


def count_tokens(text: str) -> int:
    """What this server calls tokens: words, at least one."""
    return max(1, len(text.split()))


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # of five, a busy machine turns the sixth away for a second

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that resets its connection between two requests is no error; all else is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class LlmServer:
    """Runs from its making until `stop`."""

    def __init__(
        self,
        brain: Brain = lambda body: "ok",
        moods: Any = "ok",
        *,
        delay: float | Callable[[int], float] = 0.0,
        hold: Callable[[int], Any] = lambda number: None,
        late: float = 5.0,
        cost: float | None = None,
        models: Sequence[str] = ("model",),
    ) -> None:
        self.brain = brain
        self.moods = moods
        self.delay = delay
        self.hold = hold
        self.late = late
        self.models = models  # that it lists
        self.cost = cost  # put into usage.cost, as routers do
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.billed: list[tuple[int, int]] = []  # of answers that were delivered
        self.lost: list[tuple[int, int]] = []  # of answers that nobody got
        self.most_at_once = 0
        self.connections = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._http = _Server(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.base_url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def billed_tokens(self) -> tuple[int, int]:
        """Tokens in and out of all delivered answers."""
        return sum(b[0] for b in self.billed), sum(b[1] for b in self.billed)

    def stop(self) -> None:
        self._stopping.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            inside = False

            def setup(self) -> None:
                super().setup()
                with server._lock:
                    server.connections += 1

            def do_GET(self) -> None:
                if server.moods in ("401", "402"):  # a key that is refused is so for every question
                    code, words = _WORDS[int(server.moods)]
                    said = words.format(key=self.headers.get("Authorization", "").removeprefix("Bearer "))
                    send(self, int(server.moods), {"error": {"code": code, "message": said}})
                    return
                listed = [{"id": name, "object": "model"} for name in server.models]
                send(self, 200, {"object": "list", "data": listed})

            def do_POST(self) -> None:
                try:
                    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                except ValueError:  # whoever asked is gone
                    self.close_connection = True
                    return
                self.inside = True
                with server._lock:
                    number = len(server.requests)
                    server.requests.append(body)
                    server.headers.append({k.lower(): v for k, v in self.headers.items()})
                    server.times.append(time.monotonic())
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                try:
                    server._answer(self, number, body)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                finally:
                    self.leave()

            def leave(self) -> None:
                """The request is over as soon as its answer is on the way: the next may come at once."""
                with server._lock:
                    server._at_once -= self.inside
                    self.inside = False

            def log_message(self, *args: Any) -> None: ...

        return Handler

    def _mood(self, number: int, body: dict[str, Any]) -> str:
        if callable(self.moods):
            return str(self.moods(number, body))
        if isinstance(self.moods, str):
            return self.moods
        return str(self.moods[number]) if number < len(self.moods) else "ok"

    def _answer(self, handler: BaseHTTPRequestHandler, number: int, body: dict[str, Any]) -> None:
        delay = self.delay(number) if callable(self.delay) else self.delay
        if delay:
            self._stopping.wait(delay)
        self.hold(number)
        mood, _, detail = self._mood(number, body).partition(":")
        if self._refuses(handler, mood, detail, body):
            return
        said = self.brain(body)
        if isinstance(said, bytes):
            send(handler, 200, said)
            return
        message = {"role": "assistant", "content": said} if isinstance(said, str) else said
        finish = "stop"
        if mood == "cut":
            message["content"] = message["content"][: len(message["content"]) // 2]
            finish = "length"
        if mood == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
        if mood == "filtered":
            finish = "content_filter"
        used = (
            sum(count_tokens(m["content"]) for m in body["messages"]),
            count_tokens(str(message.get("content") or message.get("refusal") or "")),
        )
        usage: dict[str, Any] = {
            "prompt_tokens": used[0],
            "completion_tokens": used[1],
            "total_tokens": sum(used),
        }
        if self.cost is not None:
            usage["cost"] = self.cost
        answer = {
            "id": f"answer-{number}",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": usage,
        }
        if mood == "no-choice":
            answer["choices"] = []
        if mood == "no-usage":
            del answer["usage"]
        if mood in ("drop-headers", "drop-body", "late"):
            self.lost.append(used)
            if mood == "late":
                self._stopping.wait(self.late)
                send(handler, 200, answer)
            else:
                drop(handler, json.dumps(answer).encode(), part=mood == "drop-body")
            return
        with self._lock:
            self.billed.append(used)
        send(handler, 200, answer)

    def _refuses(self, handler: BaseHTTPRequestHandler, mood: str, detail: str, body: dict[str, Any]) -> bool:
        """Answers where the mood forbids an answer."""
        form = body.get("response_format", {}).get("type")
        if mood.startswith("busy"):
            header = {
                "busy": ("Retry-After", detail),
                "busy-ms": ("retry-after-ms", detail),
                "busy-date": (
                    "Retry-After",
                    email.utils.formatdate(time.time() + float(detail or 0), usegmt=True),
                ),
            }[mood]
            headers = dict([header]) if detail else {}
            send(handler, 429, error("rate_limit_exceeded", "Rate limit reached."), headers)
        elif mood == "quota":
            send(handler, 429, error("insufficient_quota", "You exceeded your current quota."))
        elif mood == "drop-before":
            drop(handler, None)
        elif mood == "too-long":
            text = "This model's maximum context length is 4096 tokens, but 9000 were asked for."
            send(handler, 400, error("context_length_exceeded", text))
        elif mood == "no-schema" and form == "json_schema":
            send(handler, 400, error("invalid_request", "response_format json_schema is not supported"))
        elif mood == "no-forms" and form is not None:
            send(handler, 400, error("invalid_request", "Unknown parameter: response_format"))
        elif mood == "no-temperature" and "temperature" in body:
            send(
                handler,
                400,
                error("unsupported_value", "'temperature' does not support 0.0 with this model."),
            )
        elif mood == "never-temperature":
            send(handler, 400, error("unsupported_value", "temperature must be warmer"))
        elif mood == "new-max-tokens" and "max_tokens" in body:
            text = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            send(handler, 400, error("unsupported_parameter", text))
        elif mood == "error-in-200":
            send(handler, 200, {"error": {"code": 502, "message": "Provider returned error"}})
        elif mood == "not-json":
            send(handler, 200, b"upstream timed out")
        elif mood.startswith("html"):
            page = b"<html><head><style>b {}</style></head><body><h1>502 Bad Gateway</h1></body></html>"
            send(handler, 502 if mood == "html-502" else 200, page)
        elif mood.isdigit():
            status = int(mood)
            code, text = _WORDS.get(status, ("error", "Something is wrong."))
            key = handler.headers.get("Authorization", "").removeprefix("Bearer ")
            filled = text.replace("{key}", key).replace("{model}", str(body.get("model")))
            send(handler, status, error(code, filled), {"Retry-After": detail} if detail else {})
        else:
            return False
        return True


def error(code: str, text: str) -> dict[str, Any]:
    return {"error": {"message": text, "type": code, "code": code, "param": None}}


def send(
    handler: BaseHTTPRequestHandler,
    status: int,
    content: dict[str, Any] | bytes,
    headers: dict[str, str] | None = None,
) -> None:
    page = isinstance(content, bytes)
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.leave()  # type: ignore[attr-defined]
    handler.send_response(status)
    handler.send_header("Content-Type", "text/html" if page else "application/json")
    handler.send_header("Content-Length", str(len(data)))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def drop(handler: BaseHTTPRequestHandler, data: bytes | None, *, part: bool = False) -> None:
    """Ends the connection: at once (None), after the headers, or with half of the body sent."""
    if data is not None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2] if part else b"")
        handler.wfile.flush()
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)
