"""As much of the hub's protocol as an upload needs: who one is, a repository, which files are large, those
sent aside by their SHA-256, a commit, its files."""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler
from typing import Any

from hub_server import Loopback

TOKEN = "hf_" + "secret" * 4


class UploadServer(Loopback):
    """`files` are the repository's, by path; None: there is none yet. `spoil` is the file of which it keeps
    something else; `status` refuses to make a repository."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, bool]] | None = None
        self.made: dict[str, Any] = {}
        self.blobs: dict[str, bytes] = {}
        self.spoil = ""
        self.status = 0
        super().__init__()

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        path = handler.path.partition("?")[0]
        said, status = self._said(handler.command, path, body, handler.headers.get("Authorization"))
        headers = {"X-Error-Code": "RepoNotFound"} if status == 404 else {}
        self.send_json(handler, said, status, **headers)

    def _said(self, verb: str, path: str, body: bytes, token: str | None) -> tuple[Any, int]:
        if verb == "HEAD":
            return {}, 200
        if verb == "PUT":
            self.blobs[path.rpartition("/")[2]] = body
            return {}, 200
        if token != f"Bearer {TOKEN}":
            return {"error": "Invalid credentials"}, 401
        if path == "/api/whoami-v2":
            return {"name": "me", "type": "user", "orgs": [{"name": "team"}]}, 200
        if path == "/api/repos/create":
            if self.status:
                return {"error": "no"}, self.status
            self.files, self.made = self.files or {}, json.loads(body)
            return {"url": f"{self.address}/me/model"}, 200
        if self.files is None:
            return {"error": "Repository not found"}, 404
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return {
                "files": [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for f in asked
                ]
            }, 200
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            put = [{**o, "actions": {"upload": {"href": f"{self.address}/put/{o['oid']}"}}} for o in objects]
            return {"transfer": "basic", "objects": put}, 200
        if "/commit/" in path:
            self._commit(body)
            return {"commitUrl": f"{self.address}/me/model/commit/{'c' * 40}", "commitOid": "c" * 40}, 200
        if "/tree/" in path:
            return [self._entry(name, *kept) for name, kept in self.files.items()], 200
        return {"sha": "c" * 40, "id": "me/model", "siblings": []}, 200

    def _commit(self, body: bytes) -> None:
        assert self.files is not None
        for line in body.decode().splitlines():
            said = json.loads(line)
            value = said["value"]
            if said["key"] == "file":
                self.files[value["path"]] = (base64.b64decode(value["content"]), False)
            elif said["key"] == "lfsFile":
                self.files[value["path"]] = (self.blobs[value["oid"]], True)
        if self.spoil:
            content, large = self.files[self.spoil]
            self.files[self.spoil] = (content[:-1] + b"?", large)

    @staticmethod
    def _entry(name: str, content: bytes, large: bool) -> dict[str, Any]:
        head = b"blob %d\0" % len(content)
        oid = hashlib.sha1(head + content, usedforsecurity=False).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": oid}
        if large:
            sha = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 134}
        return entry
