"""What our own client asks of registries."""

import json
from typing import Any

from aiohttp import web

from pybuild.api.request import PullRequest, PushRequest
from pybuild.daemon.builds import EVENTS, own_lines, stream
from pybuild.errors import UsageError


async def pull(request: web.Request) -> web.StreamResponse:
    """`POST /pybuild/v1/pull`: a PullRequest as JSON; answered as a build is, with Pulled as the last event."""
    asked = PullRequest.from_json(await _object(request, "to pull"))
    return await stream(
        request,
        lambda engine, root, emit, cancel, _: engine.pull(asked, store_root=root, emit=emit, cancel=cancel),
        EVENTS,
        own_lines,
    )


async def push(request: web.Request) -> web.StreamResponse:
    """`POST /pybuild/v1/push`: a PushRequest as JSON; answered as a build is, with Pushed as the last event."""
    asked = PushRequest.from_json(await _object(request, "to push"))
    return await stream(
        request,
        lambda engine, root, emit, cancel, _: engine.push(asked, store_root=root, emit=emit, cancel=cancel),
        EVENTS,
        own_lines,
    )


async def _object(request: web.Request, what: str) -> dict[str, Any]:
    try:
        data = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"malformed request {what}: no JSON") from error
    if not isinstance(data, dict):
        raise UsageError(f"malformed request {what}: no JSON object")
    return data
