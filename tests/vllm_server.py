"""A server that speaks as vLLM's OpenAI server does, on the loopback, and that can be told to lie.

    server = VllmServer(folder, max_lora_rank=16, logprobs_mode="raw_logprobs", key="", names=("served",))
    server.base_url, server.requests, server.adapters
    server.fault = lambda path, number: "drop"      # for the request of that number (from 0), "" for none
    server.stop()

It serves the model in a folder, plainly: whole forward passes by transformers, an adapter's product added
into the weights, tokens drawn by torch's generators. Requests, answers and errors are field by field those of
vLLM 0.32 (in vllm/entrypoints: openai/completion/protocol.py, openai/models/serving.py, serve/lora and
serve/tokenize), as that server gave them.

Faults, one a request:

    drop        the connection ends without a word; 503 and other numbers: an error of that status
    die         the server is gone, from this request on
    text        neither token ids nor tokens that are ids; old: tokens that are ids, as before 0.10.2
    forget      the server was started anew: it has no adapters any more
    page        a web page
    no-logprobs, no-prompt-logprobs, another-prompt, another-name, one-less, cut, odd-token, odd-logprob

and what the server does wrong as long as `wrong` says it: "stale" (a new adapter's name answers by the one
before), "base" (by no adapter), "half" (by half of the adapter), "blunt" (temperature is ignored).
"""

from __future__ import annotations

import copy
import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

Fault = Callable[[str, int], str]


