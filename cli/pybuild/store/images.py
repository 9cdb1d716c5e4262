"""Images: configs by their digest, and the names that point at them, or at an index of images."""

import os
import re
import time
from collections.abc import Iterable, Sequence

import msgspec

from pybuild.errors import ConflictError, NotFoundError
from pybuild.oci.digest import Digest, digest_of, parse_digest
from pybuild.oci.image import MAX_DOCUMENT, OCI_MANIFEST, Descriptor, ImageConfig, InvalidImageError, decode
from pybuild.oci.platform import Platform, host_platform
from pybuild.oci.reference import InvalidReferenceError, Reference, parse_reference
from pybuild.store.absent import Absent
from pybuild.store.blobs import Blobs
from pybuild.store.errors import MissingContentError
from pybuild.store.index import Index
from pybuild.store.indexes import Indexes, IndexRecord, Member, plain_manifest, platform_fields
from pybuild.store.layers import Layers

_PREFIX = re.compile(r"(sha256:)?([0-9a-f]{1,64})")

INPUTS = "inputs"
"""Kind of what is remembered of an image's inputs: it goes with the image."""


class ImageRecord(msgspec.Struct, frozen=True):
    """An image of the store.

    `id` is the digest of `data`, the bytes of the config. `tags` are familiar names, sorted. `created` is when it came
    into the store, in seconds since the epoch. `size` is the sum of its uncompressed layers in bytes, of those that are
    elsewhere as they are there.
    """

    id: Digest
    data: bytes
    config: ImageConfig
    tags: tuple[str, ...]
    created: float
    size: int

    @property
    def diff_ids(self) -> list[Digest]:
        """Return the layers, bottom first."""
        return self.config.rootfs.diff_ids

    @property
    def references(self) -> list[Reference]:
        """Return the names."""
        return [parse_reference(tag) for tag in self.tags]


