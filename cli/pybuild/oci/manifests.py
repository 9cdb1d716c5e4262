"""Manifests and indexes as strangers give them: what they must not be, and which image of an index is meant."""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from pybuild.oci.image import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    DOCKER_MANIFEST_LIST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    InvalidImageError,
    Manifest,
    decode,
)
from pybuild.oci.platform import Platform, level, normalise, runs_on

MAX_LAYERS = 500
"""As many as one overlay mount can have."""

INDEX_TYPES = (OCI_INDEX, DOCKER_MANIFEST_LIST)
MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
CONFIG_TYPES = (OCI_CONFIG, DOCKER_CONFIG)
LAYER_TYPES = (OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP)
"""Others are no file system, or (foreign layers) to be fetched from wherever the image says, which is not done."""

COMPRESSED = {OCI_LAYER_GZIP: OCI_LAYER_GZIP, DOCKER_LAYER_GZIP: OCI_LAYER_GZIP, OCI_LAYER_ZSTD: OCI_LAYER_ZSTD}
"""Media types of compressed layers, and those under which we keep them: the bytes are the same."""

ATTESTATION = "vnd.docker.reference.type"
"""Annotation of BuildKit's rows in an index that are no images."""

_T = TypeVar("_T", Manifest, Index)


def read_document(data: bytes, kind: type[_T], media_type: str, allowed: Sequence[str], where: str) -> _T:
    """Return a manifest or index that is what its descriptor, or header, says: `media_type`, "" when that says nothing.

    A document that is manifest and index at once means different things to different readers (CVE-2021-41190).
    `where` is for messages. Raises InvalidImageError.
    """
    try:
        raw: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidImageError(f"a document of {where} is no JSON: {error}") from error
    if not isinstance(raw, dict) or ("manifests" in raw and ("layers" in raw or "config" in raw)):
        raise InvalidImageError(f"a document of {where} is manifest and index at once")
    if raw.get("schemaVersion") != 2:
        raise InvalidImageError(f"a document of {where} has another schemaVersion than 2")
    own = raw.get("mediaType") or ""
    if own and (own not in allowed or (media_type and own != media_type)):
        raise InvalidImageError(f"a document of {where} is not of the type it should be: {own!r:.100}")
    return decode(data, kind)


def platform_of(descriptor: Descriptor) -> Platform | None:
    """Return the platform in a row of an index, None for a row without one, or with one that is not to be understood.

    The latter fits nothing, so it is told apart by `descriptor.platform`.
    """
    given = descriptor.platform
    if not given:
        return None
    parts = [given.get(name, "") for name in ("os", "architecture", "variant")]
    if not all(isinstance(part, str) for part in parts) or not all(parts[:2]):
        return None
    return normalise(*parts)


def choose(rows: Sequence[Descriptor], platform: Platform) -> Descriptor | None:
    """Return the row of an index that is best for `platform`, None when none can be used.

    That is the same platform, else the latest variant that such a processor runs, else a row that names none. Of
    equal ones the first counts, as with docker.
    """
    best: tuple[int, int] | None = None
    chosen: Descriptor | None = None
    for row in rows:
        if ATTESTATION in row.annotations or (row.media_type not in MANIFEST_TYPES + INDEX_TYPES):
            continue
        found = platform_of(row)
        if found == platform:
            rank = (2, 0)
        elif found is not None and runs_on(found, platform):
            rank = (1, level(found))
        elif found is None and not row.platform:
            rank = (0, 0)
        else:
            continue
        if best is None or rank > best:
            best, chosen = rank, row
    return chosen


def check_manifest(manifest: Manifest, where: str) -> tuple[Descriptor, list[Descriptor]]:
    """Return the descriptors of config and layers of an image that can be used; raise InvalidImageError."""
    if manifest.config is None or manifest.layers is None:
        raise InvalidImageError(f"a manifest of {where} has no config or no layers")
    if manifest.config.media_type not in CONFIG_TYPES:
        raise InvalidImageError(f"{where} holds something that is no image: {manifest.config.media_type!r:.100}")
    for layer in manifest.layers:
        if layer.media_type not in LAYER_TYPES:
            raise InvalidImageError(f"a layer of {where} is of an unknown type: {layer.media_type!r:.100}")
    return manifest.config, manifest.layers


def check_config(config: ImageConfig, layers: int, where: str) -> None:
    """Raise InvalidImageError unless the config is one for linux that speaks of as many layers as there are."""
    if config.os not in ("", "linux"):
        raise InvalidImageError(f"an image of {where} is not for linux: {config.os!r:.100}")
    if config.rootfs.type != "layers" or len(config.rootfs.diff_ids) != layers:
        raise InvalidImageError(
            f"an image of {where} has {layers} layers, its config speaks of {len(config.rootfs.diff_ids)}"
        )
    if layers > MAX_LAYERS:
        raise InvalidImageError(f"an image of {where} has more than {MAX_LAYERS} layers: {layers}")


def fits(config: ImageConfig, platform: Platform) -> bool:
    """Is an image for a platform, or for none in particular?"""
    if not config.os or not config.architecture:
        return True
    return runs_on(normalise(config.os, config.architecture, config.variant), platform)
