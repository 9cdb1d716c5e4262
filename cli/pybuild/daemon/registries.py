"""What our own client asks of registries."""

import json

from aiohttp import web

from pybuild.api.request import PullRequest
from pybuild.daemon.builds import EVENTS, own_lines, stream
from pybuild.errors import UsageError


async def pull(request: web.Request) -> web.StreamResponse:
    """`POST /pybuild/v1/pull`: a PullRequest as JSON; answered as a build is, with Pulled as the last event."""
    try:
        data = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise UsageError("malformed request to pull: no JSON") from error
    if not isinstance(data, dict):
        raise UsageError("malformed request to pull: no JSON object")
    asked = PullRequest.from_json(data)
    return await stream(
        request,
        lambda engine, root, emit, cancel, _: engine.pull(asked, store_root=root, emit=emit, cancel=cancel),
        EVENTS,
        own_lines,
    )
