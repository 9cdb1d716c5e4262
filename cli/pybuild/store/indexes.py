"""Indexes: images of one name for several platforms, which stay as long as the index does."""

import json
import time
from collections.abc import Iterable, Sequence

import msgspec

from pybuild.errors import NotFoundError
from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    decode,
    encode,
)
from pybuild.oci.manifests import choose
from pybuild.oci.platform import Platform
from pybuild.oci.reference import parse_reference
from pybuild.store.index import Index as Database


class Member(msgspec.Struct, frozen=True):
    """An image of an index: its id, and what the index says of it.

    `row` is a descriptor of the manifest that the image has with layers that are not compressed; what is written or
    pushed has another digest and size, and the same platform and annotations.
    """

    image: Digest
    row: Descriptor


class IndexRecord(msgspec.Struct, frozen=True):
    """An index of the store. `id` is the digest of `data`; `tags` are familiar names, sorted.

    `created` is when it came into the store, in seconds since the epoch.
    """

    id: Digest
    data: bytes
    members: tuple[Member, ...]
    tags: tuple[str, ...]
    created: float

    @property
    def images(self) -> tuple[Digest, ...]:
        """Return the ids of its images."""
        return tuple(member.image for member in self.members)

    @property
    def annotations(self) -> dict[str, str]:
        """Return what the index says of itself."""
        return decode(self.data, Index).annotations

    def member_for(self, platform: Platform) -> Member | None:
        """Return the image for a platform (image-spec, image-index.md), None when there is none."""
        row = choose([member.row for member in self.members], platform)
        return next((member for member in self.members if member.row is row), None)


class Indexes:
    """The indexes of a store. Every method may be called from several threads."""

    def __init__(self, index: Database) -> None:
        self._index = index

    def put(
        self, members: Sequence[Member], *, tags: Iterable[str] = (), annotations: dict[str, str] | None = None
    ) -> Digest:
        """Keep an index of images that are in the store, move `tags` (full names) to it and return its id.

        Raises NotFoundError when an image is absent.
        """
        rows = [member.row for member in members]
        data = encode(Index(media_type=OCI_INDEX, manifests=rows, annotations=annotations or {}))
        identity = digest_of(data)
        names = list(tags)
        if self._is_recorded(identity, names):
            return identity
        now = time.time()
        with self._index.writing() as transaction:
            for member in members:
                if transaction.execute("SELECT 1 FROM images WHERE id = ?", (member.image,)).fetchone() is None:
                    raise NotFoundError(f"no such image: {member.image}")
            images = json.dumps([member.image for member in members])
            transaction.execute(
                "INSERT OR IGNORE INTO indexes (id, data, images, created) VALUES (?, ?, ?, ?)",
                (identity, data, images, now),
            )
            transaction.executemany(
                "INSERT OR REPLACE INTO tags (name, image, created) VALUES (?, ?, ?)",
                [(name, identity, now) for name in names],
            )
        return identity

    def get(self, identity: str) -> IndexRecord | None:
        """Return the index with this id."""
        row = self._index.row("SELECT id, data, images, created FROM indexes WHERE id = ?", (identity,))
        if row is None:
            return None
        names = self._index.rows("SELECT name FROM tags WHERE image = ?", (identity,))
        return _record(row, [name for (name,) in names])

    def list(self) -> list[IndexRecord]:
        """Return all indexes, the newest first."""
        rows = self._index.rows("SELECT id, data, images, created FROM indexes ORDER BY created DESC, id")
        if not rows:
            return []
        names: dict[str, list[str]] = {}
        for name, image in self._index.rows("SELECT name, image FROM tags"):
            names.setdefault(image, []).append(name)
        return [_record(row, names.get(row[0], [])) for row in rows]

    def beginning(self, digits: str) -> Sequence[str]:
        """Return ids that begin with these hex digits, two at most."""
        rows = self._index.rows(
            "SELECT id FROM indexes WHERE id >= ? AND id < ? LIMIT 2", (f"sha256:{digits}", f"sha256:{digits}g")
        )
        return [identity for (identity,) in rows]

    def holding(self, image: Digest) -> Sequence[IndexRecord]:
        """Return the indexes that have an image."""
        return [record for record in self.list() if image in record.images]

    def delete(self, identity: Digest) -> bool:
        """Remove an index and its names; return whether it was there. Its images stay."""
        with self._index.writing() as transaction:
            transaction.execute("DELETE FROM tags WHERE image = ?", (identity,))
            transaction.execute("DELETE FROM memo WHERE kind = ? AND key = ?", ("inputs", identity))
            return transaction.execute("DELETE FROM indexes WHERE id = ?", (identity,)).rowcount > 0

    def _is_recorded(self, identity: Digest, names: Sequence[str]) -> bool:
        if self._index.row("SELECT 1 FROM indexes WHERE id = ?", (identity,)) is None:
            return False
        return all(
            self._index.row("SELECT 1 FROM tags WHERE name = ? AND image = ?", (name, identity)) for name in names
        )


def plain_manifest(image: Digest, config: bytes, layers: Sequence[tuple[Digest, int]]) -> bytes:
    """Return the manifest of an image whose layers (diff id, size in bytes) are not compressed."""
    described = Descriptor(OCI_CONFIG, image, len(config))
    rows = [Descriptor(OCI_LAYER, diff_id, size) for diff_id, size in layers]
    return encode(Manifest(media_type=OCI_MANIFEST, config=described, layers=rows))


def platform_fields(config: ImageConfig) -> dict[str, str]:
    """Return the platform of an image as a descriptor has it."""
    fields = {"architecture": config.architecture, "os": config.os, "variant": config.variant}
    return {name: value for name, value in fields.items() if value}


def _record(row: tuple[str, bytes, str, float], names: Sequence[str]) -> IndexRecord:
    identity, data, images, created = row
    rows = decode(data, Index).manifests or []
    members = tuple(Member(Digest(image), row) for image, row in zip(json.loads(images), rows, strict=True))
    tags = tuple(sorted(parse_reference(name).familiar() for name in names))
    return IndexRecord(Digest(identity), data, members, tags, created)