class Images:
    """The images of a store. Every method may be called from several threads."""

    def __init__(self, index: Index, blobs: Blobs, layers: Layers, indexes: Indexes, absent: Absent) -> None:
        self._index = index
        self._indexes = indexes
        self._blobs = blobs
        self._layers = layers
        self._absent = absent

    def put(
        self, config: bytes, *, manifest: Sequence[Descriptor] | None = None, tags: Iterable[Reference] = ()
    ) -> Digest:
        """Keep an image whose layers are in the store, or known to be elsewhere, move `tags` to it and return its id.

        All of that is done, or nothing.

        `manifest` are compressed forms of the layers, one for each. An image that is there already stays as it is.
        Raises InvalidImageError for bytes that are no config, MissingContentError when a layer is absent.
        """
        decoded = decode(config, ImageConfig)
        diff_ids = decoded.rootfs.diff_ids
        if manifest is not None and len(manifest) != len(diff_ids):
            raise InvalidImageError(f"image of {len(diff_ids)} layers has {len(manifest)} in its manifest")
        size = sum(map(self._size, diff_ids))
        for diff_id, form in zip(diff_ids, manifest or ()):
            if form.digest != diff_id:
                self._layers.add_form(diff_id, form)
        # The row is what is read; from the file a lost index is made again
        identity = self._blobs.put(config)
        names = [str(_tagged(tag)) for tag in tags]
        if self._is_recorded(identity, names):
            # A build that was all cached writes nothing
            return identity
        now = time.time()
        with self._index.writing() as transaction:
            transaction.execute(
                "INSERT OR IGNORE INTO images (id, config, size, created) VALUES (?, ?, ?, ?)",
                (identity, config, size, now),
            )
            transaction.executemany(
                "INSERT OR REPLACE INTO tags (name, image, created) VALUES (?, ?, ?)",
                [(name, identity, now) for name in names],
            )
        return identity

    def measure(self, identity: Digest) -> None:
        """Work out the size of an image anew: layers of it have come."""
        record = self.get(identity)
        if record is not None:
            size = sum(map(self._size, record.diff_ids))
            self._index.write("UPDATE images SET size = ? WHERE id = ?", (size, identity))

    def _size(self, diff_id: Digest) -> int:
        if self._layers.has(diff_id):
            return self._layers.size(diff_id)
        elsewhere = self._absent.get(diff_id)
        if elsewhere is None:
            raise MissingContentError(f"a layer of the image is missing from the store: {diff_id}")
        return elsewhere.descriptor.size

    def tag(self, name: Reference, identity: Digest) -> None:
        """Let `name` point at an image or index, whatever it pointed at before; raise NotFoundError."""
        with self._index.writing() as transaction:
            known = "SELECT id FROM images WHERE id = ? UNION SELECT id FROM indexes WHERE id = ?"
            if transaction.execute(known, (identity, identity)).fetchone() is None:
                raise NotFoundError(f"no such image: {identity}")
            transaction.execute(
                "INSERT OR REPLACE INTO tags (name, image, created) VALUES (?, ?, ?)",
                (str(_tagged(name)), identity, time.time()),
            )

    def untag(self, name: Reference) -> bool:
        """Take a name away; return whether it was there. The image stays."""
        return self._index.write("DELETE FROM tags WHERE name = ?", (str(_tagged(name)),)) > 0

    def resolve(self, name: str, *, ids: bool = True, platform: Platform | None = None) -> ImageRecord | None:
        """Return the image called `name`: a familiar or full name, and with `ids` a full id or the beginning of one.

        A name wins over an id that begins alike. With a digest (`name@sha256:...`) the image must have that id as well.
        Of an index it is the image for `platform`, this machine's without it, else the first. Raises ConflictError for
        a beginning that several ids share, InvalidReferenceError for what is neither.
        """
        identity = self._id_of(name, ids=ids)
        if identity is None:
            return None
        found = self.get(identity)
        if found is None and (index := self._indexes.get(identity)) is not None:
            wanted = platform or host_platform(os.uname().machine)
            return self.get((index.member_for(wanted) or index.members[0]).image)
        return found

    def index(self, name: str, *, ids: bool = True) -> IndexRecord | None:
        """Return the index called `name`, None when that is no index; raises as `resolve`."""
        identity = self._id_of(name, ids=ids)
        return self._indexes.get(identity) if identity is not None else None

    def manifest(self, record: ImageRecord) -> bytes:
        """Return the manifest of an image with layers that are not compressed, by which an index calls it here."""
        sizes = [(diff_id, self._size(diff_id)) for diff_id in record.diff_ids]
        return plain_manifest(record.id, record.data, sizes)

    def member(self, identity: Digest) -> Member:
        """Return an image of the store as an index has it; raise NotFoundError."""
        record = self.get(identity)
        if record is None:
            raise NotFoundError(f"no such image: {identity}")
        data = self.manifest(record)
        row = Descriptor(OCI_MANIFEST, digest_of(data), len(data), platform=platform_fields(record.config))
        return Member(identity, row)

    def get(self, identity: Digest) -> ImageRecord | None:
        """Return the image with this id."""
        parse_digest(identity)
        row = self._index.row("SELECT id, config, size, created FROM images WHERE id = ?", (identity,))
        if row is None:
            return None
        tags = self._index.rows("SELECT name FROM tags WHERE image = ?", (identity,))
        return _record(row, [name for (name,) in tags])

    def list(self) -> list[ImageRecord]:
        """Return all images, the newest first."""
        names: dict[str, list[str]] = {}
        # Names first: an image that comes in between then has none, instead of a name without an image
        for name, image in self._index.rows("SELECT name, image FROM tags"):
            names.setdefault(image, []).append(name)
        rows = self._index.rows("SELECT id, config, size, created FROM images ORDER BY created DESC, id")
        return [_record(row, names.get(row[0], [])) for row in rows]

    def delete(self, identity: Digest) -> bool:
        """Remove an image and its names; return whether it was there. Its layers stay until a prune."""
        with self._index.writing() as transaction:
            transaction.execute("DELETE FROM tags WHERE image = ?", (identity,))
            transaction.execute("DELETE FROM memo WHERE kind = ? AND key = ?", (INPUTS, identity))
            return transaction.execute("DELETE FROM images WHERE id = ?", (identity,)).rowcount > 0

    def _is_recorded(self, identity: Digest, names: Sequence[str]) -> bool:
        if self._index.row("SELECT 1 FROM images WHERE id = ?", (identity,)) is None:
            return False
        return all(
            self._index.row("SELECT 1 FROM tags WHERE name = ? AND image = ?", (name, identity)) for name in names
        )

    def _id_of(self, name: str, *, ids: bool) -> Digest | None:
        """Return the id of the image or index called `name`."""
        match = _PREFIX.fullmatch(name)
        if match and (match[1] or len(match[2]) == 64):
            return self._by_prefix(match[2]) if ids else None
        try:
            reference = parse_reference(name)
        except InvalidReferenceError:
            if match and ids:
                return self._by_prefix(match[2])
            raise
        found = self._by_reference(reference)
        if found is None and match and ids:
            found = self._by_prefix(match[2])
        return found

    def _by_reference(self, reference: Reference) -> Digest | None:
        if reference.tag is not None:
            row = self._index.row("SELECT image FROM tags WHERE name = ?", (f"{reference.name}:{reference.tag}",))
            if row is None or (reference.digest is not None and row[0] != reference.digest):
                return None
            return Digest(row[0])
        names = self._index.rows("SELECT name FROM tags WHERE image = ?", (reference.digest,))
        if reference.name not in {parse_reference(known).name for (known,) in names}:
            return None
        return reference.digest

    def _by_prefix(self, prefix: str) -> Digest | None:
        # No LIKE: a range is answered by the primary key
        rows = self._index.rows(
            "SELECT id FROM images WHERE id >= ? AND id < ? LIMIT 2", (f"sha256:{prefix}", f"sha256:{prefix}g")
        )
        found = [*(identity for (identity,) in rows), *self._indexes.beginning(prefix)]
        if len(found) > 1:
            raise ConflictError(f"several images have ids that begin like this: {prefix}", "write more of the id")
        return Digest(found[0]) if found else None


def _tagged(name: Reference) -> Reference:
    """Names of images are kept by tag; a digest beside it says nothing that the image does not."""
    if name.tag is None:
        raise InvalidReferenceError(f"a name with a digest cannot be given to an image: {name.familiar()}")
    return name if name.digest is None else name.with_tag(name.tag)


def _record(row: tuple[str, bytes, int, float], names: Sequence[str]) -> ImageRecord:
    identity, data, size, created = row
    return ImageRecord(
        id=Digest(identity),
        data=data,
        config=decode(data, ImageConfig),
        tags=tuple(sorted(parse_reference(name).familiar() for name in names)),
        created=created,
        size=size,
    )


def looks_like_config(data: bytes) -> bool:
    """Could these bytes be the config of an image? Asked when a lost index is made again."""
    if len(data) > MAX_DOCUMENT or not data.startswith(b"{"):
        return False
    try:
        config = decode(data, ImageConfig)
    except InvalidImageError:
        return False
    return bool(config.os and config.architecture)
