"""A hub on this machine: it answers as huggingface.co does, and misbehaves where a test wants it to."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """``files``: path such as ``owner/name/config.json`` → content; those above ``large`` bytes lie in the storage,
    which has a host name of its own. ``asked``: a line for each request. ``cut``: bytes after which the next transfers
    end. ``status``: what something in between answers in place of the hub.
    """

    files: dict[str, bytes]
    large: int = 1000
    cut: list[int] = field(default_factory=list)
    wrong_digest: bool = False
    status: int = 0
    port: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage(self) -> str:
        return f"http://localhost:{self.port}"

    def transfers(self, name: str) -> list[str]:
        return [line for line in self.asked if line.startswith("GET") and name in line]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: bool) -> None:
        authorised = "token" if self.headers.get("Authorization") else "no token"
        span = self.headers.get("Range", "")
        self.hub.asked.append(f"{self.command} {self.headers['Host']} {self.path} {span} {authorised}")
        if self.hub.status:
            return self.send_plainly(self.hub.status)
        path = urlsplit(self.path).path.lstrip("/")
        if path.startswith("storage/"):
            return self.send(self.hub.files[path.removeprefix("storage/")], body)
        repo, _, rest = path.partition("/resolve/")
        content = self.hub.files.get(f"{repo}/{rest.partition('/')[2]}")
        if content is None:
            known = any(name.startswith(f"{repo}/") for name in self.hub.files)
            return self.refuse("EntryNotFound" if known else "RepoNotFound")
        if len(content) <= self.hub.large:
            return self.send(content, body)
        return self.point(f"{repo}/{rest.partition('/')[2]}", content)

    def send_plainly(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def point(self, name: str, content: bytes) -> None:
        """Large files are elsewhere; the hub itself tells their digest, size and commit."""
        digest = hashlib.sha256(content + b"!" * self.hub.wrong_digest).hexdigest()
        self.send_response(302)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-ETag", f'"{digest}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Location", f"{self.hub.storage}/storage/{name}?signed=yes")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content: bytes, body: bool) -> None:
        span = self.headers.get("Range", "")
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span else 0
        self.send_response(206 if span else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        self.send_header("ETag", f'W/"{blob}"')
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not body:
            return
        if self.hub.cut:
            self.wfile.write(content[start : start + self.hub.cut.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(content[start:])


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    """The hub at work, until the block ends."""
    hub = Hub(files)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
