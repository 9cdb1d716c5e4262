"""Image config, descriptor, manifest and index (OCI image spec v1.1; Docker's additions to the config).

Every struct decodes strictly typed and ignores unknown keys. `encode` gives deterministic bytes:
fields in declaration order, maps sorted, absent and empty fields left out, as Go's `omitempty` does.
"""

from typing import Any, TypeVar

import msgspec

from pybuild.errors import PybuildError
from pybuild.oci.digest import Digest, parse_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

MAX_DOCUMENT = 4 << 20
"""Largest manifest, index or config that is read, in bytes."""


class InvalidImageError(PybuildError):
    """An image document that is not what the specification says."""

    http_status = 400


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Points at content by type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: dict[str, str] = {}
    platform: dict[str, Any] | None = None
    artifact_type: str = ""


class Healthcheck(msgspec.Struct, frozen=True, omit_defaults=True):
    """Docker's HEALTHCHECK; times are nanoseconds, 0 means inherited."""

    Test: list[str] = []
    Interval: int = 0
    Timeout: int = 0
    StartPeriod: int = 0
    StartInterval: int = 0
    Retries: int = 0


class RunConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """`config` of an image: what a container of it would run with. JSON names are Docker's."""

    User: str = ""
    ExposedPorts: dict[str, dict[str, Any]] | None = None
    Env: list[str] | None = None
    Entrypoint: list[str] | None = None
    Cmd: list[str] | None = None
    Volumes: dict[str, dict[str, Any]] | None = None
    WorkingDir: str = ""
    Labels: dict[str, str] | None = None
    StopSignal: str = ""
    ArgsEscaped: bool | None = None
    OnBuild: list[str] | None = None
    Healthcheck: "Healthcheck | None" = None
    Shell: list[str] | None = None


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of an image's history."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class RootFS(msgspec.Struct, frozen=True):
    """The uncompressed layers, bottom first."""

    type: str = "layers"
    diff_ids: list[Digest] = []


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """The image configuration; the digest of its bytes is the image id."""

    architecture: str = ""
    os: str = ""
    created: str = ""
    author: str = ""
    variant: str = ""
    config: RunConfig = RunConfig()
    rootfs: RootFS = RootFS()
    history: list[History] | None = None
    cache: bytes | None = msgspec.field(default=None, name="moby.buildkit.cache.v0")
    """Results of the steps that made it, as `cacheconfig` has them."""


class Manifest(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An image manifest, or, with an `artifact_type`, that of something else; `subject` is what it refers to."""

    schema_version: int = msgspec.field(default=2)
    media_type: str = ""
    config: Descriptor | None = None
    layers: list[Descriptor] | None = None
    annotations: dict[str, str] = {}
    artifact_type: str = ""
    subject: Descriptor | None = None


class Index(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An image index."""

    schema_version: int = msgspec.field(default=2)
    media_type: str = ""
    manifests: list[Descriptor] | None = None
    annotations: dict[str, str] = {}


T = TypeVar("T")

_encoder = msgspec.json.Encoder(order="deterministic")


def encode(value: Any) -> bytes:
    """Return the canonical JSON of a document; what its digest names."""
    if isinstance(value, Manifest | Index):
        # omit_defaults would drop the required version
        document = msgspec.to_builtins(value)
        return _encoder.encode({"schemaVersion": 2, **document})
    return _encoder.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """Return the document in `data`; raise InvalidImageError naming the path of what is wrong."""
    if len(data) > MAX_DOCUMENT:
        raise InvalidImageError(f"image document of {len(data)} bytes is over the limit of {MAX_DOCUMENT}")
    try:
        value = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidImageError(f"invalid image document: {error}") from error
    _check_digests(value)
    return value


def _check_digests(value: object) -> None:
    """A typed decode does not know what a digest looks like."""
    if isinstance(value, ImageConfig):
        for diff_id in value.rootfs.diff_ids:
            parse_digest(diff_id)
    elif isinstance(value, Manifest):
        for descriptor in [*([value.config] if value.config else []), *(value.layers or [])]:
            parse_digest(descriptor.digest)
    elif isinstance(value, Index):
        for descriptor in value.manifests or []:
            parse_digest(descriptor.digest)
