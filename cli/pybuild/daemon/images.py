"""`/images/...`: the routes of images, in Docker's shapes, and what our own client asks beyond them."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from aiohttp import web

from pybuild.daemon import registries
from pybuild.daemon.answers import boolean, error_body, filters, integer, json_parameter, with_hint
from pybuild.daemon.bridges import Body, Download, in_thread
from pybuild.daemon.dockerbuild import reference_of
from pybuild.daemon.happenings import HAPPENINGS
from pybuild.daemon.shapes import asked_version, inspected, listed, usage
from pybuild.daemon.state import STATE
from pybuild.errors import UsageError
from pybuild.layer.errors import LayerError
from pybuild.oci.reference import parse_reference
from pybuild.progress.escape import one_line

log = logging.getLogger("pybuild.daemon")


async def _images(request: web.Request) -> Any:
    return (await request.app[STATE].engine()).images


async def list_(request: web.Request) -> web.Response:
    """`GET /images/json`"""
    images = await _images(request)
    wanted, all_ = filters(request.query), boolean(request.query, "all")
    if name := request.query.get("filter"):
        wanted.setdefault("reference", []).append(name)
    rows = await in_thread(lambda: images.list(all=all_, filters=wanted))
    return web.json_response([listed(row, asked_version(request)) for row in rows])


async def inspect(request: web.Request) -> web.Response:
    """`GET /images/{name}/json`"""
    images, name, platform = await _images(request), request.match_info["name"], request.query.get("platform", "")
    return web.json_response(inspected(await in_thread(lambda: images.inspect(name, platform)), asked_version(request)))


async def history(request: web.Request) -> web.Response:
    """`GET /images/{name}/history`"""
    images, name = await _images(request), request.match_info["name"]
    return web.json_response(await in_thread(lambda: images.history(name)))


async def inputs(request: web.Request) -> web.Response:
    """`GET /pybuild/v1/inputs?name=`: what an image was built from"""
    images, name = await _images(request), request.query.get("name", "")
    return web.json_response(await in_thread(lambda: images.inputs(name)))


async def compare(request: web.Request) -> web.Response:
    """`GET /pybuild/v1/compare?name=&other=`: how two images differ"""
    images, name, other = await _images(request), request.query.get("name", ""), request.query.get("other", "")
    return web.json_response(await in_thread(lambda: images.compare(name, other)))


async def layers(request: web.Request) -> web.Response:
    """`GET /pybuild/v1/layers?name=`: an image with the tables of its layers"""
    images, name = await _images(request), request.query.get("name", "")
    # There may be hundreds of thousands of rows
    text = await in_thread(lambda: json.dumps(images.layers(name)))
    return web.Response(text=text, content_type="application/json")


async def files(request: web.Request) -> web.StreamResponse:
    """`POST /pybuild/v1/files?name=` with `{"paths": [...]}`: a tar of the files at these paths"""
    images, name = await _images(request), request.query.get("name", "")
    data = await request.json()
    paths = data.get("paths") if isinstance(data, dict) else None
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise UsageError("`paths` must be a list of strings")
    return await _download(request, lambda out: images.files(name, paths, out))


async def tag(request: web.Request) -> web.Response:
    """`POST /images/{name}/tag?repo=&tag=`"""
    images, name, new_name = await _images(request), request.match_info["name"], reference_of(request.query)

    def work() -> dict[str, Any]:
        image: dict[str, Any] = images.inspect(name)
        images.tag(image["Id"], new_name)
        return image

    request.app[HAPPENINGS].image("tag", await in_thread(work), parse_reference(new_name).familiar())
    return web.Response(status=201)


async def remove(request: web.Request) -> web.Response:
    """`DELETE /images/{name}?force=`"""
    images, name, force = await _images(request), request.match_info["name"], boolean(request.query, "force")

    def work() -> tuple[dict[str, Any], list[dict[str, str]]]:
        return images.inspect(name), images.remove(name, force=force)

    image, removed = await in_thread(work)
    for item in removed:
        if "Untagged" in item:
            request.app[HAPPENINGS].image("untag", image, item["Untagged"])
        else:
            request.app[HAPPENINGS].image("delete", image, item["Deleted"])
    return web.json_response(removed)


async def save(request: web.Request) -> web.StreamResponse:
    """`GET /images/get?names=&names=` and `GET /images/{name}/get`; ours: `format=`, `compression=`, `platform=`"""
    name = request.match_info.get("name")
    names = [name] if name else [item for value in request.query.getall("names", []) for item in value.split(",")]
    if not names:
        raise UsageError("parameter `names` is missing")
    format_, compression = request.query.get("format", "docker"), request.query.get("compression", "none")
    platform = request.query.get("platform", "")
    images = await _images(request)
    found = await in_thread(lambda: [images.inspect(name, platform) for name in names])
    write = partial(images.save, names, format=format_, compression=compression, platform=platform)
    response = await _download(request, lambda out: write(out))
    if request.transport is not None and not request.transport.is_closing():
        for image, saved in zip(found, names, strict=True):
            request.app[HAPPENINGS].image("save", image, saved)
    return response


async def export(request: web.Request) -> web.StreamResponse:
    """`GET /pybuild/v1/export?name=&type=&attrs=`"""
    images = await _images(request)
    name, type_ = request.query.get("name", ""), request.query.get("type", "")
    attributes = {str(key): str(value) for key, value in json_parameter(request.query, "attrs", {}).items()}
    return await _download(request, lambda out: images.export(name, type_, out, attributes))


async def load(request: web.Request) -> web.StreamResponse:
    """`POST /images/load`, answered with Docker's stream"""
    images = await _images(request)
    try:
        async with _upload(request) as body:
            loaded = await in_thread(lambda: images.load(body))
    except LayerError as error:
        # Where Docker tells of an archive that is none
        told = with_hint(error.message, error.hint)
        return await _lines(request, [{"errorDetail": {"message": told}, "error": told}])
    for item in loaded:
        name = item.get("name") or item["id"]
        request.app[HAPPENINGS].image("load", await in_thread(partial(images.inspect, name)), name)
    lines = [
        {"stream": f"Loaded image: {item['name']}\n" if "name" in item else f"Loaded image ID: {item['id']}\n"}
        for item in loaded
    ]
    return await _lines(request, lines)


