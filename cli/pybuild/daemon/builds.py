"""`POST /build`, in our own dialect and in Docker's."""

import asyncio
import io
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event as Flag
from time import time
from typing import BinaryIO, cast

from aiohttp import StreamReader, web

from pybuild.api.events import Built, Event, Failed, Failure, to_json
from pybuild.api.request import BuildRequest
from pybuild.daemon.answers import boolean, error_body
from pybuild.daemon.bridges import Body, Outbox, in_thread
from pybuild.daemon.dockerbuild import DockerStream, error_object, given, request_from_query
from pybuild.daemon.engine import Engine
from pybuild.daemon.happenings import HAPPENINGS
from pybuild.daemon.state import STATE
from pybuild.engine import reach
from pybuild.errors import NotFoundError, UsageError
from pybuild.progress.escape import one_line

BUILD = "application/vnd.pybuild.build"
EVENTS = "application/vnd.pybuild.events+jsonl"
MAX_REQUEST = 16 << 20
"""Largest request of our own dialect in bytes; a Dockerfile from standard input is part of it."""

log = logging.getLogger("pybuild.daemon")

Work = Callable[[Engine, Path, Callable[[Event], None], Flag, BinaryIO | None], Event]
"""Does something of the engine's and returns its last event: (engine, store, emit, cancel, body)."""


async def build(request: web.Request) -> web.StreamResponse:
    """Build and stream what happens.

    Our client says `Content-Type: application/vnd.pybuild.build`: the first line of the body is the request as
    JSON, the rest the context if the request names none; the answer is one event a line. Everybody else sends
    Docker's parameters and a tar, and gets Docker's stream.
    """
    if request.content_type == BUILD:
        line, rest = await _first_line(request.content)
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError("malformed build request: no JSON") from error
        if not isinstance(data, dict):
            raise UsageError("malformed build request: no JSON object")
        asked = BuildRequest.from_json(data)
        return await _build(request, asked, rest, EVENTS, own_lines)
    asked = within_limits(request_from_query(request.query))._replace(
        proxies=reach.proxies(), registries=reach.settings()._replace(given=given(request.headers, ""))
    )
    docker = DockerStream(quiet=boolean(request.query, "q"))

    def docker_lines(event: Event) -> bytes:
        return b"".join(json.dumps(item).encode() + b"\r\n" for item in docker.objects(event))

    return await _build(request, asked, b"", "application/json", docker_lines)


def within_limits(asked: BuildRequest) -> BuildRequest:
    """Return the request with the limits of the store that are the daemon's: Docker's clients know none."""
    from pybuild.engine import paths, room

    most, least = room.limits({}, os.environ, paths.config())
    return asked._replace(max_size=most, min_free=least)


def own_lines(event: Event) -> bytes:
    """Return an event as a line of our own dialect."""
    return json.dumps(to_json(event), separators=(",", ":")).encode() + b"\n"


async def _build(
    request: web.Request, asked: BuildRequest, first: bytes, content_type: str, encode: Callable[[Event], bytes]
) -> web.StreamResponse:
    def work(engine: Engine, root: Path, emit: Callable[[Event], None], cancel: Flag, body: BinaryIO | None) -> Event:
        return engine.build(asked, store_root=root, context_stream=body, emit=emit, cancel=cancel)

    return await stream(request, work, content_type, encode, first, sends_context=not asked.context, refused=_refused)


def _refused(failure: Failure, error: BaseException) -> web.Response:
    # No stage or Dockerfile of a name: a 404 is for images, which clients take for one that is not there
    return refusal(failure, error, status=400 if type(error) is NotFoundError else 0)


