"""Images of the store for plugins, by whichever door the engine is reached."""

from typing import Any, NamedTuple


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