async def load_ours(request: web.Request) -> web.Response:
    """`POST /pybuild/v1/load`: an archive as the body, or `{"path"}` of an OCI layout directory on this machine"""
    images = await _images(request)
    if request.content_type == "application/json":
        data = await request.json()
        path = data.get("path") if isinstance(data, dict) else None
        if not isinstance(path, str) or not path.startswith("/"):
            raise UsageError("`path` must be an absolute path")
        return web.json_response(await in_thread(lambda: images.load(Path(path))))
    async with _upload(request) as body:
        return web.json_response(await in_thread(lambda: images.load(body)))


async def create(request: web.Request) -> web.StreamResponse:
    """`POST /images/create?fromSrc=-&repo=&tag=&message=&changes=`: import; with `fromImage` it is a pull."""
    if request.query.get("fromImage"):
        return await registries.docker_pull(request)
    if request.query.get("fromSrc") != "-":
        raise UsageError("neither an image to pull nor a root file system is given: fromImage, fromSrc")
    name = reference_of(request.query) if request.query.get("repo") else ""
    identity = await _import(request, name)
    return await _lines(request, [{"status": identity}])


async def import_ours(request: web.Request) -> web.Response:
    """`POST /pybuild/v1/import?name=&message=&changes=`"""
    return web.json_response({"id": await _import(request, request.query.get("name", ""))})


async def _import(request: web.Request, name: str) -> str:
    images = await _images(request)
    message, changes = request.query.get("message", ""), request.query.getall("changes", [])
    async with _upload(request) as body:
        identity: str = await in_thread(lambda: images.import_(body, name, changes=changes, message=message))
    request.app[HAPPENINGS].tell("import", identity, {"name": name or identity})
    return identity


async def prune(request: web.Request) -> web.Response:
    """`POST /images/prune?filters=`; the filter `dangling=false` takes images with names too"""
    wanted = filters(request.query)
    all_ = any(value.lower() in ("0", "false") for value in wanted.pop("dangling", []))
    images = await _images(request)
    report = await in_thread(lambda: images.prune(all=all_, filters=wanted, dry_run=False))
    deleted = [{"Deleted": item["name"]} for item in report["items"] if item["kind"] == "image"]
    for item in deleted:
        request.app[HAPPENINGS].tell("delete", item["Deleted"], {"name": item["Deleted"]})
    request.app[HAPPENINGS].tell("prune", "", {"reclaimed": str(report["reclaimed"])})
    return web.json_response({"ImagesDeleted": deleted or None, "SpaceReclaimed": report["reclaimed"]})


_CACHE_FILTERS = ("until", "unused-for", "id", "type")
_CACHES = ("cache", "kept", "download", "exec.cachemount")
_ALL_CACHES = (*_CACHES, "context", "snapshot")
"""Kinds that go with the cache: those that cost time to have again, and with `all` what is but made of others."""


