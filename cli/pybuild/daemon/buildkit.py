"""Connections that become BuildKit's: `POST /grpc` and `POST /session`, and HTTP/2 on the socket itself.

The first two ask for an upgrade to h2c. With prior knowledge a client begins with HTTP/2's preface, which is no
HTTP/1.1: the first bytes of each connection decide, so that one socket serves both.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, Any, TypeVar, cast

from aiohttp import web

from pybuild.api.events import Event
from pybuild.api.request import BuildRequest
from pybuild.daemon.bridges import in_thread
from pybuild.daemon.builds import within_limits
from pybuild.daemon.halfclosed import Runner as Patient
from pybuild.daemon.happenings import HAPPENINGS
from pybuild.daemon.peers import stranger
from pybuild.daemon.state import STATE
from pybuild.errors import PybuildError, UsageError

if TYPE_CHECKING:
    from pybuild.buildkit.server import Server

PREFACE = b"PRI * HTTP/2.0"
"""How HTTP/2 begins (RFC 9113, section 3.4); no request of HTTP/1.1 has this method."""

_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"

log = logging.getLogger("pybuild.daemon")

T = TypeVar("T")


class _Host:
    """The daemon, as far as BuildKit's services need it."""

    def __init__(self, app: web.Application) -> None:
        self._app = app

    @property
    def store_root(self) -> Path:
        return self._app[STATE].store_root

    async def engine(self) -> Any:
        return await self._app[STATE].engine()

    async def in_thread(self, call: Callable[[], T]) -> T:
        return await in_thread(call, "build")

    def begin_build(self, cancel: Flag) -> None:
        self._app[STATE].begin_build(cancel)

    def end_build(self, cancel: Flag) -> None:
        self._app[STATE].end_build(cancel)

    def done(self, last: Event) -> None:
        self._app[HAPPENINGS].done(last)

    def within_limits(self, request: BuildRequest) -> BuildRequest:
        return within_limits(request)


class Buildkit:
    """BuildKit's services, imported when the first client asks for them."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._server: Server | None = None
        self.undecided: set[asyncio.Transport] = set()
        """Connections of which nothing is known yet."""

    async def close(self, app: web.Application) -> None:
        """Close all connections, at the end of the daemon."""
        for transport in self.undecided:
            transport.abort()
        if self._server is not None:
            self._server.close()

    @property
    def server(self) -> "Server":
        """Return what serves connections."""
        if self._server is None:
            from pybuild.buildkit.server import Server

            self._server = Server(_Host(self._app))
        return self._server


BUILDKIT: web.AppKey[Buildkit] = web.AppKey("buildkit", Buildkit)


async def grpc(request: web.Request) -> web.StreamResponse:
    """`POST /grpc`, upgraded to h2c: BuildKit's services"""
    transport, lost = _upgraded(request)
    await request.app[BUILDKIT].server.serve(transport, lost)
    return web.Response(status=499)


async def session(request: web.Request) -> web.StreamResponse:
    """`POST /session`, upgraded to h2c: on this connection the client serves us"""
    headers = {name.lower(): tuple(request.headers.getall(name)) for name in request.headers}
    if not headers.get("x-docker-expose-session-uuid"):
        raise UsageError("a session needs an id: X-Docker-Expose-Session-Uuid")
    server = request.app[BUILDKIT].server
    transport, lost = _upgraded(request)
    try:
        await server.serve_session(transport, lost, headers)
    except PybuildError as error:
        # It is no HTTP/1.1 any more, so that nobody can be told
        log.warning("%s", error.message)
    return web.Response(status=499)


def _upgraded(request: web.Request) -> tuple[asyncio.Transport, Callable[[Exception | None], None]]:
    """Switch protocols; return the transport and what to call when it ends. Raises UsageError without the header."""
    if request.headers.get("Upgrade", "").lower() != "h2c":
        raise UsageError("the connection must be upgraded to h2c: this is for BuildKit's clients")
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    # A client speaks HTTP/2 once it has read this: it is sent before and read by another protocol behind it
    transport.write(_SWITCHING)
    return transport, request.protocol.connection_lost


class Runner(Patient):
    """Serves HTTP/1.1 by aiohttp, and HTTP/2 to those who begin with it."""

    @property
    def server(self) -> Any:
        """Return what makes a protocol for each connection."""
        served = super().server
        return None if served is None else lambda: _Beginning(self.app, served)


class _Beginning(asyncio.Protocol):
    """A connection of which nothing is known yet; its first bytes decide who goes on."""

    def __init__(self, app: web.Application, serve: Callable[[], Any]) -> None:
        self._app = app
        self._serve = serve
        self._first = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._app[BUILDKIT].undecided.add(self._transport)

    def data_received(self, data: bytes) -> None:
        self._first += data
        if PREFACE.startswith(self._first[: len(PREFACE)]) and len(self._first) < len(PREFACE):
            return
        self._app[BUILDKIT].undecided.discard(self._transport)
        if self._first.startswith(PREFACE):
            self._task = asyncio.get_running_loop().create_task(self._serve_http2())
            return
        self._hand_over(self._first)

    def eof_received(self) -> bool:
        # What came is too little for either
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._app[BUILDKIT].undecided.discard(self._transport)

    def _hand_over(self, first: bytes) -> None:
        became = self._serve()
        self._transport.set_protocol(became)
        became.connection_made(self._transport)
        became.data_received(first)

    async def _serve_http2(self) -> None:
        first, self._first = self._first, b""
        with self._app[STATE].request():
            if why := stranger(self._transport):
                log.warning("refused a connection: %s", why)
                self._transport.abort()
                return
            await self._app[BUILDKIT].server.serve(self._transport, lambda error: None, first)
