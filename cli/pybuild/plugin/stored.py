"""Images of the store for plugins, by whichever door the engine is reached."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

_ASKED = 2_000
"""How many files are asked for at once: what they hold lies in a temporary file meanwhile."""


class LayerEntry(NamedTuple):
    """A path in a layer, "/" between names and none before; what is no UTF-8 is there as surrogates.

    `type` is f (file), d (directory), l (link), h (hard link to `link`), c, b (devices), p (fifo) or w: a whiteout,
    which hides the path in the layers below. `size` is in bytes, `mtime` in ns since the epoch, `digest` the sha256 of
    a file's content in hex. An `opaque` directory hides all that lower layers have in it.
    """

    path: str
    type: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: str
    digest: str
    opaque: bool


class ImageLayer(NamedTuple):
    """A layer: `digest` is that of its uncompressed tar (diff_id), `size` the tar's in bytes."""

    digest: str
    size: int
    created_by: str
    entries: tuple[LayerEntry, ...]


class ImageLayers(NamedTuple):
    """An image and its layers, the lowest first; `size` is that of all layers in bytes."""

    id: str
    names: tuple[str, ...]
    size: int
    layers: tuple[ImageLayer, ...]


def image_layers(name: str) -> ImageLayers:
    """Return an image of the store with all that is in its layers; raise NotFoundError."""
    from pybuild.client import connect

    with connect() as backend:
        found = backend.layers(name)
    layers = tuple(
        ImageLayer(
            layer["digest"],
            layer["size"],
            layer["created_by"],
            tuple(LayerEntry(*row) for row in layer["entries"]),
        )
        for layer in found["layers"]
    )
    return ImageLayers(found["image"], tuple(found["names"]), found["size"], layers)


class ImageTree(NamedTuple):
    """What a container of an image sees: `entries` by path, and the number of the layer each comes from (`origins`),
    0 for the lowest; `layers` are the digests of their uncompressed tars.
    """

    id: str
    names: tuple[str, ...]
    layers: tuple[str, ...]
    entries: Mapping[str, LayerEntry]
    origins: Mapping[str, int]


def image_tree(name: str) -> ImageTree:
    """Return the final tree of an image of the store, without what later layers hide; raise NotFoundError."""
    from pybuild.tree.entry import Entry
    from pybuild.tree.merged import MergedTree

    image = image_layers(name)
    tables = [
        [
            Entry(path=row.path.encode(errors="surrogateescape"), type=row.type, opaque=row.opaque)
            for row in layer.entries
        ]
        for layer in image.layers
    ]
    tree = MergedTree(tables)
    rows = [{row.path: row for row in layer.entries} for layer in image.layers]
    entries: dict[str, LayerEntry] = {}
    origins: dict[str, int] = {}
    for raw in sorted(tree.described()):
        found, path = tree.locate(raw), raw.decode(errors="surrogateescape")
        if found is not None and path in rows[found[0]]:
            entries[path], origins[path] = rows[found[0]][path], found[0]
    return ImageTree(image.id, image.names, tuple(layer.digest for layer in image.layers), entries, origins)


def read_image_files(name: str, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the files at these paths of an image's final tree with what they hold; raise NotFoundError for no image.

    No link is followed, and what is no file is left out. A file is in memory as a whole: look at its size before.
    """
    import tarfile
    import tempfile

    from pybuild.client import connect

    wanted = [*paths]
    with connect() as backend:
        for first in range(0, len(wanted), _ASKED):
            some = wanted[first : first + _ASKED]
            with tempfile.TemporaryFile() as spool:
                backend.files(name, some, spool)
                spool.seek(0)
                with tarfile.open(fileobj=spool, mode="r:", encoding="utf-8") as archive:
                    for member in archive:
                        file = archive.extractfile(member)
                        if file is not None:
                            yield member.name, file.read()


def build_record(name: str) -> dict[str, Any]:
    """Return what an image of the store was built from; raise NotFoundError. It is {} for one that was not built here.

    `request` is what the build was asked for, less what is secret; `secrets`, `ssh` and `allow` are names of what it
    was given besides; `bases` are ids of its base images by name, with a platform behind it where that is not the
    build's; `changed_bases` are those whose names mean something else by now.
    """
    from pybuild.client import connect

    with connect() as backend:
        return backend.inputs(name)


def images(name: str = "") -> list[dict[str, Any]]:
    """Return the images of the store, newest first, in the shape of `GET /images/json` of the Docker Engine API."""
    from pybuild.client import connect

    with connect() as backend:
        return backend.images(filters={"reference": [name]} if name else {})


def inspect_image(name: str) -> dict[str, Any]:
    """Return an image in the shape of `GET /images/{name}/json` of the Docker Engine API; raise NotFoundError."""
    from pybuild.client import connect

    with connect() as backend:
        return backend.inspect(name)
