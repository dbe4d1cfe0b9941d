"""A model hub on the loopback: what the clients of the Hugging Face hub ask for, from folders.

    server = HubServer({"models/some/model": folder, "datasets/some/rows": other})
    server.tags["models/some/model"] = {"v1.0": older}    # a revision besides main, and what it holds
    server.move("models/some/model", newer)           # main is that from now on; its commits stay
    server.address, server.asked                      # of each request: method and path
    server.gated.add("models/some/model")             # 403, as for who has not accepted its terms
    server.cut["model.safetensors"] = 1000            # the next answer with that file ends there
    server.stop()

Paths, headers and error codes are those of huggingface_hub 2 (file_download.py, hf_api.py, utils/_http.py):
files below /OWNER/NAME/resolve/REVISION/ with ETag and X-Repo-Commit, and /api/... with revision/REVISION,
tree/REVISION, paths-info/REVISION and refs. A folder is a commit; `main`, a tag and the commit itself are
revisions of it. `Loopback` is the ground on which the hub that is written to (export/upload_server.py) stands
as well.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest

from refine_rl.policy.hub import hub_answers
from refine_rl.report.loopback import Server

_API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/?]+)(/[^?]*)?|/(refs))?(?:\?.*)?"
)
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)(?:\?.*)?")


def asked_instead(server: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients ask this server in place of the hub, with a cache of their own, until the test is over."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.address)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hub_answers.cache_clear()


class Loopback(ABC):
    """An HTTP server that runs from its making until `stop`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self._http = Server(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @abstractmethod
    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Writes the reply to a request."""

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                server.asked.append((self.command, self.path))
                server.answer(self, self._body())

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            do_GET = do_POST = do_PUT = do_HEAD = _any

            def log_message(self, *args: Any) -> None: ...

        return Handler

    def send_json(
        self, handler: BaseHTTPRequestHandler, body: Any, status: int = 200, **headers: str
    ) -> None:
        data = json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data)


class HubServer(Loopback):
    """Of models and data sets, to read."""

    def __init__(self, repositories: Mapping[str, Path]) -> None:
        self.repositories = dict(repositories)
        self.tags: dict[str, dict[str, Path]] = {}
        self.gated: set[str] = set()
        self.cut: dict[str, int] = {}
        self._before: list[Path] = []
        super().__init__()

    def move(self, repository: str, folder: Path) -> None:
        """Has `main` hold another folder; the commit of the one before is still there."""
        self._before.append(self.repositories[repository])
        self.repositories[repository] = folder

    def commit(self, repository: str, revision: str = "main") -> str:
        """Of what its folder holds at a revision; "" where there is no such one."""
        if revision == "main":
            return _commit(self.repositories[repository])
        if (tagged := self.tags.get(repository, {}).get(revision)) is not None:
            return _commit(tagged)
        return revision if any(_commit(f) == revision for f in self._folders(repository)) else ""

    def _folders(self, repository: str) -> list[Path]:
        return [self.repositories[repository], *self.tags.get(repository, {}).values(), *self._before]

    def _at(self, repository: str, commit: str) -> Path:
        return next(f for f in self._folders(repository) if _commit(f) == commit)

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if found := _FILE.fullmatch(handler.path):
            kind, name, revision, path = found.groups()
            repository = f"{'datasets' if kind else 'models'}/{name}"
            if commit := self._there(handler, repository, revision):
                self._send_file(handler, self._at(repository, commit), unquote(path))
        elif found := _API.fullmatch(handler.path):
            kind, name, what, revision, below, refs = found.groups()
            repository = f"{kind}/{name}"
            if commit := self._there(handler, repository, revision or "main"):
                told = self._refs(repository) if refs else None
                below = (below or "").strip("/")
                self.send_json(handler, told or self._told(repository, commit, what, below, body))
        elif handler.path == "/":
            self.send_json(handler, {})
        else:
            self._refuse(handler, 404, "", "Not here.")

    def _there(self, handler: BaseHTTPRequestHandler, repository: str, revision: str) -> str:
        """The commit; "", and a refusal, where there is none for whoever asks."""
        if repository not in self.repositories:
            self._refuse(handler, 401, "RepoNotFound", "Repository not found")
        elif repository in self.gated and "/resolve/" in handler.path:
            self._refuse(handler, 403, "GatedRepo", f"Access to {repository} is restricted.")
        elif commit := self.commit(repository, unquote(revision)):
            return commit
        else:
            self._refuse(handler, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return ""

    def _refs(self, repository: str) -> dict[str, list[dict[str, str]]]:
        def ref(kind: str, name: str) -> dict[str, str]:
            commit = self.commit(repository, name)
            return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}

        tags = [ref("tags", name) for name in self.tags.get(repository, {})]
        return {"branches": [ref("heads", "main")], "tags": tags, "converts": []}

    def _told(self, repository: str, commit: str, what: str | None, below: str, body: bytes) -> Any:
        files = _files(self._at(repository, commit))
        if what == "tree":
            return self._tree(files, below)
        if what == "paths-info":
            wanted = parse_qs(body.decode()).get("paths", [])
            if body.startswith(b"{"):
                wanted = json.loads(body)["paths"]
            return [entry for path in wanted for entry in self._tree(files, "") if entry["path"] == path]
        return {
            "_id": "1",
            "id": repository.partition("/")[2],
            "sha": commit,
            "private": False,
            "gated": "manual" if repository in self.gated else False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": name, "size": f.stat().st_size} for name, f in files.items()],
        }

    def _tree(self, files: Mapping[str, Path], below: str) -> list[dict[str, Any]]:
        """Files and folders at any depth below a folder."""
        inner = {n: f for n, f in files.items() if not below or n == below or n.startswith(f"{below}/")}
        folders = {str(p) for name in inner for p in Path(name).parents if str(p) != "."}
        return [
            *({"type": "directory", "oid": "0" * 40, "size": 0, "path": p} for p in sorted(folders)),
            *(
                {"type": "file", "oid": _sum(f), "size": f.stat().st_size, "path": n}
                for n, f in inner.items()
            ),
        ]

    def _send_file(self, handler: BaseHTTPRequestHandler, folder: Path, path: str) -> None:
        file = _files(folder).get(path)
        if file is None:
            self._refuse(handler, 404, "EntryNotFound", "Entry not found", commit=_commit(folder))
            return
        data, start = file.read_bytes(), 0
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", "")):
            start, whole = int(wanted[1]), len(data)
            data = data[: int(wanted[2]) + 1] if wanted[2] else data
        handler.send_response(206 if wanted else 200)
        if wanted:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{whole}")
        handler.send_header("ETag", f'"{_sum(file)}"')
        handler.send_header("X-Repo-Commit", _commit(folder))
        handler.send_header("Accept-Ranges", "bytes")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        end = start + self.cut.pop(path) if path in self.cut else len(data)
        handler.wfile.write(data[start:end])
        if end < len(data):
            handler.close_connection = True

    def _refuse(
        self, handler: BaseHTTPRequestHandler, status: int, code: str, message: str, *, commit: str = ""
    ) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
        self.send_json(handler, {"error": message}, status, **{n: v for n, v in headers.items() if v})


def _files(folder: Path) -> dict[str, Path]:
    return {str(f.relative_to(folder)): f for f in sorted(folder.rglob("*")) if f.is_file()}


def _commit(folder: Path) -> str:
    names = "\n".join(f"{name} {_sum(file)}" for name, file in _files(folder).items())
    return hashlib.sha1(names.encode()).hexdigest()


def _sum(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
