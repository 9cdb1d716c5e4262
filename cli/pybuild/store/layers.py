"""Layers by diff_id: an uncompressed tar among the blobs, and its table of contents."""

import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import msgspec

from pybuild.oci.digest import Digest
from pybuild.oci.image import Descriptor
from pybuild.store.blobs import Blobs
from pybuild.store.errors import MissingError, failed
from pybuild.store.index import Index
from pybuild.store.temporary import temporary_name
from pybuild.tree.entry import WHITEOUT, Entry, decode_toc, encode_toc
from pybuild.tree.merged import ancestors

_KEPT = 64


def is_complete(toc: Sequence[Entry]) -> bool:
    """Does the table list every directory above each of its paths?"""
    listed = {entry.path for entry in toc if entry.type != WHITEOUT}
    listed.add(b"")
    # A sorted layer mostly names the same directory again and again
    last: bytes | None = None
    for entry in toc:
        parent = entry.path.rpartition(b"/")[0]
        if parent != last:
            if parent not in listed or any(above not in listed for above in ancestors(parent)):
                return False
            last = parent
    return True


class Layers:
    """The layers of a store."""

    def __init__(self, root: Path, index: Index, blobs: Blobs) -> None:
        self._root = root
        self._index = index
        self._blobs = blobs
        self._tables: OrderedDict[Digest, list[Entry]] = OrderedDict()
        self._lock = Lock()

    def record(self, diff_id: Digest, size: int, toc: list[Entry]) -> None:
        """Note a layer whose tar is among the blobs. Idempotent."""
        path = self._root / diff_id.removeprefix("sha256:")
        aside = self._root.parent / "tmp" / temporary_name()
        try:
            aside.write_bytes(encode_toc(toc))
            os.replace(aside, path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise failed("write to the store", error) from error
        complete = int(is_complete(toc))
        self._index.run(("INSERT OR REPLACE INTO layers VALUES (?, ?, ?, ?)", (diff_id, size, complete, time.time())))
        self._keep(diff_id, toc)

    def has(self, diff_id: Digest) -> bool:
        """Is the layer there with its content?"""
        return bool(self._index.rows("SELECT 1 FROM layers WHERE diff_id = ?", diff_id)) and self._blobs.has(diff_id)

    def complete(self, diff_id: Digest) -> bool:
        """Does the layer list every directory it has something in? Raises MissingError."""
        rows = self._index.rows("SELECT complete FROM layers WHERE diff_id = ?", diff_id)
        if not rows:
            raise MissingError(f"the store lacks a layer: {diff_id}")
        return bool(rows[0][0])

    def size(self, diff_id: Digest) -> int:
        """Return the size of the uncompressed tar in bytes, 0 when the layer is not known."""
        rows = self._index.rows("SELECT size FROM layers WHERE diff_id = ?", diff_id)
        return int(str(rows[0][0])) if rows else 0

    def toc(self, diff_id: Digest) -> list[Entry]:
        """Return the table, which nobody may change; raise MissingError."""
        with self._lock:
            known = self._tables.get(diff_id)
            if known is not None:
                self._tables.move_to_end(diff_id)
                return known
        try:
            toc = decode_toc((self._root / diff_id.removeprefix("sha256:")).read_bytes())
        except (OSError, msgspec.MsgspecError) as error:
            self._index.run(("DELETE FROM layers WHERE diff_id = ?", (diff_id,)))
            raise MissingError(f"the store lacks a layer's table: {diff_id}", "build again") from error
        self._keep(diff_id, toc)
        return toc

    def _keep(self, diff_id: Digest, toc: list[Entry]) -> None:
        with self._lock:
            self._tables[diff_id] = toc
            while len(self._tables) > _KEPT:
                self._tables.popitem(last=False)

    def add_form(self, diff_id: Digest, descriptor: Descriptor) -> None:
        """Note a compressed form of the layer that is among the blobs."""
        self._index.run(
            (
                "INSERT OR REPLACE INTO forms VALUES (?, ?, ?, ?)",
                (diff_id, descriptor.media_type, descriptor.digest, descriptor.size),
            )
        )

    def forms(self, diff_id: Digest) -> list[Descriptor]:
        """Return the compressed forms that are there."""
        rows = self._index.rows("SELECT media_type, digest, size FROM forms WHERE diff_id = ?", diff_id)
        found = [Descriptor(str(media), Digest(str(digest)), int(str(size))) for media, digest, size in rows]
        return [descriptor for descriptor in found if self._blobs.has(descriptor.digest)]

    def delete(self, diff_id: Digest) -> None:
        """Forget the layer with its tar, table and forms."""
        for form in self._index.rows("SELECT digest FROM forms WHERE diff_id = ?", diff_id):
            self._blobs.delete(Digest(str(form[0])))
        self._index.run(
            ("DELETE FROM forms WHERE diff_id = ?", (diff_id,)), ("DELETE FROM layers WHERE diff_id = ?", (diff_id,))
        )
        (self._root / diff_id.removeprefix("sha256:")).unlink(missing_ok=True)
        self._blobs.delete(diff_id)
        with self._lock:
            self._tables.pop(diff_id, None)
