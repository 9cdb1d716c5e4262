"""A web server on loopback whose answers a test writes down; it remembers what it was asked."""

import select
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from threading import Event, Thread
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    path: str
    headers: Message


@dataclass
class Answer:
    """What a path is answered with. `etag` and `modified` are compared with what the client knows.

    `cut` is after how many bytes of a body the connection ends, once; `stall` after how many nothing more comes until
    the server's end. `length` is told instead of the true one; -1 is none at all.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    etag: str = ""
    modified: str = ""
    ranges: bool = False
    cut: int = -1
    stall: int = -1
    length: int | None = None
    authorization: str = ""


class Web:
    """The server; `answers` may be changed at any time, a function gets the request."""

    def __init__(self, server: ThreadingHTTPServer, scheme: str, end: Event) -> None:
        self.server, self.scheme, self.end = server, scheme, end
        self.host, self.port = str(server.server_address[0]), server.server_address[1]
        self.answers: dict[str, Answer | Callable[[Asked], Answer]] = {}
        self.asked: list[Asked] = []
        self.carries: dict[str, int] = {}

    def url(self, path: str, host: str = "") -> str:
        return f"{self.scheme}://{host or self.host}:{self.port}{path}"

    def paths(self) -> list[str]:
        return [request.path for request in self.asked]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def do_GET(self) -> None:
        asked = Asked(self.command, self.path, self.headers)
        self.web.asked.append(asked)
        # A proxy is asked for the whole address
        path = self.path.partition("?")[0] if self.path.startswith("/") else self.path
        answer = self.web.answers.get(path, Answer(status=404))
        self.answer(answer(asked) if callable(answer) else answer, asked)

    def do_CONNECT(self) -> None:
        """Be a proxy that carries bytes to the port that `web.carries` has for the host's name."""
        self.web.asked.append(Asked(self.command, self.path, self.headers))
        port = self.web.carries.get(self.path)
        if port is None:
            self.send_error(502)
            return
        with socket.create_connection(("127.0.0.1", port)) as far:
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            pairs = {self.connection: far, far: self.connection}
            while ready := select.select(list(pairs), [], [], 5)[0]:
                for end in ready:
                    data = end.recv(65536)
                    if not data:
                        self.close_connection = True
                        return
                    pairs[end].sendall(data)

    def answer(self, answer: Answer, asked: Asked) -> None:
        if answer.authorization and asked.headers.get("Authorization") != answer.authorization:
            return self._send(Answer(status=401), 0)
        if answer.etag and asked.headers.get("If-None-Match") == answer.etag:
            return self._send(Answer(status=304, etag=answer.etag), 0)
        if answer.modified and asked.headers.get("If-Modified-Since") == answer.modified:
            return self._send(Answer(status=304), 0)
        start = 0
        if answer.ranges and asked.headers.get("If-Range") in (answer.etag, answer.modified):
            start = int(asked.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        return self._send(answer, start)

    def _send(self, answer: Answer, start: int) -> None:
        body = answer.body[start:]
        self.send_response(206 if start else answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(answer.body) - 1}/{len(answer.body)}")
        if answer.etag:
            self.send_header("ETag", answer.etag)
        if answer.modified:
            self.send_header("Last-Modified", answer.modified)
        length = len(body) if answer.length is None else answer.length
        if length >= 0:
            self.send_header("Content-Length", str(length))
        else:
            self.close_connection = True
        self.end_headers()
        if 0 <= answer.cut < len(body):
            body, answer.cut = body[: answer.cut], -1
            self.close_connection = True
        self.wfile.write(body if answer.stall < 0 else body[: answer.stall])
        self.wfile.flush()
        if answer.stall >= 0:
            self.web.end.wait()
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


@contextmanager
def serve(
    certificate: Path | None = None, handler: type[BaseHTTPRequestHandler] = Handler, address: str = "127.0.0.1"
) -> Iterator[Web]:
    """Give a server; with `certificate` (key and certificate as PEM) over TLS."""
    end = Event()
    bound: Any = type("Handler", (handler,), {})
    with _Server((address, 0), bound) as server:
        web = Web(server, "https" if certificate else "http", end)
        bound.web = web
        if certificate is not None:
            context = SSLContext(PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield web
        finally:
            end.set()
            server.shutdown()
            thread.join()


@cache
def _certificate() -> str:
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *(
            "-keyout",
            "-",
            "-days",
            "2",
            "-subj",
            "/CN=loopback",
            "-addext",
            "subjectAltName=IP:127.0.0.1,DNS:tls.example",
        ),
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def certificate(directory: Path) -> Path:
    """Write a key and a certificate for 127.0.0.1, made by openssl, into a file."""
    path = directory / "server.pem"
    path.write_text(_certificate())
    return path


def authority(directory: Path) -> Path:
    """Write the certificate alone into a file."""
    path = directory / "ca.pem"
    path.write_text(_certificate()[_certificate().index("-----BEGIN CERTIFICATE") :])
    return path
