"""Shells of our own client: their events, their descriptors, and what their user decides.

No terminal of a client ever comes here, and no byte of a session passes through: the client is handed descriptors.
They are pipes, or one socket over which the master of a pseudo terminal comes that was made in the sandbox
(`sandbox/terminal.py`). The client copies between them and its own terminal, sets the size of the window, and hangs
up by closing. Their token comes with the event ShellOpened of a build or of `POST /pybuild/v1/shell`.
"""

import asyncio
import json
import os
import socket
from typing import Any

from aiohttp import web

from pybuild.api.request import ShellRequest
from pybuild.daemon.builds import EVENTS, own_lines, stream
from pybuild.daemon.state import STATE
from pybuild.errors import PybuildError, UsageError
from pybuild.sandbox.wire import send_with_fds

_FLUSH_SECONDS = 10.0


async def shell(request: web.Request) -> web.StreamResponse:
    """`POST /pybuild/v1/shell`: a ShellRequest as JSON; answered as a build is, with ShellEnded as the last event."""
    try:
        data = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise UsageError("malformed request of a shell: no JSON") from error
    if not isinstance(data, dict):
        raise UsageError("malformed request of a shell: no JSON object")
    asked = ShellRequest.from_json(data)
    return await stream(
        request,
        lambda engine, root, emit, cancel, _: engine.shell(asked, store_root=root, emit=emit, cancel=cancel),
        EVENTS,
        own_lines,
    )


async def decide(request: web.Request) -> web.Response:
    """`POST /pybuild/v1/decide?token=&decision=`: how a build goes on after a shell (`api.events.DECISIONS`)."""
    engine = await request.app[STATE].engine()
    engine.decide(request.query.get("token", ""), request.query.get("decision", ""))
    return web.json_response({})


async def attach(request: web.Request) -> web.StreamResponse:
    """`POST /pybuild/v1/attach?token=`: two bytes, the descriptors coming along with the second (SCM_RIGHTS).

    Once only; they are the client's then, and closed here.
    """
    engine = await request.app[STATE].engine()
    fds = engine.take(request.query.get("token", ""))
    try:
        response = web.StreamResponse(headers={"Content-Type": "application/vnd.pybuild.descriptors"})
        response.content_length = 2
        await response.prepare(request)
        await response.write(b"f")
        await _flushed(request)
        transport: Any = request.transport
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as connection:
            send_with_fds(connection, b"d", fds)
    finally:
        for fd in fds:
            os.close(fd)
    await response.write_eof()
    return response


async def _flushed(request: web.Request) -> None:
    """Wait until all that was written before has gone, so that what is sent past the transport comes after it."""
    for _ in range(int(_FLUSH_SECONDS * 100)):
        if request.transport is None:
            raise ConnectionResetError
        if isinstance(request.transport, asyncio.WriteTransport) and not request.transport.get_write_buffer_size():
            return
        await asyncio.sleep(0.01)
    raise PybuildError("the client does not read")
