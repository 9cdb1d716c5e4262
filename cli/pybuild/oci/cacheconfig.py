"""BuildKit's description of a cache: results by key, each as a layer of the same manifest.

A result is a layer alone, as keys here say what lies below it; so no record has inputs, and keys of other builders are
others. What BuildKit does not have is in a member of our own, which it passes over.
"""

import msgspec

from pybuild.oci.digest import Digest

CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
DIFF_ID = "containerd.io/uncompressed"
"""Annotation of a layer's descriptor."""

NO_PARENT = -1


class LayerNotes(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is to be known of a layer; `createdAt` as RFC 3339, `size` in bytes of the blob."""

    mediaType: str = ""
    diffID: Digest = Digest("")
    size: int = 0
    createdAt: str = ""


class CachedLayer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A blob of the manifest."""

    blob: Digest
    parent: int = NO_PARENT
    annotations: LayerNotes = LayerNotes()


class Result(msgspec.Struct, frozen=True):
    """Index of a layer."""

    layer: int
    createdAt: str = ""


class Ours(msgspec.Struct, frozen=True):
    """`created` in seconds since the epoch, as exact as a record of the store has it; `size` of the layer's tar.

    `account` says what the key was made of, `files` which files: packed by zlib, as base64. In an image's config `told`
    says both, as JSON: what zlib makes is not the same everywhere, and an image's id has to be.
    """

    created: float
    size: int = 0
    description: str = ""
    account: str | msgspec.UnsetType = msgspec.UNSET
    files: str | msgspec.UnsetType = msgspec.UNSET
    told: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """A result by its key, as a digest; without layers it is that nothing is to be done."""

    digest: Digest
    layers: list[Result] = []
    pybuild: Ours | None = None


class CacheConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """The config of a cache's manifest."""

    layers: list[CachedLayer] = []
    records: list[Record] = []
