"""A Hugging Face Hub with one model on loopback, with the faults of a network.

It answers what ``huggingface_hub`` asks for a snapshot: revision, tree, HEAD and GET of files, with ranges. Large files
are redirected to a second address, as the real Hub redirects them to its store.
"""

import hashlib
import json
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

LFS = (".safetensors", "tokenizer.json")
"""Files that the Hub keeps outside git, under their sha256."""

Files = dict[str, bytes]


@dataclass(frozen=True)
class Cut:
    """Break the connection after ``after`` bytes of a body; with ``reset`` the client sees a reset, not an end."""

    after: int
    reset: bool = False


@dataclass
class FakeHub:
    """Serve ``commits`` of the model ``name``; a context manager.

    Attributes:
        name: ``owner/name``.
        commits: Files by commit.
        refs: Commit by branch or tag.
        refusal: Status and error code of the answer to every request; None serves.
        cuts: Faults by file, one for each request of the body.
        bodies: What is sent instead of a file.
        gates: Functions by file, called before its body is sent.
        log: Every request so far, as "METHOD path".
        ranges: Every Range header so far.
    """

    name: str
    commits: dict[str, Files]
    refs: dict[str, str]
    refusal: tuple[int, str] | None = None
    cuts: dict[str, list[Cut]] = field(default_factory=lambda: defaultdict(list))
    bodies: Files = field(default_factory=dict)
    gates: dict[str, Callable[[], None]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Listen on two free ports: the Hub and its store."""
        self._changed = threading.Condition()
        handler = partial(_Handler, self)
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self._threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in self._servers]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop; open connections belong to daemon threads."""
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def store_url(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def note(self, request: str) -> None:
        with self._changed:
            self.log.append(request)
            self._changed.notify_all()

    def wait_for(self, fragment: str, times: int) -> None:
        """Wait until ``times`` requests that contain ``fragment`` have come."""
        with self._changed:
            came = self._changed.wait_for(lambda: sum(fragment in request for request in self.log) >= times, timeout=60)
        assert came, f"{fragment} came less than {times} times"

    def commit_of(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)

    def tree(self, commit: str) -> list[dict[str, Any]]:
        return [_entry(path, content) for path, content in self.commits[commit].items()]

    def stored(self, sha256: str) -> tuple[str, bytes]:
        """Return the name and content of a large file by its hash."""
        files = [item for files in self.commits.values() for item in files.items()]
        return next((path, content) for path, content in files if etag(path, content) == sha256)


def etag(path: str, content: bytes) -> str:
    """Return the hash that the Hub names a file by: sha256 for a large one, git's sha1 for a small one."""
    if path.endswith(LFS):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 - git's own


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
    if path.endswith(LFS):
        entry["lfs"] = {"oid": etag(path, content), "size": len(content), "pointerSize": 134}
    return entry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: FakeHub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Print nothing; ``FakeHub.log`` has every request."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        # Not self.path, in which http.server has removed a double slash.
        path = unquote(self.requestline.split()[1].partition("?")[0])
        self.hub.note(f"{self.command} {path}")
        model = f"/api/models/{self.hub.name}"
        if self.hub.refusal is not None:
            status, code = self.hub.refusal
            self._refuse(status, code)
        elif path.startswith("/store/"):
            self._body(*self.hub.stored(path.removeprefix("/store/")))
        elif path == model:
            self._api("revision", "main")
        elif path.startswith(f"{model}/"):
            self._api(*path.removeprefix(f"{model}/").split("/", 1))
        elif path.startswith(f"/{self.hub.name}/resolve/"):
            self._file(*path.removeprefix(f"/{self.hub.name}/resolve/").split("/", 1))
        else:
            self._refuse(404, "RepoNotFound")

    def _api(self, what: str, revision: str) -> None:
        commit = self.hub.commit_of(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
        elif what == "tree":
            self._json(self.hub.tree(commit))
        else:
            siblings = [{"rfilename": path} for path in self.hub.commits[commit]]
            self._json({"id": self.hub.name, "sha": commit, "siblings": siblings})

    def _file(self, revision: str, path: str) -> None:
        commit = self.hub.commit_of(revision) or ""
        content = self.hub.commits.get(commit, {}).get(path)
        if content is None:
            self._refuse(404, "EntryNotFound")
            return
        name, headers = etag(path, content), {"X-Repo-Commit": commit}
        if path.endswith(LFS):
            linked = {"X-Linked-Etag": f'"{name}"', "X-Linked-Size": str(len(content))}
            self._head(302, headers | linked | {"Location": f"{self.hub.store_url}/store/{name}", "Content-Length": "0"})
        else:
            self._body(path, content, headers | {"ETag": f'"{name}"'})

    def _body(self, path: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        content = self.hub.bodies.get(path, content)
        start, total, status = 0, len(content), 200
        if asked := self.headers.get("Range"):
            self.hub.ranges.append(asked)
            start, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
        end = {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if start else {}
        if self.command == "GET" and path in self.hub.gates:
            self.hub.gates[path]()
        self._head(status, (headers or {}) | end | {"Content-Length": str(total - start)})
        if self.command == "GET":
            self._send(content[start:], self.hub.cuts[path])

    def _send(self, content: bytes, cuts: list[Cut]) -> None:
        if not cuts:
            self.wfile.write(content)
            return
        cut = cuts.pop(0)
        self.wfile.write(content[: cut.after])
        self.close_connection = True
        if cut.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _json(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(content))})
        self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        headers = {"X-Error-Code": code} if code else {}
        self._head(status, headers | {"X-Error-Message": HTTPStatus(status).phrase, "Content-Length": "0"})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
