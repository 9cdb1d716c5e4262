"""Images by id (digest of the config) and by name."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pybuild.errors import ConflictError
from pybuild.oci.digest import Digest
from pybuild.oci.image import ImageConfig, decode
from pybuild.oci.reference import InvalidReferenceError, Reference, parse_reference
from pybuild.store.blobs import Blobs
from pybuild.store.errors import MissingError
from pybuild.store.index import Index


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image of the store: `tags` in familiar form, `created` when it came here, `size` of its layers in bytes."""

    id: Digest
    config: ImageConfig
    tags: tuple[str, ...]
    created: float
    size: int


class Images:
    """The images of a store. Names change as one transaction each: readers see the old or the new."""

    def __init__(self, index: Index, blobs: Blobs) -> None:
        self._index = index
        self._blobs = blobs

    def put(self, config: bytes, *, tags: Sequence[Reference] = ()) -> Digest:
        """Store an image whose layers are there, give it names, and return its id. Idempotent."""
        image_id = self._blobs.put(config)
        diff_ids = decode(config, ImageConfig).rootfs.diff_ids
        now = time.time()
        size = 0
        for diff_id in diff_ids:
            rows = self._index.rows("SELECT size FROM layers WHERE diff_id = ?", diff_id)
            if not rows:
                raise MissingError(f"the store lacks a layer of the image: {diff_id}")
            size += int(str(rows[0][0]))
        self._index.run(
            ("INSERT OR IGNORE INTO images VALUES (?, ?, ?)", (image_id, now, size)),
            *(
                ("INSERT OR IGNORE INTO image_layers VALUES (?, ?, ?)", (image_id, position, diff_id))
                for position, diff_id in enumerate(diff_ids)
            ),
            *(("INSERT OR REPLACE INTO tags VALUES (?, ?, ?)", (str(tag), image_id, now)) for tag in tags),
        )
        return image_id

    def tag(self, name: Reference, image_id: Digest) -> None:
        """Let `name` mean this image."""
        self._index.run(("INSERT OR REPLACE INTO tags VALUES (?, ?, ?)", (str(name), image_id, time.time())))

    def untag(self, name: Reference) -> None:
        """Let `name` mean nothing."""
        self._index.run(("DELETE FROM tags WHERE name = ?", (str(name),)))

    def resolve(self, name: str) -> ImageRecord | None:
        """Return the image that a name, an id or the unique beginning of an id means.

        Raises ConflictError for an ambiguous beginning, InvalidReferenceError for what is no name at all.
        """
        problem: InvalidReferenceError | None = None
        try:
            rows = self._index.rows("SELECT id FROM tags WHERE name = ?", str(parse_reference(name)))
            if rows:
                return self._record(Digest(str(rows[0][0])))
        except InvalidReferenceError as error:
            problem = error
        prefix = name.removeprefix("sha256:").lower()
        if 0 < len(prefix) <= 64 and all(char in "0123456789abcdef" for char in prefix):
            rows = self._index.rows("SELECT id FROM images WHERE id GLOB ?", f"sha256:{prefix}*")
            if len(rows) > 1:
                raise ConflictError(f"several images have an id that begins so: {name}")
            if rows:
                return self._record(Digest(str(rows[0][0])))
            return None
        if problem is not None:
            raise problem
        return None

    def list(self) -> "list[ImageRecord]":
        """Return all images, newest first."""
        rows = self._index.rows("SELECT id FROM images ORDER BY created DESC, id")
        found = (self._record(Digest(str(row[0]))) for row in rows)
        return [record for record in found if record is not None]

    def _record(self, image_id: Digest) -> ImageRecord | None:
        rows = self._index.rows("SELECT created, size FROM images WHERE id = ?", image_id)
        if not rows:
            return None
        try:
            config = decode(self._blobs.read(image_id), ImageConfig)
        except MissingError:
            self.delete(image_id)
            return None
        tags = self._index.rows("SELECT name FROM tags WHERE id = ? ORDER BY name", image_id)
        familiar = tuple(parse_reference(str(row[0])).familiar() for row in tags)
        return ImageRecord(image_id, config, familiar, float(str(rows[0][0])), int(str(rows[0][1])))

    def delete(self, image_id: Digest) -> None:
        """Forget the image and its names; its layers stay until pruned."""
        self._index.run(
            ("DELETE FROM tags WHERE id = ?", (image_id,)),
            ("DELETE FROM image_layers WHERE id = ?", (image_id,)),
            ("DELETE FROM images WHERE id = ?", (image_id,)),
        )
        self._blobs.delete(image_id)