async def stream(
    request: web.Request,
    work: Work,
    content_type: str,
    encode: Callable[[Event], bytes],
    first: bytes = b"",
    *,
    sends_context: bool = False,
    refused: Callable[[Failure, BaseException], web.Response] | None = None,
) -> web.StreamResponse:
    """Do something of the engine's in a thread and send its events; a client that goes away cancels it.

    Docker's clients are told of what fails before the first event by a status, ours by the last event alone;
    `refused` makes another answer of it.
    """
    state = request.app[STATE]
    response = web.StreamResponse(headers={"Content-Type": content_type})
    cancel = state.begin_build()
    outbox = Outbox()
    started = time()
    engine_running = False
    raised: list[BaseException] = []
    try:
        engine = await state.engine()
        async with _body(request, first, cancel, wanted=sends_context) as body:

            def run() -> Event:
                try:
                    return work(engine, state.store_root, outbox.put, cancel, body)
                except BaseException as error:
                    raised.append(error)
                    step = getattr(error, "step", -1)
                    return Failed(engine.failure_of(error), step if isinstance(step, int) else -1, time())

            def ended(_: object) -> None:
                state.end_build(cancel)
                outbox.close()

            worker = asyncio.create_task(in_thread(run, "build"))
            engine_running = True
            worker.add_done_callback(ended)
            response.enable_chunked_encoding()
            if content_type == EVENTS:
                await response.prepare(request)
            async for events in outbox.batches():
                data = b"".join(map(encode, events))
                if not data:
                    # Nothing of it is for this client, to whom a status may still tell what fails
                    continue
                if not response.prepared:
                    await response.prepare(request)
                await response.write(data)
            last = await worker
            _tell(last, started)
            request.app[HAPPENINGS].done(last)
            if response.prepared or not isinstance(last, Failed):
                if not response.prepared:
                    await response.prepare(request)
                await response.write(encode(last))
    except BaseException:
        # The client went away, or this handler was cancelled because it did
        if not cancel.is_set():
            log.info("build cancelled")
        cancel.set()
        outbox.close()
        raise
    finally:
        if not engine_running:
            state.end_build(cancel)
    if not response.prepared:
        assert isinstance(last, Failed)
        return (refused or refusal)(last.failure, raised[0])
    await response.write_eof()
    return response


def refusal(failure: Failure, error: BaseException, *, status: int = 0) -> web.Response:
    """Return the answer to a Docker client for what failed before anything was sent; 0 is the error's own status."""
    own, body = error_body(error)
    status = status or own
    # In a stream and as an answer it is the same sentence, with the line of the Dockerfile
    return web.json_response({**body, "message": error_object(failure)["error"]}, status=status)


def _tell(last: Event, started: float) -> None:
    took = time() - started
    if isinstance(last, Built):
        log.info("built %s in %.3f s", last.image_id, took)
    elif isinstance(last, Failed):
        log.info("build failed after %.3f s: %s: %s", took, last.failure.kind, one_line(last.failure.message))
        if last.failure.exit_code == 3 and last.failure.traceback:
            log.error("%s", last.failure.traceback)


@asynccontextmanager
async def _body(request: web.Request, first: bytes, cancel: Flag, *, wanted: bool) -> AsyncIterator[BinaryIO | None]:
    """Give the rest of the request's body as a file for a thread."""
    if not wanted:
        yield None
        return
    body = Body(first, cancel=cancel)
    feeding = asyncio.create_task(body.feed(request.content))
    try:
        yield cast(BinaryIO, io.BufferedReader(body, 1 << 20))
    finally:
        feeding.cancel()
        # The task may not even have begun, so it cannot tell the thread itself
        body.abort()
        await asyncio.wait([feeding])


async def _first_line(content: StreamReader) -> tuple[bytes, bytes]:
    """Return the first line of a body and what was read beyond it."""
    parts: list[bytes] = []
    size = 0
    while data := await content.readany():
        line, newline, rest = data.partition(b"\n")
        parts.append(line)
        size += len(line)
        if size > MAX_REQUEST:
            raise UsageError(f"build request is over the limit of {MAX_REQUEST} bytes")
        if newline:
            return b"".join(parts), rest
    return b"".join(parts), b""
