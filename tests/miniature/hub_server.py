"""A stand-in for the Hugging Face hub: it answers what the hub's client asks over HTTP, from files in memory.

The statuses and headers are those of the real hub: a gated repository shows its file list to everybody and its files to those
with access; small files are served after a redirect on the same host, large ones after a redirect to another host.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_miniature"  # the one token with access to gated repositories
LARGE = (".safetensors", ".bin", ".model", ".h5", ".ot", ".msgpack")  # kept in the storage of large files

Files = dict[str, bytes]
Commits = dict[str, Files]
"""{commit: {path: content}}; the last commit is `main`."""


@cache
def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = b""


def _failure(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"X-Error-Code": code, "X-Error-Message": message})


def _as_json(value: Any) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())


class Hub:
    """repositories: by "models/owner/name" or "datasets/owner/name". gated: names that need `TOKEN`. cut: paths of files that
    arrive half. paths: what was asked for, as "METHOD /path"."""

    def __init__(self, repositories: dict[str, Commits] | None = None, gated: set[str] | None = None) -> None:
        self.repositories = repositories or {}
        self.gated = gated or set()
        self.cut: set[str] = set()
        self.paths: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.paths.append(f"{self.command} {self.path.split('?')[0]}")
                answer = hub.answer(urlsplit(self.path).path, self.headers.get("Authorization"))
                self.send_response(answer.status)
                for key, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(answer.body)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, folder: Path) -> dict[str, str]:
        """What points a process at this hub, with its cache in `folder` and with access to gated repositories."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(folder),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": TOKEN,
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def answer(self, path: str, authorization: str | None) -> Answer:
        if stored := re.fullmatch(r"/large/([0-9a-f]{64})/(.+)", path):
            return self._content(stored[1], stored[2])
        information = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/(revision|tree|auth-check)(?:/([^/]+))?)?", path)
        file = re.fullmatch(r"/(?:api/resolve-cache/)?(?:(models|datasets)/)?([^/]+/[^/]+)/(?:resolve/)?([^/]+)/(.+)", path)
        if information:
            kind, name, what, revision = information.groups()
        elif file:
            (kind, name, revision), what = file.groups()[:3], "file"
        else:
            return Answer(404, {})
        repository = f"{kind or 'models'}/{name}"
        if repository not in self.repositories:
            return _failure(404 if authorization else 401, "RepoNotFound", "Repository not found")
        commits = self.repositories[repository]
        commit = list(commits)[-1] if revision in (None, "main") else revision
        if commit not in commits:
            return _failure(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = commits[commit]
        if what == "tree":
            return _as_json([self._entry(path, content) for path, content in files.items()])
        if what in (None, "revision"):
            siblings = [{"rfilename": path} for path in files]
            gated = "manual" if repository in self.gated else False
            return _as_json({"id": name, "sha": commit, "siblings": siblings, "tags": [], "private": False, "gated": gated})
        if repository in self.gated and authorization != f"Bearer {TOKEN}":
            message = f"Access to {kind or 'model'} {name} is restricted."
            return _failure(403 if authorization else 401, "GatedRepo", message)
        if what == "auth-check":
            return _as_json({})
        assert file
        return self._file(repository, commit, unquote(file[4]), files, resolved="resolve-cache" in path)

    def _file(self, repository: str, commit: str, path: str, files: Files, *, resolved: bool) -> Answer:
        if path not in files:
            return _failure(404, "EntryNotFound", "Entry not found")
        content = files[path]
        common = {"X-Repo-Commit": commit, "X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{sha256(content)}"'}
        if path.endswith(LARGE):
            return Answer(302, {**common, "Location": f"http://localhost:{self.port}/large/{sha256(content)}/{path}"})
        if not resolved:
            return Answer(307, {"X-Repo-Commit": commit, "Location": f"/api/resolve-cache/{repository}/{commit}/{path}"})
        return Answer(200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content)

    def _content(self, digest: str, path: str) -> Answer:
        contents = (files.get(path) for commits in self.repositories.values() for files in commits.values())
        content = next((content for content in contents if content is not None and sha256(content) == digest), None)
        if content is None:
            return Answer(404, {})
        return Answer(200, {}, content[: len(content) // 2] if path in self.cut else content)

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        large = {"lfs": {"oid": sha256(content), "size": len(content), "pointerSize": 134}}
        return {**entry, **large} if path.endswith(LARGE) else entry
