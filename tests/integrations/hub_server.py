"""A stand-in for the Hugging Face hub: repositories in memory, spoken to over HTTP.

It answers what `huggingface_hub` asks when it makes a repository, commits files and downloads a
snapshot. All files travel inside the commit, as the hub wants small ones.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

COMMIT = "a" * 40


class Hub:
    """Attributes:
    repos: files by path, for every repository.
    private: whether each was made private.
    asked: method and path of every request.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.url = ""


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A hub at `hub.url`, until the block ends."""
    hub = Hub()
    handler = type("Bound", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self._path()
        if path == "/api/repos/create":
            asked = json.loads(body)
            owner, name = asked.get("organization"), asked["name"]
            repo = f"{owner}/{name}" if owner else name
            if repo in self.hub.repos:
                return self._json({"error": "it exists", "url": f"{self.hub.url}/{repo}"}, 409)
            self.hub.repos[repo], self.hub.private[repo] = (
                {},
                (asked.get("private") or asked.get("visibility") == "private"),
            )
            return self._json({"url": f"{self.hub.url}/{repo}", "name": repo})
        repo, _, action = path.removeprefix("/api/models/").partition("/main")[0].rpartition("/")
        if repo not in self.hub.repos:
            return self._missing()
        if action == "preupload":
            files = json.loads(body)["files"]
            return self._json({"files": [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]})  # fmt: skip
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        for line in lines:
            if line["key"] == "file":
                value = line["value"]
                self.hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
        return self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{COMMIT}",
                           "commitOid": COMMIT, "hookOutput": ""})  # fmt: skip

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._path()
        if path.startswith("/api/models/"):
            return self._about(path.removeprefix("/api/models/"))
        repo, _, rest = path[1:].partition("/resolve/")
        content = self.hub.repos.get(repo, {}).get(rest.partition("/")[2])
        return self._missing() if content is None else self._file(content)

    def _about(self, rest: str) -> None:
        repo = "/".join(rest.split("/")[:2])
        files = self.hub.repos.get(repo)
        if files is None:
            return self._missing()
        if "/tree/" in rest:
            entries = [{"type": "file", "path": name, "size": len(data), "oid": COMMIT}
                       for name, data in files.items()]  # fmt: skip
            return self._json(entries)
        siblings = [{"rfilename": name} for name in files]
        about = {"_id": "1", "id": repo, "sha": COMMIT, "private": self.hub.private[repo]}
        return self._json({**about, "siblings": siblings, "tags": [], "downloads": 0})

    def _path(self) -> str:
        path = unquote(urlparse(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        return path

    def _file(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self._end(content, "application/octet-stream")

    def _json(self, value: object, status: int = 200) -> None:
        self.send_response(status)
        self._end(json.dumps(value).encode(), "application/json")

    def _missing(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("X-Error-Message", "Repository not found")
        self._end(b"{}", "application/json")

    def _end(self, content: bytes, kind: str) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
