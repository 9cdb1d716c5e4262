"""gRPC on HTTP/2 streams: messages with a length in front, metadata, and how a call ended. In both roles.

See gRPC over HTTP/2 (PROTOCOL-HTTP2.md). Messages are never compressed.
"""

import base64
import binascii
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import IntEnum
from urllib.parse import quote, unquote

from pybuild.buildkit.http2 import Connection, Stream, StreamResetError
from pybuild.errors import PybuildError
from pybuild.progress.escape import one_line

MAX_MESSAGE = 16 << 20
"""The longest message that is taken, in bytes, as BuildKit has it."""

log = logging.getLogger("pybuild.daemon")

Metadata = Mapping[str, tuple[str, ...]]
Headers = list[tuple[str, str]]


class Code(IntEnum):
    """How a call ended (google.rpc.Code)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class GrpcError(PybuildError):
    """A call that did not end well: `details` is a google.rpc.Status in bytes, b"" when there is none."""

    def __init__(self, code: int, message: str, details: bytes = b"") -> None:
        super().__init__(message)
        self.code = code
        self.details = details


class Call:
    """One call, as either side has it."""

    def __init__(self, stream: Stream, metadata: Metadata) -> None:
        self._stream = stream
        self._bytes = bytearray()
        self._ended = False
        self.metadata = metadata

    def one(self, name: str) -> str:
        """Return the first value of metadata, "" when absent."""
        return next(iter(self.metadata.get(name, ())), "")

    async def receive(self) -> bytes | None:
        """Return the next message, None at the end; raise GrpcError for how the call ended, when that was badly."""
        while True:
            message = self._whole()
            if message is not None:
                return message
            if self._ended:
                return None
            try:
                data = await self._stream.read()
            except StreamResetError as error:
                raise GrpcError(Code.CANCELLED, error.message) from error
            if data:
                self._bytes += data
                continue
            self._ended = True
            if self._bytes:
                raise GrpcError(Code.INTERNAL, "a message was cut short")
            if self._stream.trailers is not None and not self._stream.is_server:
                _raise_for(self._stream.trailers)

    def _whole(self) -> bytes | None:
        if len(self._bytes) < 5:
            return None
        size = int.from_bytes(self._bytes[1:5], "big")
        if self._bytes[0]:
            raise GrpcError(Code.UNIMPLEMENTED, "compressed messages are not supported")
        if size > MAX_MESSAGE:
            raise GrpcError(Code.RESOURCE_EXHAUSTED, f"message is over the limit of {MAX_MESSAGE} bytes: {size}")
        if len(self._bytes) < 5 + size:
            return None
        message = bytes(self._bytes[5 : 5 + size])
        del self._bytes[: 5 + size]
        return message

    async def send(self, message: bytes) -> None:
        """Send a message; wait while much is on its way. Raises GrpcError when the other side is gone."""
        try:
            self._stream.write(b"\0" + len(message).to_bytes(4, "big") + message)
            await self._stream.drain()
        except StreamResetError as error:
            raise GrpcError(Code.CANCELLED, error.message) from error

    def post(self, message: bytes) -> None:
        """Send a message without waiting; what cannot go is dropped."""
        try:
            self._stream.write(b"\0" + len(message).to_bytes(4, "big") + message)
        except StreamResetError:
            # Whoever reads this call is told that it is over
            return

    def end(self) -> None:
        """Tell, as the client, that no more messages follow."""
        self._stream.end()

    def cancel(self) -> None:
        """Give the call up; nothing happens when it is over."""
        self._stream.reset()

    async def gone(self) -> None:
        """Wait until the other side has given the call up."""
        await self._stream.gone.wait()

    def start(self, metadata: Iterable[tuple[str, str]] = ()) -> None:
        """Send, as the server, the headers of the answer now rather than with the first message."""
        self._stream.start_answer([*metadata])


Handler = Callable[[Call], Awaitable[None]]


async def serve(stream: Stream, methods: Mapping[str, Handler]) -> None:
    """Answer one call; what a handler raises becomes the status that the client gets."""
    headers = _metadata(stream.headers)
    path = next(iter(headers.get(":path", ())), "")
    handler = methods.get(path)
    code, message, details = int(Code.OK), "", b""
    call = Call(stream, headers)
    try:
        if handler is None:
            raise GrpcError(Code.UNIMPLEMENTED, f"unknown method: {path}")
        await handler(call)
    except GrpcError as error:
        code, message, details = error.code, error.message, error.details
    except PybuildError as error:
        code, message = Code.UNKNOWN, f"{error.message} ({error.hint})" if error.hint else error.message
    except Exception as error:
        log.exception("%s", one_line(path))
        code, message = Code.INTERNAL, f"unexpected {type(error).__name__}: {error}"
    log.debug("%s %s", one_line(path), code)
    trailers = [("grpc-status", str(code))]
    if message:
        trailers.append(("grpc-message", quote(message, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~", errors="replace")))
    if details:
        trailers.append(("grpc-status-details-bin", base64.b64encode(details).rstrip(b"=").decode()))
    stream.finish(trailers)


def open_call(connection: Connection, path: str, metadata: Headers | None = None) -> Call:
    """Begin, as the client, a call."""
    stream = connection.request(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", path),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", "pybuild"),
            *(metadata or []),
        ]
    )
    return Call(stream, {})


async def unary(connection: Connection, path: str, message: bytes, metadata: Headers | None = None) -> bytes:
    """Make a call of one message each way; raise GrpcError."""
    call = open_call(connection, path, metadata)
    try:
        await call.send(message)
        call.end()
        answer = await call.receive()
        if answer is None:
            raise GrpcError(Code.INTERNAL, f"no answer: {path}")
        # What comes after it says whether all was well
        while await call.receive() is not None:
            pass
        return answer
    finally:
        call.cancel()


async def only(call: Call) -> bytes:
    """Return the one message of a request; raise GrpcError."""
    message = await call.receive()
    if message is None:
        raise GrpcError(Code.INTERNAL, "the request is missing")
    return message


def _metadata(headers: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, value in headers:
        found[name] = (*found.get(name, ()), value)
    return found


def _raise_for(trailers: Headers) -> None:
    found = dict(trailers)
    text = found.get("grpc-status", "")
    code = int(text) if text.isascii() and text.isdigit() else int(Code.UNKNOWN)
    if code == Code.OK:
        return
    encoded = found.get("grpc-status-details-bin", "")
    try:
        details = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
    except binascii.Error:
        details = b""
    raise GrpcError(code, unquote(found.get("grpc-message", "")) or f"code {code}", details)
