"""HTTP/2 on any way that takes and gives bytes, in both roles: a protocol core (h2) and streams to wait on.

Everything runs in the loop. Bytes that come are given to `Connection.receive`, bytes that go to the `write` it was made
with; flow control keeps both bounded. See RFC 9113.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import Encoder

from pybuild.errors import PybuildError

STREAM_WINDOW = 8 << 20
CONNECTION_WINDOW = 16 << 20
"""How much may come before it is read, in bytes; with the protocol's 64 KiB a context comes at half the speed."""

MAX_STREAMS = 256
MAX_HEADERS = 1 << 20
_PENDING = 1 << 20
"""How much a writer may be ahead of what the other side has room for, in bytes."""

Headers = list[tuple[str, str]]


class _Encoder(Encoder):
    """Writes strings as they are: the library's Huffman code takes time by the square of their length, and what
    went wrong is told in a header that holds a whole Dockerfile.
    """

    def encode(self, headers: Any, huffman: bool = False) -> bytes:
        return super().encode(headers, huffman=False)


class StreamResetError(PybuildError):
    """The other side gave a stream up, or is gone."""


class Stream:
    """One request and its answer. Waited on by one task at a time in each direction."""

    def __init__(self, connection: "Connection", number: int, headers: Headers) -> None:
        self.connection = connection
        self.number = number
        self.headers = headers
        self.trailers: Headers | None = None
        self.is_server = not connection.is_client
        self._came: deque[tuple[bytes, int]] = deque()
        self._going: deque[bytes] = deque()
        self._size = 0
        self._last: Headers | None = None
        self._ending = False
        self._answered = connection.is_client
        self._closed_here = False
        self._closed_there = False
        self._lost = ""
        self.gone = asyncio.Event()
        """Set when the other side gave the stream up, or is not there any more."""
        self._readable = asyncio.Event()
        self._roomy = asyncio.Event()
        self._roomy.set()

    async def read(self) -> bytes:
        """Return what has come, b"" at the end; raise StreamResetError."""
        while not self._came:
            if self._closed_there:
                return b""
            if self._lost:
                raise StreamResetError(self._lost)
            self._readable.clear()
            await self._readable.wait()
        data, size = self._came.popleft()
        self.connection.taken(self.number, size)
        return data

    def write(self, data: bytes) -> None:
        """Send when there is room; raise StreamResetError."""
        if self._lost or self._closed_here or self._ending:
            raise StreamResetError(self._lost or "the call is over")
        if not self._answered:
            self.start_answer([])
        self._going.append(data)
        self._size += len(data)
        self.pump()

    async def drain(self) -> None:
        """Wait until little is left to send; raise StreamResetError."""
        while self._size > _PENDING and not self._lost:
            self._roomy.clear()
            await self._roomy.wait()
        if self._lost:
            raise StreamResetError(self._lost)

    def start_answer(self, headers: Headers) -> None:
        """Send the headers of the answer, as the server."""
        if self._answered or self._lost:
            return
        self._answered = True
        self.connection.send_headers(
            self.number, [(":status", "200"), ("content-type", "application/grpc"), *headers], end=False
        )

    def finish(self, trailers: Headers) -> None:
        """End the answer, as the server, behind all that was written."""
        if self._lost or self._ending:
            return
        self.start_answer([])
        self._last = trailers
        self._ending = True
        self.pump()

    def end(self) -> None:
        """End the request, as the client, behind all that was written."""
        if not self._lost:
            self._ending = True
            self.pump()

    def reset(self) -> None:
        """Give the stream up, unless it is over."""
        if not self._lost and not (self._closed_here and self._closed_there):
            self._lost = "the call was given up"
            self._going.clear()
            self._size = 0
            self.connection.reset(self.number)
            self._wake()

    def pump(self) -> None:
        """Send what there is room for."""
        if self._closed_here or self._lost:
            return
        while self._going:
            room = self.connection.room(self.number)
            if room <= 0:
                break
            data = self._going.popleft()
            if len(data) > room:
                self._going.appendleft(data[room:])
                data = data[:room]
            self._size -= len(data)
            self.connection.send_data(self.number, data)
        if self._size <= _PENDING // 2:
            self._roomy.set()
        if self._ending and not self._going:
            self._closed_here = True
            if self._last is not None:
                self.connection.send_headers(self.number, self._last, end=True)
                if not self._closed_there:
                    # What else the client has to say changes nothing (RFC 9113, section 8.1)
                    self.connection.reset(self.number, ErrorCodes.NO_ERROR)
            else:
                self.connection.end(self.number)
            self._forget()

    # -- what the connection tells

    def came(self, data: bytes, size: int) -> None:
        """Take data; `size` is what it counts in flow control."""
        self._came.append((data, size))
        self._readable.set()

    def ended(self) -> None:
        """The other side sends no more."""
        self._closed_there = True
        self._readable.set()
        self._forget()

    def lost(self, why: str) -> None:
        """The other side is not there any more. What has come and ended well can still be read."""
        self._lost = why
        self._going.clear()
        self._size = 0
        self.gone.set()
        self._wake()

    def _wake(self) -> None:
        self._readable.set()
        self._roomy.set()

    def _forget(self) -> None:
        if self._closed_here and self._closed_there:
            self.connection.forget(self.number)


