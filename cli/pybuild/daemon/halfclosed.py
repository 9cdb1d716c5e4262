"""Clients that send no more and still listen.

One that shuts its sending side after a whole request is answered, as Go's servers do, and its build goes on until the
connection is gone from both sides: that alone makes a unix socket hang up (poll(2), POLLHUP). In the middle of a
request, and over TCP, where both look the same, the end of what a client sends is the end of the client.
"""

import asyncio
import select
import socket
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler


class Runner(web.AppRunner):
    """Serves an application to such clients too."""

    @property
    def server(self) -> Any:
        """Return what makes a protocol for each connection."""
        served: Any = super().server
        return None if served is None else lambda: _Patient(served, loop=asyncio.get_running_loop(), **served._kwargs)


class _Patient(RequestHandler):
    __slots__ = ("_gone", "_last")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._gone: select.epoll | None = None
        self._last: Any = None
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._gone is not None:
            self._loop.remove_reader(self._gone.fileno())
            self._gone.close()
            self._gone = None
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep the connection for an answer; None closes it at once."""
        connection: Any = None if self.transport is None else self.transport.get_extra_info("socket")
        if connection is None or connection.family != socket.AF_UNIX or not self._answering():
            return None
        self._end_with_the_last()
        self._gone = select.epoll()
        self._gone.register(connection.fileno(), 0)
        self._loop.add_reader(self._gone.fileno(), self._hung_up)
        return True

    async def finish_response(self, request: Any, resp: Any, start_time: float | None) -> Any:
        """Send an answer, and close after the last one that can be asked for."""
        done = await super().finish_response(request, resp, start_time)
        if self._gone is not None:
            self._end_with_the_last()
        return done

    def _end_with_the_last(self) -> None:
        if not self._messages:
            self._close = True

    def data_received(self, data: bytes) -> None:
        """Take what has come, and remember the body of the last request that begins in it."""
        super().data_received(data)
        if self._messages:
            self._last = self._messages[-1][1]

    def _answering(self) -> bool:
        idle = self._waiter is not None and not self._waiter.done()
        return not idle and not self._upgraded and self._last is not None and bool(self._last.is_eof())

    def _hung_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()