async def prune_cache(request: web.Request) -> web.Response:
    """`POST /build/prune?all=&filters=`, and sizes in bytes: `keep-storage` and its later names `reserved-space` and
    `max-used-space` of the cache, and `min-free-space`; images stay
    """
    images, wanted = await _images(request), filters(request.query)
    unknown = [name for name in wanted if name not in _CACHE_FILTERS]
    if unknown:
        raise UsageError(f"unknown filter of the build cache: {unknown[0]}", f"known: {', '.join(_CACHE_FILTERS)}")
    kept = [integer(request.query, name) for name in ("keep-storage", "reserved-space", "max-used-space")]
    free = integer(request.query, "min-free-space")
    if any(kept):
        # What else is there may stay too
        rows = (await in_thread(images.df))["rows"]
        others = sum(row["size"] for row in rows if row["type"] in ("Images", "Other"))
        wanted["max-size"] = [str(others + max(kept))]
    if free:
        wanted["min-free"] = [str(free)]
    if not any(kept) and not free and not {"id", "type"} & {*wanted}:
        wanted["type"] = [*(_ALL_CACHES if boolean(request.query, "all") else _CACHES)]
    report = await in_thread(lambda: images.prune(all=False, filters=wanted, dry_run=False))
    deleted = [item["name"] for item in report["items"] if item["kind"] not in ("image", "index")]
    request.app[HAPPENINGS].tell("prune", "", {"reclaimed": str(report["reclaimed"])}, kind="builder")
    return web.json_response({"CachesDeleted": deleted or None, "SpaceReclaimed": report["reclaimed"]})


async def prune_ours(request: web.Request) -> web.Response:
    """`POST /pybuild/v1/prune?all=&dry_run=&filters=`, answered with what was removed and why"""
    images, wanted = await _images(request), filters(request.query)
    all_, dry_run = boolean(request.query, "all"), boolean(request.query, "dry_run")
    return web.json_response(await in_thread(lambda: images.prune(all=all_, filters=wanted, dry_run=dry_run)))


async def df_ours(request: web.Request) -> web.Response:
    """`GET /pybuild/v1/df`"""
    images = await _images(request)
    return web.json_response(await in_thread(images.df))


async def df(request: web.Request) -> web.Response:
    """`GET /system/df`"""
    images = await _images(request)

    def read() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        return images.list(all=True), images.df()

    rows, used = await in_thread(read)
    for item in rows:
        item.update(SharedSize=0, Containers=0)
    kinds = request.query.getall("type", [])
    return web.json_response(usage(used, rows, asked_version(request), kinds))


@asynccontextmanager
async def _upload(request: web.Request) -> AsyncIterator[BinaryIO]:
    body = Body()
    feeding = asyncio.create_task(body.feed(request.content))
    try:
        yield cast(BinaryIO, io.BufferedReader(body, 1 << 20))
        # What follows the end of an archive is padding; the client must get rid of it
        body.close()
        await feeding
    finally:
        feeding.cancel()
        # The task may not even have begun, so it cannot tell the thread itself
        body.abort()
        await asyncio.wait([feeding])


async def _download(request: web.Request, write: Callable[[BinaryIO], None]) -> web.StreamResponse:
    """Send what `write` writes. An error before the first byte is an answer; a later one breaks the connection off,
    so that the part is not taken for the whole.
    """
    response = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
    response.enable_chunked_encoding()
    raw = Download(request, response)

    def run() -> None:
        out = io.BufferedWriter(raw, 1 << 20)
        try:
            write(cast(BinaryIO, out))
            out.flush()
        finally:
            # Not closed: that would send what is left of a failed archive
            out.detach()

    try:
        await in_thread(run)
    except Exception as error:
        if not response.prepared:
            raise
        _, body = error_body(error)
        log.warning("broken off: %s", one_line(body["message"]))
        if request.transport is not None:
            request.transport.abort()
        return response
    if not response.prepared:
        await response.prepare(request)
    await response.write_eof()
    return response


async def _lines(request: web.Request, objects: list[dict[str, Any]]) -> web.StreamResponse:
    """Answer with a stream of objects as Docker does: chunked, or docker-py would not read it as a stream."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for item in objects:
        await response.write(json.dumps(item).encode() + b"\r\n")
    await response.write_eof()
    return response


async def builds(request: web.Request) -> web.Response:
    """`GET /pybuild/v1/builds`: those that can be explained"""
    images = await _images(request)
    return web.json_response(await in_thread(images.builds))


async def explain(request: web.Request) -> web.Response:
    """`GET /pybuild/v1/explain?build=`: the last one without an id"""
    images, build = await _images(request), request.query.get("build", "")
    return web.json_response(await in_thread(lambda: images.explain(build)))
