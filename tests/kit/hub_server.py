"""A Hugging Face Hub on 127.0.0.1 for the real client: enough of its HTTP interface to list and download files."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1_000  # bytes from which this Hub keeps a file as the real one keeps large ones: apart, under its sha256


@dataclass
class Repo:
    """A repository: file name -> content. `claims` makes the Hub promise another sha256 than the content has."""

    files: dict[str, bytes]
    commit: str = COMMIT
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    claims: dict[str, str] = field(default_factory=dict)

    def sha256(self, name: str) -> str:
        return self.claims.get(name) or hashlib.sha256(self.files[name]).hexdigest()

    def blob_id(self, name: str) -> str:
        data = self.files[name]
        return self.claims.get(name) or hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def sibling(self, name: str) -> dict[str, Any]:
        size = len(self.files[name])
        entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": self.blob_id(name)}
        if size >= LARGE:
            entry["lfs"] = {"size": size, "sha256": self.sha256(name), "pointerSize": 130}
        return entry


@dataclass
class Hub:
    """A running server. `fail` answers every request with that status; `page` with that text, as a portal would.

    `sent_bytes` counts the bytes of parts of files.
    """

    models: dict[str, Repo] = field(default_factory=dict)
    datasets: dict[str, Repo] = field(default_factory=dict)
    token: str = ""
    fail: int = 0
    page: str = ""
    delay_s: float = 0.0
    ranges: bool = True
    sent_bytes: int = 0
    url: str = ""
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Authorization

    def asked(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, f"{method} {path}")) for method, path, _ in self.requests)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up waiting is what some tests are about, not worth a traceback."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve until the block ends."""
    server = _Server(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def hub_for_this_test(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve, and point the client in this process and its children there, with `home` as its empty folder."""
    import huggingface_hub
    import huggingface_hub.constants as constants

    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    # Or the client asks the public Hub, once a process, for a list to describe its caller by.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    with serving(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
        huggingface_hub.close_session()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer()

        def do_HEAD(self) -> None:
            self.answer()

        def send(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def error(self, status: int, code: str) -> None:
            self.send(status, json.dumps({"error": code}).encode(), X_Error_Code=code, Content_Type="application/json")

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            authorization = self.headers.get("Authorization", "")
            hub.requests.append((self.command, path, authorization))
            time.sleep(hub.delay_s)
            if hub.fail:
                return self.send(hub.fail)
            if hub.page:
                return self.send(200, hub.page.encode(), Content_Type="text/html")
            if hub.token and authorization not in ("", f"Bearer {hub.token}"):
                return self.send(401, X_Error_Message="Invalid credentials in Authorization header")
            if match := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
                return self.content(match[1])
            if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                return self.listing(getattr(hub, match[1]).get(match[2]), match[2], match[3] or "main")
            if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                repos = hub.datasets if match[1] else hub.models
                return self.file(repos.get(match[2]), match[3], match[4], authorization)
            return self.error(404, "RepoNotFound")

        def listing(self, repo: Repo | None, repo_id: str, revision: str) -> None:
            if repo is None:
                return self.error(404 if self.headers.get("Authorization") else 401, "RepoNotFound")
            if revision not in (*repo.revisions, repo.commit):
                return self.error(404, "RevisionNotFound")
            siblings = [repo.sibling(name) for name in repo.files]
            body = {"id": repo_id, "sha": repo.commit, "siblings": siblings, "private": False, "tags": []}
            return self.send(200, json.dumps(body).encode(), Content_Type="application/json")

        def file(self, repo: Repo | None, revision: str, name: str, authorization: str) -> None:
            if repo is None:
                return self.error(404, "RepoNotFound")
            if revision not in (*repo.revisions, repo.commit):
                return self.error(404, "RevisionNotFound")
            if name not in repo.files:
                return self.error(404, "EntryNotFound")
            if repo.gated and authorization != f"Bearer {hub.token}":
                return self.error(403 if authorization else 401, "GatedRepo")
            data = repo.files[name]
            if len(data) < LARGE:
                return self.send(200, data, X_Repo_Commit=repo.commit, ETag=f'"{repo.blob_id(name)}"')
            # The real Hub sends large files from another host, without the token; localhost plays that host.
            storage = hub.url.replace("127.0.0.1", "localhost")
            return self.send(
                302,
                Location=f"{storage}/cdn/{hashlib.sha256(data).hexdigest()}",
                X_Repo_Commit=repo.commit,
                X_Linked_Size=str(len(data)),
                X_Linked_Etag=f'"{repo.sha256(name)}"',
                ETag='"redirect"',
            )

        def content(self, sha256: str) -> None:
            for repo in (*hub.models.values(), *hub.datasets.values()):
                for data in repo.files.values():
                    if hashlib.sha256(data).hexdigest() == sha256:
                        return self.part(data)
            return self.send(404)

        def part(self, data: bytes) -> None:
            """A file's bytes, or the part of them that is asked for."""
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "") if hub.ranges else "")
            if asked is None:
                return self.send(200, data, Content_Type="application/octet-stream")
            start, end = int(asked[1]), min(int(asked[2] or len(data) - 1) + 1, len(data))
            if start >= len(data):
                return self.send(416)
            hub.sent_bytes += end - start
            place = f"bytes {start}-{end - 1}/{len(data)}"
            return self.send(206, data[start:end], Content_Type="application/octet-stream", Content_Range=place)

    return Handler