class Said(Exception):  # noqa: N818 - an answer, of which the handler makes one
    """An answer with an error status."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class _Http(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that resets its connection is no error; all else is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class VllmServer:
    """Runs from its making until `stop`."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        names: tuple[str, ...] = ("served",),
        max_model_len: int = 256,
        max_lora_rank: int = 16,
        enable_lora: bool = True,
        runtime_updating: bool = True,
        logprobs_mode: str = "raw_logprobs",
        key: str = "",
        tokenizer: Path | None = None,
        fault: Fault = lambda path, number: "",
    ) -> None:
        import transformers

        self.folder, self.names, self.key = folder, names, key
        self.max_model_len, self.max_lora_rank = max_model_len, max_lora_rank
        self.enable_lora, self.runtime_updating = enable_lora, runtime_updating
        self.logprobs_mode, self.fault, self.wrong = logprobs_mode, fault, ""
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.most_at_once = 0
        self.adapters: dict[str, str] = {}  # name -> path, those that are loaded
        self._models: dict[str, Any] = {}
        self._last: Any = None  # the model with the adapter that was loaded before
        self._at_once = 0
        self._lock, self._counting = threading.Lock(), threading.Lock()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer or folder)
        self._base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._http = _Http(("127.0.0.1", port), self._handler())
        self.port = self._http.server_address[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """A second time does nothing."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def asked(self, path: str) -> list[dict[str, Any]]:
        """The bodies of requests of a path, in the order of their coming."""
        return [body for at, body in self.requests if at == path]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server._answer(self, self.path, None)

            def do_POST(self) -> None:
                try:
                    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                except ValueError:
                    self.close_connection = True
                    return
                try:
                    server._answer(self, self.path, body)
                except ConnectionError:
                    self.close_connection = True

            def log_message(self, *args: Any) -> None: ...

        return Handler

    def _answer(self, handler: BaseHTTPRequestHandler, path: str, body: dict[str, Any] | None) -> None:
        with self._counting:
            number = sum(at == path for at, _ in self.requests)
            self.requests.append((path, copy.deepcopy(body or {})))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            fault = self.fault(path, number)
            if fault in ("drop", "die"):
                if fault == "die":
                    self.fault = lambda path, number: "drop"
                    threading.Thread(target=self.stop, daemon=True).start()
                handler.close_connection = True
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
            if self.key and handler.headers.get("Authorization") != f"Bearer {self.key}":
                _send(handler, 401, {"error": "Unauthorized"})
                return
            try:
                if fault.isdigit():
                    raise Said(int(fault), "InternalServerError", "EngineCore encountered an issue.")
                if fault == "forget":
                    self.adapters.clear()
                found = self._found(path, body)
            except Said as said:
                _send(handler, said.status, said.body)
                return
            _send(handler, 200, _broken(found, fault))
        finally:
            with self._counting:
                self._at_once -= 1

    def _found(self, path: str, body: dict[str, Any] | None) -> Any:
        lora = {"/v1/load_lora_adapter": self._load, "/v1/unload_lora_adapter": self._unload}
        routes: dict[str, Callable[..., Any]] = {
            "/v1/completions": self._complete,
            "/tokenize": self._tokenize,
            **(lora if self.runtime_updating else {}),
        }
        if path == "/v1/models" and body is None:
            return {"object": "list", "data": [*map(self._card, self.names), *map(self._card, self.adapters)]}
        if path not in routes or body is None:
            raise _NotFound()
        with self._lock:
            return routes[path](body)

    def _card(self, name: str) -> dict[str, Any]:
        base = name in self.names
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "vllm",
            "root": str(self.folder) if base else self.adapters[name],
            "parent": None if base else self.names[0],
            "max_model_len": self.max_model_len if base else None,
            "permission": [],
        }

    def _tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = self._tokenizer(body["prompt"], add_special_tokens=body.get("add_special_tokens", True))
        tokens = ids["input_ids"]
        return {
            "count": len(tokens),
            "max_model_len": self.max_model_len,
            "tokens": tokens,
            "token_strs": None,
        }

    def _load(self, body: dict[str, Any]) -> str:
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters:
            raise Said(
                400,
                "InvalidUserInput",
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in "
                "place, set 'load_inplace' to True.",
            )
        if not self.enable_lora:
            raise _worker("LoRA is not enabled. Use --enable-lora to enable LoRA.")
        if not (path / "adapter_config.json").is_file():
            raise Said(404, "NotFoundError", f"Loading lora {name} failed: No adapter found for {path}")
        config = json.loads((path / "adapter_config.json").read_text())
        rank = max(config["r"], *(config.get("rank_pattern") or {"": 0}).values())
        if rank > self.max_lora_rank:
            raise _worker(f"LoRA rank {rank} is greater than max_lora_rank {self.max_lora_rank}.")
        before = self._last
        self._last = _adapted(self._base, path, config, 0.5 if self.wrong == "half" else 1.0)
        self._models[name] = self._base if self.wrong == "base" else self._last
        if self.wrong == "stale" and before is not None:
            self._models[name], self._last = before, before
        self.adapters[name] = str(path)
        return f"Success: LoRA adapter '{name}' added successfully."

    def _unload(self, body: dict[str, Any]) -> str:
        name = body["lora_name"]
        if name not in self.adapters:
            raise Said(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        del self.adapters[name], self._models[name]
        return f"Success: LoRA adapter '{name}' removed successfully."

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["model"]
        if name in self.names:
            model = self._base
        elif name in self.adapters:
            model = self._models[name]
        else:
            aliases = ", ".join((*self.names, *self.adapters))
            text = f"The model `{name}` does not exist. Valid aliases: {aliases}."
            raise Said(404, "NotFoundError", text, "model")
        several = bool(body["prompt"]) and isinstance(body["prompt"][0], list)
        prompts = body["prompt"] if several else [body["prompt"]]
        n, most = body.get("n", 1), body["max_tokens"]
        if n > 1 and body["temperature"] == 0:
            raise Said(400, "BadRequestError", f"n must be 1 when using greedy sampling, got {n}.")
        rows, size = [], self._base.get_input_embeddings().weight.shape[0]
        for ids in prompts:
            if odd := [i for i in ids if not 0 <= i < size]:
                raise Said(400, "BadRequestError", f"Token id {odd[0]} is out of vocabulary")
            if len(ids) + most > self.max_model_len:
                text = f"This model's maximum context length is {self.max_model_len} tokens."
                raise Said(400, "BadRequestError", text, "input_tokens")
            rows += [(ids, *said) for said in self._draw(model, ids, n, body)]
        choices = [self._choice(i, ids, body, *said) for i, (ids, *said) in enumerate(rows)]
        if body.get("prompt_logprobs") is not None:
            for choice, (ids, *_) in zip(choices, rows, strict=True):
                choice["prompt_logprobs"] = self._of_prompt(model, ids)
        out = sum(len(c["token_ids"] or ()) for c in choices)
        return {
            "id": "cmpl-0",
            "object": "text_completion",
            "created": 0,
            "model": name,
            "choices": choices,
            "usage": {
                "prompt_tokens": sum(map(len, prompts)),
                "completion_tokens": out,
                "total_tokens": sum(map(len, prompts)) + out,
            },
        }

    def _choice(
        self, index: int, ids: list[int], body: dict[str, Any], tokens: list[int], logprobs: list[float]
    ) -> dict[str, Any]:
        stopped = tokens[-1] in body["stop_token_ids"]
        named = [f"token_id:{t}" for t in tokens]
        if not body.get("return_tokens_as_token_ids"):
            named = [self._tokenizer.decode([t]) for t in tokens]
        given = body.get("return_token_ids")
        return {
            "index": index,
            "text": self._tokenizer.decode(tokens, skip_special_tokens=True),
            "logprobs": None
            if body.get("logprobs") is None
            else {
                "text_offset": [0] * len(tokens),
                "token_logprobs": logprobs,
                "tokens": named,
                "top_logprobs": [{t: x} for t, x in zip(named, logprobs, strict=True)],
            },
            "finish_reason": "stop" if stopped else "length",
            "stop_reason": tokens[-1] if stopped else None,
            "token_ids": tokens if given else None,
            "prompt_logprobs": None,
            "prompt_token_ids": ids if given else None,
        }

    @torch.no_grad()
    def _of_prompt(self, model: Any, ids: list[int]) -> list[dict[str, Any] | None]:
        """As vLLM gives them where only the prompt's own tokens are asked for."""
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        found = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
        ranks = [1 + int((row > row[i]).sum()) for row, i in zip(logits, ids[1:], strict=True)]
        tables = [
            {str(i): {"logprob": x, "rank": rank, "decoded_token": self._tokenizer.decode([i])}}
            for i, x, rank in zip(ids[1:], found, ranks, strict=True)
        ]
        return [None, *tables]

    @torch.no_grad()
    def _draw(
        self, model: Any, ids: list[int], n: int, body: dict[str, Any]
    ) -> list[tuple[list[int], list[float]]]:
        """As vLLM draws `n` continuations: child i by the seed + i."""
        draws = [torch.Generator().manual_seed((body["seed"] + i) % 2**63) for i in range(n)]
        rows = torch.tensor([ids] * n)
        tokens: list[list[int]] = [[] for _ in range(n)]
        logprobs: list[list[float]] = [[] for _ in range(n)]
        going = set(range(n))
        for _ in range(body["max_tokens"]):
            logits = model(input_ids=rows).logits[:, -1].float()
            new, values = self._next(logits, draws, body)
            for i in sorted(going):
                tokens[i].append(int(new[i]))
                logprobs[i].append(max(float(values[i]), -9999.0))
                if int(new[i]) in body["stop_token_ids"]:
                    going.discard(i)
            if not going:
                break
            rows = torch.cat([rows, new[:, None]], dim=1)
        return list(zip(tokens, logprobs, strict=True))

    def _next(
        self, logits: torch.Tensor, draws: list[torch.Generator], body: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A token a row, and its log-prob: of the raw logits, or of what is drawn from."""
        raw = logits.log_softmax(-1)
        temperature = body["temperature"]
        if temperature == 0:
            new = logits.argmax(-1)
            return new, raw.gather(1, new[:, None])[:, 0]
        scaled = logits / (1.0 if self.wrong == "blunt" else temperature)
        if body["top_k"] > 0:
            least = scaled.topk(body["top_k"]).values[:, -1:]
            scaled = scaled.masked_fill(scaled < least, float("-inf"))
        if body["top_p"] < 1:
            ordered, order = scaled.softmax(-1).sort(descending=True)
            out = ordered.cumsum(-1) - ordered >= body["top_p"]
            scaled = scaled.masked_fill(torch.zeros_like(out).scatter(1, order, out), float("-inf"))
        probs = scaled.softmax(-1)
        new = torch.cat([torch.multinomial(p, 1, generator=g) for p, g in zip(probs, draws, strict=True)])
        seen = raw if self.logprobs_mode == "raw_logprobs" else scaled.log_softmax(-1)
        return new, seen.gather(1, new[:, None])[:, 0]


class _NotFound(Said):
    """FastAPI's own answer where there is no such route."""

    def __init__(self) -> None:
        super().__init__(404, "", "")
        self.body: dict[str, Any] = {"detail": "Not Found"}


def _worker(what: str) -> Said:
    text = (
        f"Call to add_lora method failed: Worker failed with error '{what}', please check the stack trace "
        "above for the root cause"
    )
    return Said(500, "InternalServerError", text)


def _adapted(base: Any, path: Path, config: Mapping[str, Any], share: float) -> Any:
    """A copy of the model with an adapter's product (a share of it) added into the weights."""
    matrices = load_file(path / "adapter_model.safetensors")
    model = copy.deepcopy(base)
    weights = dict(model.named_parameters())
    for key, first in matrices.items():
        if ".lora_A." not in key:
            continue
        name = key.removeprefix("base_model.model.").partition(".lora_A.")[0]
        rank, alpha = config["r"], config["lora_alpha"]
        for pattern, value in (config.get("rank_pattern") or {}).items():
            rank = value if re.fullmatch(rf"(.*\.)?{pattern}", name) else rank
        for pattern, value in (config.get("alpha_pattern") or {}).items():
            alpha = value if re.fullmatch(rf"(.*\.)?{pattern}", name) else alpha
        second = matrices[key.replace(".lora_A.", ".lora_B.")]
        weights[f"{name}.weight"].data += share * alpha / rank * (second @ first)
    return model


def _broken(found: Any, fault: str) -> Any:
    """The answer as the fault leaves it."""
    if fault == "page":
        return "<html><body>Sign in</body></html>"
    choices = found["choices"] if isinstance(found, dict) and "choices" in found else []
    for choice in choices:
        if fault == "text":
            choice["token_ids"] = choice["prompt_token_ids"] = None
            choice["logprobs"]["tokens"] = choice["text"].split() or [""]
        if fault == "old":
            choice["token_ids"] = choice["prompt_token_ids"] = None
        if fault == "no-logprobs":
            choice["logprobs"] = None
        if fault == "no-prompt-logprobs":
            choice["prompt_logprobs"] = None
        if fault == "another-prompt":
            choice["prompt_token_ids"] = [1, *choice["prompt_token_ids"]]
        if fault == "cut":
            choice["token_ids"] = choice["token_ids"][:1]
            choice["logprobs"]["token_logprobs"] = choice["logprobs"]["token_logprobs"][:1]
        if fault == "odd-token":
            choice["token_ids"][0] = 1_000_000
        if fault == "odd-logprob":
            choice["logprobs"]["token_logprobs"][0] = 3.5
    if fault == "another-name" and choices:
        found["model"] = "other"
    if fault == "one-less" and choices:
        choices.pop()
    return found


def _send(handler: BaseHTTPRequestHandler, status: int, content: Any) -> None:
    plain = isinstance(content, str)
    data = content.encode() if plain else json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "text/plain" if plain else "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
