"""What is asked of registries, by our own client and by Docker's."""

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from pybuild.api.events import Event, Failed, Notice, Pulled, Pushed, Transfer
from pybuild.api.request import PullRequest, PushRequest, Registries
from pybuild.daemon.builds import EVENTS, own_lines, stream
from pybuild.daemon.dockerbuild import error_object, given, reference_of
from pybuild.engine import reach
from pybuild.errors import UsageError
from pybuild.oci.reference import parse_reference


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


async def docker_pull(request: web.Request) -> web.StreamResponse:
    """`POST /images/create?fromImage=&tag=&platform=`; without a tag it is `latest`, not all there are."""
    name, tag = request.query.get("fromImage") or "", request.query.get("tag") or ""
    if tag:
        name = f"{name}@{tag}" if tag.startswith("sha256:") else f"{name}:{tag}"
    reference = parse_reference(name)
    registries = await _registries(request, reference.domain)
    asked = PullRequest((name,), request.query.get("platform") or "", reach.proxies(), registries)

    def objects(event: Event) -> list[dict[str, Any]]:
        match event:
            case Transfer():
                status = "Download complete" if event.current == event.total else "Downloading"
                return [_progress(status, event)]
            case Pulled():
                return [
                    told
                    for image in event.images
                    for told in (
                        {"status": f"Digest: {image.digest}"},
                        {
                            "status": f"Status: Downloaded newer image for {image.name}"
                            if image.fresh
                            else f"Status: Image is up to date for {image.name}"
                        },
                    )
                ]
        return _others(event)

    return await stream(
        request,
        lambda engine, root, emit, cancel, _: engine.pull(asked, store_root=root, emit=emit, cancel=cancel),
        "application/json",
        _docker_lines(objects),
    )


async def docker_push(request: web.Request) -> web.StreamResponse:
    """`POST /images/{name}/push?tag=`; without a tag all tags go."""
    repository, tag = request.match_info["name"], request.query.get("tag") or ""
    name = reference_of({"repo": repository, "tag": tag})
    registries = await _registries(request, parse_reference(name).domain)
    asked = PushRequest((name,), not tag, proxies=reach.proxies(), registries=registries)

    def objects(event: Event) -> list[dict[str, Any]]:
        match event:
            case Transfer():
                return [_progress("Pushed" if event.current == event.total else "Pushing", event)]
            case Pushed():
                return [
                    told
                    for image in event.images
                    for told in (
                        {"status": f"{_tag(image.name)}: digest: {image.digest} size: {image.size}"},
                        {
                            "progressDetail": {},
                            "aux": {"Tag": _tag(image.name), "Digest": image.digest, "Size": image.size},
                        },
                    )
                ]
        return _others(event)

    return await stream(
        request,
        lambda engine, root, emit, cancel, _: engine.push(asked, store_root=root, emit=emit, cancel=cancel),
        "application/json",
        _docker_lines(objects),
    )


async def _registries(request: web.Request, domain: str) -> Registries:
    # Docker's clients send a body of no meaning
    await request.read()
    return reach.settings()._replace(given=given(request.headers, domain))


def _docker_lines(objects: Callable[[Event], list[dict[str, Any]]]) -> Callable[[Event], bytes]:
    def lines(event: Event) -> bytes:
        return b"".join(json.dumps(item).encode() + b"\r\n" for item in objects(event))

    return lines


def _progress(status: str, event: Transfer) -> dict[str, Any]:
    detail = {"current": event.current, "total": event.total}
    return {"status": status, "progressDetail": detail, "id": event.label.rpartition(" ")[2]}


def _others(event: Event) -> list[dict[str, Any]]:
    if isinstance(event, Failed):
        return [error_object(event.failure)]
    return [{"status": event.message}] if isinstance(event, Notice) else []


def _tag(name: str) -> str:
    return name.rpartition(":")[2]