class Connection:
    """A connection; `serve` is called with each stream that the other side begins.

    `write` takes bytes to send and must not wait. `closed` is set when it is over.
    """

    def __init__(
        self, write: Callable[[bytes], None], *, is_client: bool, serve: Callable[[Stream], None] | None = None
    ) -> None:
        self.is_client = is_client
        self.closed = asyncio.Event()
        self._write = write
        self._serve = serve
        self._streams: dict[int, Stream] = {}
        self._core = H2Connection(H2Configuration(client_side=is_client, header_encoding="utf-8"))
        # Not an update of the settings there are: that would count once the other side has agreed
        self._core.local_settings = Settings(
            client=is_client,
            initial_values={
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS,
            },
        )
        self._core.encoder = _Encoder()
        self._core.decoder.max_header_list_size = MAX_HEADERS
        self._core.initiate_connection()
        self._core.increment_flow_control_window(CONNECTION_WINDOW - 65535)
        self._flush()

    def receive(self, data: bytes) -> None:
        """Take bytes of the other side; nonsense ends the connection."""
        if self.closed.is_set():
            return
        try:
            events = self._core.receive_data(data)
        except (ProtocolError, UnicodeDecodeError) as error:
            self._flush()
            self.lost(f"not HTTP/2: {error}")
            return
        begun: list[Stream] = []
        for event in events:
            match event:
                case RequestReceived():
                    stream = Stream(self, event.stream_id, _text(event.headers))
                    self._streams[event.stream_id] = stream
                    begun.append(stream)
                case DataReceived():
                    self._data(event)
                case ResponseReceived() | TrailersReceived():
                    known = self._streams.get(event.stream_id)
                    if known is not None:
                        # An answer without content has its trailers at once
                        known.trailers = _text(event.headers)
                case StreamEnded():
                    known = self._streams.get(event.stream_id)
                    if known is not None:
                        known.ended()
                case StreamReset():
                    known = self._streams.pop(event.stream_id, None)
                    if known is not None and event.error_code == ErrorCodes.NO_ERROR and self.is_client:
                        # How servers say that they want no more of a request; the answer may not be read yet
                        known.ended()
                    elif known is not None:
                        known.lost("the call was cancelled by the other side")
                case WindowUpdated():
                    self._pump(event.stream_id)
                case ConnectionTerminated():
                    if event.error_code != ErrorCodes.NO_ERROR:
                        self.lost("the connection was closed by the other side")
                        return
        self._flush()
        for stream in begun:
            if self._serve is None:
                stream.reset()
            else:
                self._serve(stream)

    def _data(self, event: DataReceived) -> None:
        stream, size = self._streams.get(event.stream_id), event.flow_controlled_length or 0
        if stream is None or not event.data:
            self.taken(event.stream_id, size)
        if stream is not None and event.data:
            stream.came(event.data, size)

    def _pump(self, number: int) -> None:
        waiting = (
            [*self._streams.values()] if number == 0 else [self._streams[number]] if number in self._streams else []
        )
        for stream in waiting:
            stream.pump()

    def lost(self, why: str = "the connection is gone") -> None:
        """The way is gone: all that wait are told."""
        if self.closed.is_set():
            return
        self.closed.set()
        streams, self._streams = [*self._streams.values()], {}
        for stream in streams:
            stream.lost(why)

    def request(self, headers: Headers) -> Stream:
        """Begin a stream, as the client; raise StreamResetError when the connection is gone."""
        if self.closed.is_set():
            raise StreamResetError("the connection is gone")
        number = self._core.get_next_available_stream_id()
        stream = self._streams[number] = Stream(self, number, headers)
        self._core.send_headers(number, headers)
        self._flush()
        return stream

    # -- what streams ask for; a stream that h2 knows no more of was ended by the other side, which is told elsewhere

    def room(self, number: int) -> int:
        """Return how many bytes may be sent on a stream now."""
        try:
            return min(self._core.local_flow_control_window(number), self._core.max_outbound_frame_size)
        except ProtocolError:
            return 0

    def send_headers(self, number: int, headers: Headers, *, end: bool) -> None:
        """Send headers or trailers."""
        self._do(lambda: self._core.send_headers(number, headers, end_stream=end))

    def send_data(self, number: int, data: bytes) -> None:
        """Send data for which there is room."""
        self._do(lambda: self._core.send_data(number, data))

    def end(self, number: int) -> None:
        """Send the end of a stream."""
        self._do(lambda: self._core.end_stream(number))

    def reset(self, number: int, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Give a stream up."""
        self._do(lambda: self._core.reset_stream(number, code))
        self.forget(number)

    def taken(self, number: int, size: int) -> None:
        """Make room for more of what was read."""
        if size:
            self._do(lambda: self._core.acknowledge_received_data(size, number))

    def forget(self, number: int) -> None:
        """Drop a stream that is over."""
        self._streams.pop(number, None)

    def _do(self, call: Callable[[], object]) -> None:
        if self.closed.is_set():
            return
        try:
            call()
        except ProtocolError:
            # Ended by the other side in what is not read yet
            pass
        self._flush()

    def _flush(self) -> None:
        data = self._core.data_to_send()
        if data:
            self._write(data)


def _text(headers: object) -> Headers:
    assert isinstance(headers, list)
    return [(str(name), str(value)) for name, value in headers]
