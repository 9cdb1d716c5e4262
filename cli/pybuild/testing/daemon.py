"""A daemon that tells what a test has written down: on a unix socket, in the routes of pybuild's own."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from threading import Thread
from typing import Any

IMAGE = "sha256:" + "ab" * 32
BUILT: tuple[Mapping[str, Any], ...] = (
    {"event": "Planned", "steps": [{"label": "[1/1] COPY a /", "stage": "", "line": 2}], "time": 1.0},
    {"event": "StepStarted", "step": 0, "time": 1.0},
    {"event": "StepDone", "step": 0, "time": 1.5, "cached": False, "size": 2},
    {"event": "Built", "image_id": IMAGE, "tags": [], "time": 2.0},
)
"""What a build tells unless a test says otherwise: one step, and an image."""


class FakeDaemon:
    """What the daemon answers, and what it was asked.

    `events` are told for a build, a pull or a push, in the form of `--progress=json`; the last one is Built, Pulled,
    Pushed or Failed. `requests` are what was asked for, the oldest first, `{"method", "path", "body"}`; the body of a
    build is its request.
    """

    def __init__(self) -> None:
        self.events: Sequence[Mapping[str, Any]] = BUILT
        self.requests: list[dict[str, Any]] = []
        self._answers: dict[tuple[str, str], tuple[int, Any]] = {}

    def answer(self, method: str, path: str, value: Any, status: int = 200) -> None:
        """Answer with a value as JSON from now on; `path` is without query. For an error it is `{"message": ...}`."""
        self._answers[method, path] = status, value

    def known(self, method: str, path: str) -> tuple[int, Any]:
        """Return status and value for a request: 404 for one that no test has written down."""
        nothing = {"message": f"the test has no answer to {method} {path}"}
        return self._answers.get((method, path), (404, nothing))


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    told: FakeDaemon


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        told, path = self.server.told, self.path.partition("?")[0]
        body = self._body()
        told.requests.append({"method": self.command, "path": self.path, "body": _value(body)})
        if self.command == "POST" and path in ("/build", "/pybuild/v1/pull", "/pybuild/v1/push"):
            self._send(200, b"".join(json.dumps(event).encode() + b"\n" for event in told.events))
        else:
            status, value = told.known(self.command, path)
            self._send(status, json.dumps(value).encode())

    do_POST = do_DELETE = do_HEAD = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _send(self, status: int, data: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            # Who has heard enough goes, as from the real one
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a test asks for `requests`."""


def _value(body: bytes) -> Any:
    """Return the request in a body: its first line, as what follows is a build's context."""
    try:
        return json.loads(body.partition(b"\n")[0] or b"null")
    except ValueError:
        return None


@contextmanager
def serving(socket: Path, store: str) -> Iterator[FakeDaemon]:
    """Listen on a socket as the daemon of a store."""
    from pybuild import __version__

    told = FakeDaemon()
    told.answer("GET", "/pybuild/v1/status", {"version": __version__, "store": store, "pid": os.getpid()})
    with _Server(str(socket), _Handler) as server:
        server.told = told
        thread = Thread(target=server.serve_forever, args=(0.01,), name="fake-daemon")
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()
