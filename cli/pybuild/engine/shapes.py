"""Images in the shapes of the Docker Engine API, an index as if it were one of its images."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from pybuild.engine.lookup import members_of
from pybuild.oci.digest import Digest
from pybuild.store.images import ImageRecord
from pybuild.store.indexes import IndexRecord
from pybuild.store.store import Store
from pybuild.tree.entry import Entry

Rows = list[dict[str, Any]]


def as_image(index: IndexRecord, images: Mapping[Digest, ImageRecord], main: ImageRecord | None = None) -> ImageRecord:
    """Return an index as if it were one of its images, `main` or the first, but for what all of them take."""
    members = [images[image] for image in index.images if image in images]
    main = main or members[0]
    size = sum(image.size for image in {image.id: image for image in members}.values())
    return msgspec.structs.replace(main, id=index.id, tags=index.tags, created=index.created, size=size)


def manifests(store: Store, index: IndexRecord) -> Rows:
    """Return the images of an index as docker shows them (`docker inspect`, API 1.48), with their ids."""
    rows: Rows = []
    for member, image in zip(index.members, members_of(store, index), strict=True):
        rows.append(
            {
                "ID": member.row.digest,
                "Descriptor": msgspec.to_builtins(member.row),
                "Available": True,
                "Kind": "image",
                "Size": {"Content": image.size, "Total": image.size},
                "ImageData": {"Platform": member.row.platform or {}},
                "ImageId": image.id,
            }
        )
    return rows


def summary(record: ImageRecord, digests: Sequence[str]) -> dict[str, Any]:
    """Return an image as a list shows it; `digests` are its names at registries."""
    return {
        "Id": record.id,
        "ParentId": "",
        "RepoTags": [*record.tags],
        "RepoDigests": [*digests],
        "Created": unix(record.config.created) or int(record.created),
        "Size": record.size,
        "SharedSize": -1,
        "Containers": -1,
        "Labels": record.config.config.Labels,
    }


def full_config(details: dict[str, Any]) -> dict[str, Any]:
    """Docker shows these keys even when they are empty."""
    shown = {"User": "", "Env": None, "Cmd": None, "Entrypoint": None, "WorkingDir": "", "Labels": None}
    return {**shown, "Volumes": None, "OnBuild": None, **details}


def unix(text: str) -> int:
    """Return a time of RFC 3339 in seconds since the epoch, 0 for what is none."""
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return 0


def rfc3339(seconds: float) -> str:
    """Return seconds since the epoch as docker writes times."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def layer_size(store: Store, diff_id: Digest) -> int:
    """Return the size of a layer, as it is elsewhere if it is not here."""
    elsewhere = None if store.layers.has(diff_id) else store.absent.get(diff_id)
    return store.layers.size(diff_id) if elsewhere is None else elsewhere.descriptor.size


def row_of(entry: Entry) -> list[Any]:
    """Return an entry of a layer's table as JSON values, see `Images.layers`."""
    return [
        entry.path.decode(errors="surrogateescape"),
        entry.type,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size,
        entry.mtime,
        entry.link.decode(errors="surrogateescape"),
        entry.digest.hex(),
        entry.opaque,
    ]
