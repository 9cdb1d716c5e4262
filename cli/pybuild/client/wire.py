"""HTTP/1.1 (RFC 9112) over a unix socket, as much as talking to our own daemon takes.

`http.client` would do, but it imports the e-mail parser: 15 ms of a cached build that should take 60.
"""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from pybuild.client.errors import DaemonError, DaemonGoneError, error_from

_CHUNK = 1 << 20
_MAX_LINE = 1 << 16
_MAX_PATH = 107
"""Longest path of a unix socket (unix(7), sun_path)."""


def connect(path: Path) -> socket.socket:
    """Return a connected socket; raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if len(os.fsencode(path)) <= _MAX_PATH:
            connection.connect(str(path))
        else:
            # A long directory is reached through a descriptor of it
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.close(directory)
    except BaseException:
        connection.close()
        raise
    return connection


class Connection:
    """A connection that carries one request after the other. Not for several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = connect(path)
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
        self._socket.close()

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        stream: BinaryIO | None = None,
    ) -> "Response":
        """Send a request and return its answer with the body still to be read; raise what a status >= 400 tells.

        The body is `body`, and then, sent in chunks from a thread of its own, all of `stream`: a build may answer
        before it has read everything.
        """
        head = [f"{method} {target} HTTP/1.1", "Host: pybuild"]
        head += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if stream is not None:
            head.append("Transfer-Encoding: chunked")
        elif body or method in ("POST", "PUT"):
            head.append(f"Content-Length: {len(body)}")
        start = "\r\n".join(head).encode("ascii") + b"\r\n\r\n"
        try:
            if stream is None:
                self._socket.sendall(start + body)
            else:
                self._socket.sendall(start)
                self._send_in_background(body, stream)
        except (BrokenPipeError, ConnectionResetError):
            # It may have answered before it hung up
            pass
        response = self._read_head()
        if response.status >= 400:
            raise error_from(response.status, response.json())
        return response

    def _send_in_background(self, body: bytes, stream: BinaryIO) -> None:
        from threading import Thread

        Thread(target=self._send_chunks, args=(body, stream), daemon=True, name="upload").start()

    def _send_chunks(self, body: bytes, stream: BinaryIO) -> None:
        try:
            if body:
                self._send_chunk(body)
            # What a pipe has now, instead of waiting for a full chunk. Past the buffer, in which nothing is yet: its
            # lock, held by this thread while it waits, would make the interpreter abort at its end
            read = getattr(stream, "raw", stream).read
            while data := read(_CHUNK):
                self._send_chunk(data)
            self._socket.sendall(b"0\r\n\r\n")
        except ValueError:
            # The stream was closed under us: the main thread has given up
            self._break()
        except OSError:
            # Either the daemon hung up, and the main thread reads why; or the input broke, and then the daemon
            # must not take the part for the whole
            self._break()

    def _send_chunk(self, data: bytes) -> None:
        self._socket.sendall(b"%x\r\n" % len(data))
        self._socket.sendall(data)
        self._socket.sendall(b"\r\n")

    def _break(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
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
        return Response(int(code), headers, self._reader)

    def _line(self) -> bytes:
        try:
            line = self._reader.readline(_MAX_LINE)
        except OSError as error:
            raise _gone() from error
        if not line.endswith(b"\n"):
            raise _gone()
        return line.rstrip(b"\r\n")


class Response:
    """An answer; its body is read once, by one of the methods."""

    def __init__(self, status: int, headers: Mapping[str, str], reader: BinaryIO) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes; raises DaemonGoneError when it is cut short."""
        try:
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                yield from self._chunks()
            else:
                yield from self._counted(int(self.headers.get("content-length", "0")))
        except (OSError, ValueError) as error:
            raise _gone() from error

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
