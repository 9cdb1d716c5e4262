"""Layers: tables of contents by diff_id, and the compressed forms they are known in.

The uncompressed tar of a layer is the blob whose digest is the diff_id.
"""

import os
import time
from collections import OrderedDict
from pathlib import Path
from threading import Lock

import msgspec

from pybuild.oci.digest import Digest, digest_of, parse_digest
from pybuild.oci.image import Descriptor
from pybuild.store.blobs import Blobs
from pybuild.store.errors import MissingContentError, disk_error
from pybuild.store.index import Index
from pybuild.store.place import Place
from pybuild.tree.entry import Entry, decode_toc, encode_toc

KEPT_ROWS = 200_000
"""How many rows of tables are kept in memory, about 100 bytes each."""


class Layers:
    """The layers of a store. Every method may be called from several threads."""

    def __init__(self, place: Place, index: Index, blobs: Blobs, boot: str) -> None:
        self._place = place
        self._index = index
        self._blobs = blobs
        self._boot = boot
        self._lock = Lock()
        self._kept: OrderedDict[Digest, list[Entry]] = OrderedDict()
        self._kept_rows = 0

    def record(self, diff_id: Digest, size: int, toc: list[Entry]) -> None:
        """Keep the table of a layer whose uncompressed tar has `size` bytes. Doing so twice does no harm."""
        parse_digest(diff_id)
        data = encode_toc(toc)
        path = self._path(diff_id)
        temporary = self._place.temporary()
        try:
            temporary.write_bytes(data)
            temporary.rename(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise disk_error("cannot keep a table of contents", path, error) from error
        self._index.write(
            "INSERT OR REPLACE INTO layers (diff_id, size, toc_digest, toc_size, boot, durable, created)"
            " VALUES (?, ?, ?, ?, ?, 0, ?)",
            (diff_id, size, digest_of(data), len(data), self._boot, time.time()),
        )
        self._keep(diff_id, toc)

    def has(self, diff_id: Digest) -> bool:
        """Are the uncompressed tar and the table there and right? Looks closer at both after a reboot."""
        return self._has_table(diff_id) and self._blobs.has(diff_id)

    def toc(self, diff_id: Digest) -> list[Entry]:
        """Return the table, which the caller must not change; raise MissingContentError."""
        with self._lock:
            kept = self._kept.get(diff_id)
            if kept is not None:
                self._kept.move_to_end(diff_id)
                return kept
        data = self._read(diff_id)
        try:
            toc = decode_toc(data)
        except msgspec.DecodeError as error:
            raise _missing(diff_id) from error
        self._keep(diff_id, toc)
        return toc

    def size(self, diff_id: Digest) -> int:
        """Return the size of the uncompressed tar in bytes; raise MissingContentError."""
        row = self._index.row("SELECT size FROM layers WHERE diff_id = ?", (diff_id,))
        if row is None:
            raise _missing(diff_id)
        return int(row[0])

    def add_form(self, diff_id: Digest, form: Descriptor) -> None:
        """Remember that the blob `form` is this layer compressed; replaces an earlier one of that media type."""
        parse_digest(form.digest)
        self._index.write(
            "INSERT OR REPLACE INTO forms (diff_id, media_type, digest, size) VALUES (?, ?, ?, ?)",
            (diff_id, form.media_type, form.digest, form.size),
        )

    def forms(self, diff_id: Digest) -> list[Descriptor]:
        """Return the compressed forms whose blobs are there."""
        rows = self._index.rows("SELECT media_type, digest, size FROM forms WHERE diff_id = ?", (diff_id,))
        forms = [Descriptor(media_type, Digest(digest), size) for media_type, digest, size in rows]
        return [form for form in forms if self._blobs.has(form.digest)]

    def delete(self, diff_id: Digest) -> None:
        """Remove a layer with its tar, table and forms. Only for those who hold the store alone."""
        with self._index.writing() as transaction:
            forms = transaction.execute("SELECT digest FROM forms WHERE diff_id = ?", (diff_id,)).fetchall()
            transaction.execute("DELETE FROM forms WHERE diff_id = ?", (diff_id,))
            transaction.execute("DELETE FROM layers WHERE diff_id = ?", (diff_id,))
        for digest in (diff_id, *(Digest(form) for (form,) in forms)):
            self._blobs.delete(digest)
        try:
            self._path(diff_id).unlink(missing_ok=True)
        except OSError as error:
            raise disk_error("cannot remove a table of contents", self._path(diff_id), error) from error
        with self._lock:
            self._kept_rows -= len(self._kept.pop(diff_id, ()))

    def _path(self, diff_id: Digest) -> Path:
        return self._place.tocs / diff_id[7:]

    def _has_table(self, diff_id: Digest) -> bool:
        if diff_id in self._kept:
            return True
        row = self._index.row("SELECT toc_size, boot, durable FROM layers WHERE diff_id = ?", (diff_id,))
        if row is None:
            return False
        try:
            if os.stat(self._path(diff_id)).st_size != row[0]:
                return False
        except OSError:
            return False
        if row[2] or (self._boot and row[1] == self._boot):
            return True
        try:
            self._read(diff_id)
        except MissingContentError:
            return False
        return True

    def _read(self, diff_id: Digest) -> bytes:
        """Return the bytes of a table, checked."""
        row = self._index.row("SELECT toc_digest, toc_size, boot, durable FROM layers WHERE diff_id = ?", (diff_id,))
        if row is None:
            raise _missing(diff_id)
        try:
            with open(self._path(diff_id), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            raise _missing(diff_id) from None
        except OSError as error:
            raise disk_error("cannot read a table of contents", self._path(diff_id), error) from error
        if len(data) != row[1]:
            raise _missing(diff_id)
        if not row[3] and not (self._boot and row[2] == self._boot):
            if digest_of(data) != row[0]:
                raise _missing(diff_id)
            self._index.write("UPDATE layers SET durable = 1 WHERE diff_id = ? AND toc_digest = ?", (diff_id, row[0]))
        return data

    def _keep(self, diff_id: Digest, toc: list[Entry]) -> None:
        if len(toc) > KEPT_ROWS:
            return
        with self._lock:
            self._kept_rows += len(toc) - len(self._kept.pop(diff_id, ()))
            self._kept[diff_id] = toc
            while self._kept_rows > KEPT_ROWS:
                _, dropped = self._kept.popitem(last=False)
                self._kept_rows -= len(dropped)


def _missing(diff_id: Digest) -> MissingContentError:
    return MissingContentError(
        f"a layer is missing from the store: {diff_id}", "build or load the image again to bring it back"
    )
