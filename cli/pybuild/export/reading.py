"""Finding the images in an archive or layout directory somebody made. Nothing in it is believed unchecked."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import msgspec

from pybuild.export.archive import CONTAINERD_NAME, REF_NAME, blob_name
from pybuild.export.errors import InvalidArchiveError
from pybuild.oci.digest import Digest, InvalidDigestError, digest_of
from pybuild.oci.image import Descriptor, ImageConfig, Index, InvalidImageError, Manifest, decode
from pybuild.oci.manifests import (
    ATTESTATION,
    INDEX_TYPES,
    MANIFEST_TYPES,
    check_config,
    check_manifest,
    choose,
    platform_of,
    read_document,
)
from pybuild.oci.platform import Platform
from pybuild.oci.reference import InvalidReferenceError, Reference, parse_reference

MAX_IMAGES = 1000

_MAX_NESTING = 4
_WHERE = "the archive"

_T = TypeVar("_T", Manifest, Index)


class Archive(Protocol):
    """Files by name. Names come from strangers and lead nowhere else."""

    def read(self, name: str) -> bytes | None:
        """Return a small file, None when absent; raise InvalidArchiveError for a large one."""

    def has(self, name: str) -> bool:
        """Is there a file of this name?"""


class FoundLayer(msgspec.Struct, frozen=True):
    """Where a layer's bytes are: `digest` is known for OCI layouts, whose bytes must have it."""

    name: str
    descriptor: Descriptor | None


class FoundImage(msgspec.Struct, frozen=True):
    """An image of the archive."""

    config_bytes: bytes
    config: ImageConfig
    layers: tuple[FoundLayer, ...]
    names: tuple[Reference, ...]


class FoundIndex(msgspec.Struct, frozen=True):
    """Images for several platforms that the archive has below one index; `rows` are what that says of each."""

    images: tuple[FoundImage, ...]
    rows: tuple[Descriptor, ...]
    names: tuple[Reference, ...]
    annotations: dict[str, str]


class _Row(msgspec.Struct):
    """An element of docker's manifest.json."""

    Config: str
    Layers: list[str] | None = None
    RepoTags: list[str] | None = None


