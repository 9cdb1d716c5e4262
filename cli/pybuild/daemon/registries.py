"""What is asked of registries, by our own client and by Docker's."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from pybuild.api.events import Event, Failed, Failure, Notice, Pulled, Pushed, Transfer
from pybuild.api.request import ManifestRequest, PullRequest, PushRequest, Registries, Secret
from pybuild.daemon.answers import docker_body
from pybuild.daemon.bridges import in_thread
from pybuild.daemon.builds import EVENTS, own_lines, refusal, stream
from pybuild.daemon.dockerbuild import error_object, given, progress_object, reference_of
from pybuild.engine import reach
from pybuild.errors import NotFoundError, UsageError
from pybuild.oci.reference import parse_reference

DOCKER_SERVER = "https://index.docker.io/v1/"
"""The registry of a login that names none."""


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


async def manifests(request: web.Request) -> web.StreamResponse:
    """`POST /pybuild/v1/manifests`: a ManifestRequest as JSON; answered as a build is, Described is the last event."""
    from pybuild.engine.manifests import carry_out

    asked = ManifestRequest.from_json(await _object(request, "about manifests"))
    return await stream(
        request,
        lambda engine, root, emit, cancel, _: carry_out(asked, store_root=root, emit=emit, cancel=cancel),
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
    """`POST /images/create?fromImage=&tag=&platform=`; without a tag, in the name neither, all there are come."""
    name, tag = request.query.get("fromImage") or "", request.query.get("tag") or ""
    if tag:
        name = f"{name}@{tag}" if tag.startswith("sha256:") else f"{name}:{tag}"
    # Old clients leave the colon of an empty tag
    name = name.removesuffix(":")
    reference = parse_reference(name)
    registries = await _registries(request, reference.domain)
    all_tags = reference.digest is None and ":" not in name.rpartition("/")[2]
    asked = PullRequest((name,), request.query.get("platform") or "", reach.proxies(), registries, all_tags)

    heading = {
        "status": f"Pulling from {reference.familiar_name()}",
        "id": str(reference.digest or reference.tag or "latest"),
    }

    def objects(event: Event) -> list[dict[str, Any]]:
        match event:
            case Transfer():
                return [progress_object(event, "Downloading", "Pull complete")]
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
        _docker_lines(objects, [] if all_tags else [heading]),
    )


async def docker_push(request: web.Request) -> web.StreamResponse:
    """`POST /images/{name}/push?tag=`; without a tag all tags go."""
    repository, tag = request.match_info["name"], request.query.get("tag") or ""
    name = reference_of({"repo": repository, "tag": tag})
    reference = parse_reference(name)
    registries = await _registries(request, reference.domain)
    heading = {"status": f"The push refers to repository [{reference.name}]"}
    asked = PushRequest((name,), not tag, proxies=reach.proxies(), registries=registries)

    def refused(failure: Failure, error: BaseException) -> web.Response:
        if type(error) is not NotFoundError:
            return refusal(failure, error)
        # Docker tells this in the stream, which docker-py gives to who asks instead of raising
        message = f"An image does not exist locally with the tag: {repository}"
        told = {"errorDetail": {"message": message}, "error": message}
        answer = web.Response(text=json.dumps(told) + "\r\n", content_type="application/json")
        answer.enable_chunked_encoding()
        return answer

    def objects(event: Event) -> list[dict[str, Any]]:
        match event:
            case Transfer():
                # Of docker's rows each is a layer
                return [] if event.label.endswith(" config") else [progress_object(event, "Pushing", "Pushed")]
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
        _docker_lines(objects, [heading]),
        refused=refused,
    )


async def docker_auth(request: web.Request) -> web.Response:
    """`POST /auth`: docker's AuthConfig as JSON; a registry is asked whether it takes it, and the client keeps it"""
    from pybuild.engine import distribution
    from pybuild.registry.errors import AuthError

    entry = await _object(request, "to log in")
    registry = str(entry.get("serveraddress") or DOCKER_SERVER)
    secret = Secret(json.dumps(entry).encode())
    try:
        await in_thread(lambda: distribution.log_in(registry, secret, reach.settings(), reach.proxies()))
    except AuthError as error:
        # Only here: told so of a push, Docker's client asks for a password on its terminal
        return web.json_response(docker_body(error)[1], status=401)
    return web.json_response({"Status": "Login Succeeded", "IdentityToken": ""})


async def docker_distribution(request: web.Request) -> web.Response:
    """`GET /distribution/{name}/json`: what a name stands for at its registry"""
    from pybuild.engine import distribution

    name = request.match_info["name"]
    registries = await _registries(request, parse_reference(name).domain)
    return web.json_response(await in_thread(lambda: distribution.described(name, registries, reach.proxies())))


async def _registries(request: web.Request, domain: str) -> Registries:
    # Docker's clients send a body of no meaning
    await request.read()
    return reach.settings()._replace(given=given(request.headers, domain))


def _docker_lines(
    objects: Callable[[Event], list[dict[str, Any]]], headings: Sequence[dict[str, Any]]
) -> Callable[[Event], bytes]:
    """Return what makes lines of events, with the headings before the first."""
    due = [*headings]

    def lines(event: Event) -> bytes:
        told = [*due, *objects(event)]
        due.clear()
        return b"".join(json.dumps(item).encode() + b"\r\n" for item in told)

    return lines


def _others(event: Event) -> list[dict[str, Any]]:
    if isinstance(event, Failed):
        return [error_object(event.failure)]
    return [{"status": event.message}] if isinstance(event, Notice) else []


def _tag(name: str) -> str:
    return name.rpartition(":")[2]
