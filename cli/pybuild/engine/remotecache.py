"""Results of steps in registries: caches as manifests of their own, and those that an image's config carries.

A cache is an OCI manifest whose config is BuildKit's description of it. Only that is fetched when a build begins.
"""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pybuild.api.request import Output
from pybuild.engine.pulling import Puller
from pybuild.engine.pushing import Pusher
from pybuild.engine.registries import RegistryClients
from pybuild.errors import UsageError
from pybuild.oci.cacheconfig import CACHE_CONFIG
from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import Descriptor, InvalidImageError, Manifest
from pybuild.oci.manifests import LAYER_TYPES, MANIFEST_TYPES, read_document
from pybuild.oci.platform import Platform
from pybuild.oci.reference import Reference, parse_reference

if TYPE_CHECKING:
    from pybuild.registry.blobs import Source

MAX_CONFIG = 64 << 20
"""Largest description of a cache that is read, in bytes."""

_WHERE = "the registry"


class Carried(NamedTuple):
    """What was found under a name: a cache's `config`, or an image's `records` whose layers are `layers` by place.

    `take` brings a layer into the store.
    """

    config: bytes | None
    records: bytes | None
    descriptors: Sequence[Descriptor]
    diff_ids: Sequence[Digest]
    take: Callable[[Digest, Descriptor], None]


class RemoteCaches:
    """Reads caches of registries for one build."""

    def __init__(self, clients: RegistryClients, puller: Puller) -> None:
        self._clients = clients
        self._puller = puller

    def read(self, reference: str, platforms: Sequence[Platform]) -> list[Carried]:
        """Return what a name has: one cache, or what the images for `platforms` carry.

        Raises RegistryError, InvalidImageError, UsageError for images without results.
        """
        from pybuild.registry.blobs import first_of

        name = parse_reference(reference)
        sources = self._clients.sources(name)
        return first_of(sources, lambda source: self._read(source, sources, name, platforms))

    def _read(
        self, source: "Source", sources: "list[Source]", name: Reference, platforms: Sequence[Platform]
    ) -> list[Carried]:
        from pybuild.registry.errors import MissingError
        from pybuild.registry.images import fetch_document, fetch_image

        def take(diff_id: Digest, descriptor: Descriptor) -> None:
            self._puller.take_layer(sources, name, diff_id, descriptor)

        document = fetch_document(source, str(name.digest or name.tag))
        if document.media_type in MANIFEST_TYPES:
            manifest = read_document(document.data, Manifest, document.media_type, MANIFEST_TYPES, _WHERE)
            if manifest.config is not None and manifest.config.media_type == CACHE_CONFIG:
                layers = [layer for layer in manifest.layers or () if layer.media_type in LAYER_TYPES]
                return [Carried(_config(source, manifest.config), None, layers, (), take)]
        carried: list[Carried] = []
        missing: MissingError | None = None
        for platform in platforms:
            try:
                image = fetch_image(source, name, platform)
            except MissingError as error:
                # It may have been built for fewer platforms
                missing = error
                continue
            if image.config.cache is not None:
                carried.append(Carried(None, image.config.cache, image.layers, image.config.rootfs.diff_ids, take))
        if not carried and missing is not None:
            raise missing
        if not carried:
            raise UsageError(f"the image was built without `--cache-to type=inline`: {name.familiar()}")
        return carried


def _config(source: "Source", described: Descriptor) -> bytes:
    from pybuild.registry.blobs import fetch_blob

    if described.size > MAX_CONFIG:
        raise InvalidImageError(f"the description of the cache is over the limit of {MAX_CONFIG} bytes")
    out = io.BytesIO()
    fetch_blob([source], described, out.write)
    return out.getvalue()


def compression_of(target: Output) -> str:
    """Return the compression that a cache asks for; "" leaves layers in the form that is here."""
    return {"uncompressed": "none"}.get(given := target.attrs.get("compression", ""), given)


def describe(pusher: Pusher, reference: str, config: bytes, layers: list[Descriptor]) -> str:
    """Send the description of a cache whose layers are there and return its name and digest; raise RegistryError."""
    name = parse_reference(reference)
    described = Descriptor(CACHE_CONFIG, digest_of(config), len(config))
    digest = pusher.document(name, described, config, layers)
    return f"{name.familiar()}@{digest}"