def find_images(archive: Archive, platform: Platform) -> list[FoundImage | FoundIndex]:
    """Return the images in the archive.

    What an index has for several platforms stays together, as far as it is in the archive; of rows of the same name
    it is the one of `platform`. Raises InvalidArchiveError for what is no image archive or contradicts itself.
    """
    try:
        listed = archive.read("manifest.json")
        data = archive.read("index.json")
        if listed is not None:
            indexes = [*_indexes(archive, data).values()] if data is not None else []
            return [*indexes, *_apart_from(_docker(archive, listed), indexes)]
        if data is None:
            raise InvalidArchiveError(
                "no image in the archive: neither manifest.json nor index.json is there",
                "a root file system is taken in with `pybuild import`",
            )
        return list(_oci(archive, data, platform))
    except (InvalidImageError, InvalidDigestError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArchiveError(f"invalid image archive: {error}") from error
    except RecursionError as error:
        raise InvalidArchiveError("invalid image archive: a document is nested too deep") from error


def find_one(archive: Archive, platform: Platform, tag: str, digest: Digest | None) -> FoundImage:
    """Return the image of an OCI layout with that tag or digest, the one for `platform` where there are several.

    With neither it is the one tagged latest, or the only one. Raises InvalidArchiveError.
    """
    try:
        data = archive.read("index.json")
        if data is None:
            raise InvalidArchiveError("no OCI layout: index.json is not there")
        rows = [
            row for row in _document(data, Index, "", INDEX_TYPES).manifests or () if ATTESTATION not in row.annotations
        ]
        if digest is not None:
            chosen = [row for row in rows if row.digest == digest]
        else:
            chosen = [row for row in rows if (tag or "latest") in _tags(row.annotations)]
            if not chosen and not tag and len({tuple(sorted(_tags(row.annotations))) for row in rows}) == 1:
                chosen = rows
        for row in chosen:
            if len(chosen) == 1 or _fits(row, platform):
                return _oci_image(archive, _manifest(archive, row, platform, 0)[1])
    except (InvalidImageError, InvalidDigestError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArchiveError(f"invalid image archive: {error}") from error
    except RecursionError as error:
        raise InvalidArchiveError("invalid image archive: a document is nested too deep") from error
    raise InvalidArchiveError(f"the OCI layout has no such image: {digest or tag or 'latest'}")


def _tags(annotations: dict[str, str]) -> set[str]:
    """Return the tags that a row of an index has, whether they stand alone or behind a name."""
    texts = (annotations.get(key, "") for key in (CONTAINERD_NAME, REF_NAME))
    return {text.rpartition("/")[2].rpartition(":")[2] for text in texts if text}


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


def _apart_from(images: list[FoundImage], indexes: Sequence[FoundIndex]) -> Iterator[FoundImage]:
    """Yield the images that are listed, but for what belongs to an index of the same archive."""
    taken = {name for index in indexes for name in index.names}
    inside = {image.config_bytes for index in indexes for image in index.images}
    for image in images:
        names = tuple(name for name in image.names if name not in taken)
        if names or image.config_bytes not in inside:
            yield msgspec.structs.replace(image, names=names)


def _indexes(archive: Archive, data: bytes) -> dict[Digest, FoundIndex]:
    """Return the indexes that the archive has several images of, by digest."""
    found: dict[Digest, FoundIndex] = {}
    for row in _document(data, Index, "", INDEX_TYPES).manifests or ():
        if row.media_type not in INDEX_TYPES:
            continue
        known = found.get(row.digest) or _index(archive, row)
        if known is not None:
            names = dict.fromkeys((*known.names, *_names(row.annotations)))
            found[row.digest] = msgspec.structs.replace(known, names=tuple(names))
    return found


def _index(archive: Archive, descriptor: Descriptor) -> FoundIndex | None:
    """Return what an index has, None unless it has several images for linux that are in the archive."""
    index = _document(_blob(archive, descriptor), Index, descriptor.media_type, INDEX_TYPES)
    if len(index.manifests or ()) > MAX_IMAGES:
        raise InvalidArchiveError(f"an index of the archive lists more than {MAX_IMAGES} images")
    images: list[FoundImage] = []
    rows: list[Descriptor] = []
    for row in index.manifests or ():
        platform = platform_of(row)
        is_image = row.media_type in MANIFEST_TYPES and ATTESTATION not in row.annotations
        if not is_image or platform is None or platform.os != "linux" or not archive.has(blob_name(row.digest)):
            continue
        manifest = _document(_blob(archive, row), Manifest, row.media_type, MANIFEST_TYPES)
        parts = [*([manifest.config] if manifest.config else []), *(manifest.layers or ())]
        # Some tools save an index whole and the content of one platform
        if all(archive.has(blob_name(part.digest)) for part in parts):
            images.append(_oci_image(archive, manifest))
            rows.append(row)
    return FoundIndex(tuple(images), tuple(rows), (), index.annotations) if len(images) > 1 else None


def _oci(archive: Archive, data: bytes, platform: Platform) -> Iterator[FoundImage | FoundIndex]:
    index = _document(data, Index, "", INDEX_TYPES)
    if len(index.manifests or ()) > MAX_IMAGES:
        raise InvalidArchiveError(f"the archive's index lists more than {MAX_IMAGES} images")
    several = _indexes(archive, data)
    yield from several.values()
    images: dict[Digest, tuple[FoundImage, list[Reference]]] = {}
    for descriptor in _of_host(index.manifests or (), platform):
        if descriptor.digest in several:
            continue
        digest, manifest = _manifest(archive, descriptor, platform, 0)
        if digest not in images:
            images[digest] = (_oci_image(archive, manifest), [])
        images[digest][1].extend(_names(descriptor.annotations))
    if not images and not several:
        raise InvalidArchiveError("the archive's index lists no image")
    for image, names in images.values():
        yield FoundImage(image.config_bytes, image.config, image.layers, tuple(dict.fromkeys(names)))


def _of_host(rows: Sequence[Descriptor], platform: Platform) -> Iterator[Descriptor]:
    """Yield the rows of the top index; of one image for several platforms, the host's.

    Rows of the same name (or without one) that differ in their platforms are one image. An image for a single
    platform is taken whatever that is.
    """
    groups: dict[tuple[Reference, ...], list[Descriptor]] = {}
    for row in rows:
        if ATTESTATION not in row.annotations:
            groups.setdefault(tuple(_names(row.annotations)), []).append(row)
    for group in groups.values():
        platforms = {str(row.platform) for row in group if row.platform is not None}
        yield from [row for row in group if _fits(row, platform)] if len(platforms) > 1 else group


def _document(data: bytes, kind: type[_T], media_type: str, allowed: Sequence[str]) -> _T:
    return read_document(data, kind, media_type, allowed, _WHERE)


def _blob(archive: Archive, descriptor: Descriptor) -> bytes:
    """Return a small blob, checked against its descriptor."""
    data = _needed(archive, blob_name(descriptor.digest))
    if digest_of(data) != descriptor.digest or len(data) != descriptor.size:
        raise InvalidArchiveError(f"a blob of the archive is not what its name says: {descriptor.digest}")
    return data


def _manifest(archive: Archive, descriptor: Descriptor, platform: Platform, depth: int) -> tuple[Digest, Manifest]:
    data = _blob(archive, descriptor)
    if descriptor.media_type in MANIFEST_TYPES:
        return descriptor.digest, _document(data, Manifest, descriptor.media_type, MANIFEST_TYPES)
    if descriptor.media_type not in INDEX_TYPES:
        raise InvalidArchiveError(f"unknown kind of document in the archive: {descriptor.media_type!r:.100}")
    if depth >= _MAX_NESTING:
        raise InvalidArchiveError("indexes of the archive are nested too deep")
    rows = _document(data, Index, descriptor.media_type, INDEX_TYPES).manifests or []
    inner = choose(rows, platform)
    images = [row for row in rows if ATTESTATION not in row.annotations]
    if inner is None and len(images) == 1:
        # As at the top, one for a single platform is taken whatever that is
        inner = images[0]
    if inner is None:
        raise InvalidArchiveError(f"the archive has no image for {platform}")
    return _manifest(archive, inner, platform, depth + 1)


def _fits(descriptor: Descriptor, platform: Platform) -> bool:
    return not descriptor.platform or platform_of(descriptor) == platform


def _oci_image(archive: Archive, manifest: Manifest) -> FoundImage:
    config, layers = check_manifest(manifest, _WHERE)
    return _image(_blob(archive, config), tuple(FoundLayer(blob_name(layer.digest), layer) for layer in layers), ())


def _image(config_bytes: bytes, layers: tuple[FoundLayer, ...], names: tuple[Reference, ...]) -> FoundImage:
    config = decode(config_bytes, ImageConfig)
    check_config(config, len(layers), _WHERE)
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
        reference = parse_reference(text)
    except InvalidReferenceError as error:
        raise InvalidArchiveError(f"the archive names an image wrongly: {error.message}") from error
    if reference.tag is None:
        raise InvalidArchiveError(f"the archive names an image by a digest: {reference.familiar()}")
    return reference
