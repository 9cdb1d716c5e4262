"""Fields that came and went between versions of the Docker Engine API, put into answers by the version asked for."""

from typing import Any

from aiohttp import web

from pybuild.daemon.answers import API_VERSION

Version = tuple[int, ...]


def asked_version(request: web.Request) -> Version:
    """Return the version of the API that a request is in: that in its path, else our own."""
    return tuple(map(int, (request.match_info.get("api") or API_VERSION).split(".")))


def listed(row: dict[str, Any], version: Version) -> dict[str, Any]:
    """Return an image of a list."""
    if version < (1, 44):
        row = {**row, "VirtualSize": row["Size"]}
    if version < (1, 43) and not row["RepoTags"]:
        # Older clients show nothing of an image without a name
        row = {**row, "RepoTags": ["<none>:<none>"], "RepoDigests": row["RepoDigests"] or ["<none>@<none>"]}
    return row


def inspected(image: dict[str, Any], version: Version) -> dict[str, Any]:
    """Return what there is to know of an image."""
    if version < (1, 44):
        image = {**image, "VirtualSize": image.get("Size", 0)}
    if version < (1, 45):
        image = {**image, "Container": "", "ContainerConfig": image.get("Config")}
    return image


def usage(layers: int, images: list[dict[str, Any]], version: Version, kinds: list[str]) -> dict[str, Any]:
    """Return the answer of `/system/df`; `kinds` are the objects asked for, none for all (1.42)."""
    answer: dict[str, Any] = {}
    if not kinds or "image" in kinds:
        answer.update(LayersSize=layers, Images=[listed(row, version) for row in images])
    for kind, name in (("container", "Containers"), ("volume", "Volumes"), ("build-cache", "BuildCache")):
        if not kinds or kind in kinds:
            answer[name] = []
    return answer if version >= (1, 42) else {**answer, "BuilderSize": 0}
