"""Finding the images in an archive or layout directory somebody made. Nothing in it is believed unchecked."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from pybuild.errors import UsageError
from pybuild.export.archive import CONTAINERD_NAME, REF_NAME, blob_name
from pybuild.export.errors import InvalidArchiveError
from pybuild.oci.digest import Digest, InvalidDigestError, digest_of
from pybuild.oci.image import (
    DOCKER_MANIFEST,
    DOCKER_MANIFEST_LIST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    InvalidImageError,
    Manifest,
    decode,
)
from pybuild.oci.platform import Platform, parse_platform
from pybuild.oci.reference import InvalidReferenceError, Reference, parse_reference

MAX_IMAGES = 1000
_MAX_NESTING = 4


class Archive(Protocol):
    """Files by name. Names come from strangers and lead nowhere else."""

    def read(self, name: str) -> bytes | None:
        """Return a small file, None when absent; raise InvalidArchiveError for a large one."""

    def has(self, name: str) -> bool:
        """Is there a file of this name?"""


@dataclass(frozen=True, slots=True)
class FoundLayer:
    """Where a layer's bytes are: `digest` is known for OCI layouts, whose bytes must have it."""

    name: str
    descriptor: Descriptor | None


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image of the archive."""

    config_bytes: bytes
    config: ImageConfig
    layers: tuple[FoundLayer, ...]
    names: tuple[Reference, ...]


class _Row(msgspec.Struct):
    """An element of docker's manifest.json."""

    Config: str
    Layers: list[str] | None = None
    RepoTags: list[str] | None = None


def find_images(archive: Archive, platform: Platform) -> list[FoundImage]:
    """Return the images in the archive, those of `platform` where there are several.

    Raises InvalidArchiveError for what is no image archive or contradicts itself.
    """
    try:
        data = archive.read("manifest.json")
        if data is not None:
            return _docker(archive, data)
        data = archive.read("index.json")
        if data is None:
            raise InvalidArchiveError(
                "no image in the archive: neither manifest.json nor index.json is there",
                "a root file system is taken in with `pybuild import`",
            )
        return list(_oci(archive, data, platform))
    except (InvalidImageError, InvalidDigestError, msgspec.DecodeError) as error:
        raise InvalidArchiveError(f"invalid image archive: {error}") from error


def _docker(archive: Archive, data: bytes) -> list[FoundImage]:
    rows = msgspec.json.decode(data, type=list[_Row])
    if not rows or len(rows) > MAX_IMAGES:
        raise InvalidArchiveError(f"manifest.json of the archive lists {len(rows)} images")
    found: list[FoundImage] = []
    for row in rows:
        config_bytes = _needed(archive, row.Config)
        stem = row.Config.rpartition("/")[2].removesuffix(".json")
        if len(stem) == 64 and digest_of(config_bytes) != f"sha256:{stem}":
            raise InvalidArchiveError(f"the config of an image is not what its name says: {row.Config[:100]}")
        layers = tuple(FoundLayer(name, None) for name in row.Layers or ())
        names = tuple(parse_name(tag) for tag in row.RepoTags or ())
        found.append(_image(config_bytes, layers, names))
    return found


def _oci(archive: Archive, data: bytes, platform: Platform) -> Iterator[FoundImage]:
    images: dict[Digest, tuple[FoundImage, list[Reference]]] = {}
    for descriptor in _index(data).manifests or ():
        digest, manifest = _manifest(archive, descriptor, platform, 0)
        if digest not in images:
            images[digest] = (_oci_image(archive, manifest), [])
        images[digest][1].extend(_names(descriptor.annotations))
    if not images:
        raise InvalidArchiveError("the archive's index lists no image")
    for image, names in images.values():
        yield FoundImage(image.config_bytes, image.config, image.layers, tuple(dict.fromkeys(names)))


def _index(data: bytes) -> Index:
    _exclusive(data)
    return decode(data, Index)


def _exclusive(data: bytes) -> None:
    """A document that is manifest and index at once means different things to different readers."""
    raw: Any = msgspec.json.decode(data)
    if not isinstance(raw, dict) or ("manifests" in raw and ("layers" in raw or "config" in raw)):
        raise InvalidArchiveError("a document of the archive is manifest and index at once")


def _manifest(archive: Archive, descriptor: Descriptor, platform: Platform, depth: int) -> tuple[Digest, Manifest]:
    data = _needed(archive, blob_name(descriptor.digest))
    if digest_of(data) != descriptor.digest or len(data) != descriptor.size:
        raise InvalidArchiveError(f"a blob of the archive is not what its name says: {descriptor.digest}")
    if descriptor.media_type in (OCI_MANIFEST, DOCKER_MANIFEST):
        _exclusive(data)
        return descriptor.digest, decode(data, Manifest)
    if descriptor.media_type not in (OCI_INDEX, DOCKER_MANIFEST_LIST):
        raise InvalidArchiveError(f"unknown kind of document in the archive: {descriptor.media_type[:100]}")
    if depth >= _MAX_NESTING:
        raise InvalidArchiveError("indexes of the archive are nested too deep")
    for inner in _index(data).manifests or ():
        if _fits(inner, platform):
            return _manifest(archive, inner, platform, depth + 1)
    raise InvalidArchiveError(f"the archive has no image for {platform}")


def _fits(descriptor: Descriptor, platform: Platform) -> bool:
    wanted = descriptor.platform
    if wanted is None:
        return True
    parts = [str(wanted.get(name, "")) for name in ("os", "architecture", "variant")]
    try:
        return parse_platform("/".join(part for part in parts if part)) == platform
    except UsageError:
        return False


def _oci_image(archive: Archive, manifest: Manifest) -> FoundImage:
    if manifest.config is None:
        raise InvalidArchiveError("a manifest of the archive has no config")
    config_bytes = _needed(archive, blob_name(manifest.config.digest))
    if digest_of(config_bytes) != manifest.config.digest:
        raise InvalidArchiveError(f"a blob of the archive is not what its name says: {manifest.config.digest}")
    layers = tuple(FoundLayer(blob_name(layer.digest), layer) for layer in manifest.layers or ())
    return _image(config_bytes, layers, ())


def _image(config_bytes: bytes, layers: tuple[FoundLayer, ...], names: tuple[Reference, ...]) -> FoundImage:
    config = decode(config_bytes, ImageConfig)
    if len(config.rootfs.diff_ids) != len(layers):
        raise InvalidArchiveError(
            f"an image of the archive has {len(layers)} layers, its config speaks of {len(config.rootfs.diff_ids)}"
        )
    return FoundImage(config_bytes, config, layers, names)


def _needed(archive: Archive, name: str) -> bytes:
    data = archive.read(name)
    if data is None:
        raise InvalidArchiveError(f"the archive lacks a file: {name[:200]}")
    return data


def _names(annotations: dict[str, str]) -> list[Reference]:
    for key in (CONTAINERD_NAME, REF_NAME):
        text = annotations.get(key, "")
        # A bare tag, as the specification allows it here, names nothing
        if text and (key == CONTAINERD_NAME or ":" in text or "/" in text):
            return [parse_name(text)]
    return []


def parse_name(text: str) -> Reference:
    """Return a name of the archive; raise InvalidArchiveError."""
    try:
        return parse_reference(text)
    except InvalidReferenceError as error:
        raise InvalidArchiveError(f"the archive names an image wrongly: {error.message}") from error
