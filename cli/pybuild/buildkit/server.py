"""Connections that the daemon hands over, served: clients' own, and those on which they serve us."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pybuild.buildkit.control import Services
from pybuild.buildkit.grpc import serve
from pybuild.buildkit.host import Host
from pybuild.buildkit.http2 import Connection, Stream
from pybuild.buildkit.sessions import Session, Sessions

log = logging.getLogger("pybuild.daemon")


class Link(asyncio.Protocol):
    """A connection of its own on a transport that was another protocol's before.

    `lost` is called when it ends, so that the other one learns of it.
    """

    def __init__(self, make: Callable[[Callable[[bytes], None]], Connection], lost: Callable[[Exception | None], None]):
        self._make = make
        self._lost = lost
        self.connection: Connection | None = None

    def attach(self, transport: asyncio.Transport) -> Connection:
        """Take over a transport."""
        transport.set_protocol(self)
        self.connection = self._make(transport.write)
        return self.connection

    def data_received(self, data: bytes) -> None:
        """Pass on what comes."""
        if self.connection is not None:
            self.connection.receive(data)

    def eof_received(self) -> bool:
        """Have the transport closed: HTTP/2 knows no half of a connection."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell all that wait."""
        if self.connection is not None:
            self.connection.lost()
        self._lost(error)


class Server:
    """BuildKit's services on any number of connections. Used from the loop only."""

    def __init__(self, host: Host) -> None:
        self._sessions = Sessions()
        self._methods = Services(host, self._sessions).methods()
        self._calls: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.Transport] = set()

    def close(self) -> None:
        """Close all connections."""
        for transport in self._transports:
            transport.abort()

    async def serve(
        self, transport: asyncio.Transport, lost: Callable[[Exception | None], None], first: bytes = b""
    ) -> None:
        """Serve a client until it goes; `first` is what has come already."""
        link = Link(lambda write: Connection(write, is_client=False, serve=self._begin), lost)
        connection = link.attach(transport)
        if first:
            connection.receive(first)
        with self._closing(transport, connection):
            await connection.closed.wait()

    async def serve_session(
        self,
        transport: asyncio.Transport,
        lost: Callable[[Exception | None], None],
        headers: Mapping[str, tuple[str, ...]],
    ) -> None:
        """Have a session of a client that serves us on this transport, until it goes. Raises GrpcError."""
        link = Link(lambda write: Connection(write, is_client=True), lost)
        connection = link.attach(transport)
        with self._closing(transport, connection):
            await self._sessions.serve(Session(headers, connection))

    @contextmanager
    def _closing(self, transport: asyncio.Transport, connection: Connection) -> Iterator[None]:
        self._transports.add(transport)
        try:
            yield
        finally:
            self._transports.discard(transport)
            connection.lost()
            transport.close()

    def _begin(self, stream: Stream) -> None:
        self._keep(serve(stream, self._methods))

    def _keep(self, call: Coroutine[Any, Any, None]) -> None:
        # The loop itself holds tasks weakly
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
