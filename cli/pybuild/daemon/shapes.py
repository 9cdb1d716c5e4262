"""Fields that came and went between versions of the Docker Engine API, put into answers by the version asked for."""

from datetime import UTC, datetime
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


def usage(used: dict[str, Any], images: list[dict[str, Any]], version: Version, kinds: list[str]) -> dict[str, Any]:
    """Return the answer of `/system/df` from what `Images.df` tells; `kinds` are the objects asked for, none for all
    (1.42).
    """
    kept = sum(row["size"] for row in used["rows"] if row["type"] in ("Images", "Other"))
    cached = _cached(used)
    answer: dict[str, Any] = {}
    if not kinds or "image" in kinds:
        answer.update(LayersSize=kept, Images=[listed(row, version) for row in images])
    for kind, name in (("container", "Containers"), ("volume", "Volumes"), ("build-cache", "BuildCache")):
        if not kinds or kind in kinds:
            answer[name] = cached if name == "BuildCache" else []
    return answer if version >= (1, 42) else {**answer, "BuilderSize": sum(row["Size"] for row in cached)}


def _cached(used: dict[str, Any]) -> list[dict[str, Any]]:
    """Return cache mounts one by one, and what else is cached by its kind."""
    mounts = [
        _cache(f"cache-{number}", f"cache mount {one['target']} {one['id']}".rstrip(), one["size"], one)
        for number, one in enumerate(used.get("caches", ()))
    ]
    others = [row for row in used["rows"] if row["type"] not in ("Images", "Other", "Cache Mounts") and row["size"]]
    return mounts + [_cache(row["type"].lower().replace(" ", "-"), row["type"], row["size"], {}) for row in others]


def _cache(identity: str, told: str, size: int, times: dict[str, Any]) -> dict[str, Any]:
    last = times.get("last_used")
    return {
        "ID": identity,
        "Parents": None,
        "Type": "exec.cachemount" if times else "regular",
        "Description": told,
        "InUse": False,
        "Shared": False,
        "Size": size,
        # What is of many beginnings has none
        "CreatedAt": _time(times.get("created", 0)),
        "LastUsedAt": _time(last) if last else None,
        "UsageCount": 1,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
