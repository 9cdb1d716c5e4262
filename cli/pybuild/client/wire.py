"""HTTP/1.1 (RFC 9112) over a socket, as much as talking to our own daemon takes.

`http.client` would do, but it imports the e-mail parser: 15 ms of a cached build that should take 60.
"""

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from pybuild.client.errors import DaemonError, DaemonGoneError, error_from
from pybuild.client.links import Link, Plain, connect
from pybuild.errors import PybuildError

_CHUNK = 1 << 20
_SMALL = 1 << 16
_MAX_LINE = 1 << 16


class Connection:
    """A connection that carries one request after the other. Not for several threads."""

    def __init__(self, where: Path | Link, name: str = "pybuild") -> None:
        """Connect to the socket at a path, or take a link that is open already; `name` is what the daemon is called."""
        self._name = name
        self.path = where if isinstance(where, Path) else None
        self._link: Link = Plain(connect(where)) if isinstance(where, Path) else where
        self._socket = self._link.socket
        self._failed: PybuildError | None = None
        self._reader = cast(BinaryIO, self._socket.makefile("rb", buffering=1 << 16))

    def close(self) -> None:
        """Close; a build that runs on it is cancelled by the daemon."""
        try:
            # Wakes a thread that is still sending
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            # Closed by the other side already
            pass
        self._reader.close()
        self._link.close()

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        stream: BinaryIO | None = None,
        write: Callable[[BinaryIO], None] | None = None,
    ) -> "Response":
        """Send a request and return its answer with the body still to be read; raise what a status >= 400 tells.

        The body is `body`, and then, sent in chunks from a thread of its own, all of `stream`, or what `write` writes:
        a build may answer before it has read everything. What `write` raises of PybuildError is raised here, or by who
        reads the answer.
        """
        head = [f"{method} {target} HTTP/1.1", f"Host: {self._name}"]
        head += [f"{name}: {value}" for name, value in (headers or {}).items()]
        write = write if stream is None else lambda out: _copy(stream, out)
        if write is not None:
            head.append("Transfer-Encoding: chunked")
        elif body or method in ("POST", "PUT"):
            head.append(f"Content-Length: {len(body)}")
        start = "\r\n".join(head).encode("ascii") + b"\r\n\r\n"
        try:
            if write is None:
                self._socket.sendall(start + body)
            else:
                self._socket.sendall(start)
                self._send_in_background(body, write)
        except (BrokenPipeError, ConnectionResetError):
            # It may have answered before it hung up
            pass
        response = self._read_head()
        if response.status >= 400:
            raise error_from(response.status, response.json())
        return response

    def _send_in_background(self, body: bytes, write: Callable[[BinaryIO], None]) -> None:
        from threading import Thread

        Thread(target=self._send_chunks, args=(body, write), daemon=True, name="upload").start()

    def _send_chunks(self, body: bytes, write: Callable[[BinaryIO], None]) -> None:
        out = _Chunks(self._socket)
        try:
            out.write(body)
            out.flush()
            write(cast(BinaryIO, out))
            out.flush()
            self._socket.sendall(b"0\r\n\r\n")
        except ValueError:
            # The stream was closed under us: the main thread has given up
            self._break()
        except OSError:
            # Either the daemon hung up, and the main thread reads why; or the input broke, and then the daemon
            # must not take the part for the whole
            self._break()
        except PybuildError as error:
            # The main thread, which waits for an answer, is to raise it
            self._failed = error
            self._break(socket.SHUT_RDWR)

    def _break(self, how: int = socket.SHUT_WR) -> None:
        try:
            self._socket.shutdown(how)
        except OSError:
            # Closed already
            pass

    def _read_head(self) -> "Response":
        status_line = self._line()
        version, _, rest = status_line.partition(b" ")
        code = rest[:3]
        if not version.startswith(b"HTTP/1.") or not code.isdigit():
            raise DaemonError(f"what listens on the socket is no pybuild daemon, it says: {status_line[:60]!r}")
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.partition(b":")
            headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        return Response(int(code), headers, self._reader, self._gone)

    def _line(self) -> bytes:
        try:
            line = self._reader.readline(_MAX_LINE)
        except OSError as error:
            raise self._gone() from error
        if not line.endswith(b"\n"):
            raise self._gone()
        return line.rstrip(b"\r\n")

    def _gone(self) -> PybuildError:
        return self._failed or self._link.why() or _gone()


class _Chunks:
    """Sends what is written as chunks of a body (RFC 9112, 7.1); what is small is kept until it is worth one."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._kept = bytearray()

    def write(self, data: bytes) -> int:
        if len(self._kept) + len(data) < _SMALL:
            self._kept += data
            return len(data)
        self.flush()
        if len(data) < _SMALL:
            self._kept += data
        else:
            self._send(data)
        return len(data)

    def flush(self) -> None:
        if self._kept:
            self._send(self._kept)
            self._kept.clear()

    def _send(self, data: bytes | bytearray) -> None:
        self._socket.sendall(b"%x\r\n" % len(data))
        self._socket.sendall(data)
        self._socket.sendall(b"\r\n")


def _copy(stream: BinaryIO, out: BinaryIO) -> None:
    # What a pipe has now, instead of waiting for a full chunk. Past the buffer, in which nothing is yet: its
    # lock, held by this thread while it waits, would make the interpreter abort at its end
    read = getattr(stream, "raw", stream).read
    while data := read(_CHUNK):
        out.write(data)
        out.flush()


class Response:
    """An answer; its body is read once, by one of the methods."""

    def __init__(
        self, status: int, headers: Mapping[str, str], reader: BinaryIO, gone: Callable[[], PybuildError]
    ) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader
        self._gone = gone

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes; raises DaemonGoneError, or what ended the sending, when it is cut short."""
        try:
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                yield from self._chunks()
            else:
                yield from self._counted(int(self.headers.get("content-length", "0")))
        except (OSError, ValueError) as error:
            raise self._gone() from error

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the body, each as soon as it is there."""
        rest = b""
        for piece in self.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
        if rest:
            yield rest

    def read(self) -> bytes:
        """Return the whole body."""
        return b"".join(self.pieces())

    def json(self) -> Any:
        """Return the body as JSON, None when it is none."""
        body = self.read()
        try:
            return json.loads(body)
        except ValueError:
            return None

    def copy_to(self, out: BinaryIO) -> None:
        """Write the whole body to `out`."""
        for piece in self.pieces():
            view = memoryview(piece)
            while view:
                # A raw pipe or terminal may take less than given
                view = view[out.write(view) :]

    def _chunks(self) -> Iterator[bytes]:
        while True:
            size = int(self._reader.readline(_MAX_LINE).split(b";")[0], 16)
            if size == 0:
                while self._reader.readline(_MAX_LINE).strip():
                    pass
                return
            yield from self._counted(size)
            if self._reader.readline(8).strip():
                raise ValueError("chunk without an end")

    def _counted(self, left: int) -> Iterator[bytes]:
        while left:
            piece = self._reader.read(min(left, _CHUNK))
            if not piece:
                raise ValueError("connection closed")
            left -= len(piece)
            yield piece


def _gone() -> DaemonGoneError:
    return DaemonGoneError(
        "the daemon closed the connection before it had answered", "`pybuild daemon logs` may tell why"
    )
