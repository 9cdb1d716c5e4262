"""Content by digest. A blob is there wholly or not at all."""

import hashlib
import os
from pathlib import Path
from types import TracebackType

from pybuild.oci.digest import Digest, digest_of
from pybuild.store.errors import MissingError, failed
from pybuild.store.index import Index
from pybuild.store.temporary import boot_id, temporary_name

DURABLE = ""
"""Boot id of a blob that is known to be on disk or was checked since."""


class BlobWriter:
    """A blob being written to `fd`, which is at offset 0 and may be read again. Use it with `with`."""

    def __init__(self, blobs: "Blobs", path: Path) -> None:
        self._blobs = blobs
        self._path: Path | None = path
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise failed("write to the store", error) from error

    def commit(self, digest: Digest, size: int) -> None:
        """Make the blob visible under `digest`, which the caller has made of exactly `size` bytes written.

        Idempotent: success means that the content is there, not that this call put it there.
        """
        assert self._path is not None
        if os.fstat(self.fd).st_size != size:
            raise MissingError(f"blob has not the size it should have: {digest}")
        self._blobs.publish(self._path, digest, size)
        self._path = None
        self.abort()

    def abort(self) -> None:
        """Drop what was written, unless it was committed. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class Blobs:
    """The blobs of a store.

    They are not flushed one by one. Each row keeps the boot it was written in; after a reboot the content is
    checked by digest when first opened, and dropped when a power cut damaged it.
    """

    def __init__(self, root: Path, index: Index) -> None:
        self._root = root
        self._tmp = root.parent.parent / "tmp"
        self._index = index
        self._boot = boot_id()

    def path(self, digest: Digest) -> Path:
        """Return where the blob is or would be."""
        return self._root / digest.removeprefix("sha256:")

    def create(self) -> BlobWriter:
        """Begin a blob whose digest is not known yet."""
        return BlobWriter(self, self._tmp / temporary_name())

    def put(self, data: bytes) -> Digest:
        """Store `data` and return its digest."""
        digest = digest_of(data)
        if not self.has(digest):
            with self.create() as blob:
                try:
                    os.write(blob.fd, data)
                except OSError as error:
                    raise failed("write to the store", error) from error
                blob.commit(digest, len(data))
        return digest

    def publish(self, path: Path, digest: Digest, size: int) -> None:
        """Move a finished file into place; see BlobWriter.commit."""
        try:
            os.replace(path, self.path(digest))
        except OSError as error:
            raise failed("write to the store", error) from error
        self._index.run(("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?)", (digest, size, self._boot)))

    def has(self, digest: Digest) -> bool:
        """Is the blob there?"""
        return bool(self._index.rows("SELECT 1 FROM blobs WHERE digest = ?", digest)) and self.path(digest).exists()

    def size(self, digest: Digest) -> int:
        """Return the size in bytes; raise MissingError."""
        rows = self._index.rows("SELECT size FROM blobs WHERE digest = ?", digest)
        if not rows:
            raise MissingError(f"the store lacks a blob: {digest}")
        return int(str(rows[0][0]))

    def open(self, digest: Digest) -> int:
        """Return a descriptor for reading, owned by the caller; raise MissingError."""
        rows = self._index.rows("SELECT size, boot FROM blobs WHERE digest = ?", digest)
        if not rows:
            raise MissingError(f"the store lacks a blob: {digest}")
        size, boot = rows[0]
        try:
            fd = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            self.delete(digest)
            raise MissingError(f"the store lacks a blob: {digest}") from None
        except OSError as error:
            raise failed("read the store", error) from error
        good = os.fstat(fd).st_size == size
        if good and boot not in (DURABLE, self._boot):
            good = _digest_of_file(fd) == digest
            if good:
                self._index.run(("UPDATE blobs SET boot = ? WHERE digest = ?", (DURABLE, digest)))
        if not good:
            os.close(fd)
            self.delete(digest)
            raise MissingError(f"a blob of the store was damaged and is dropped: {digest}", "build again")
        return fd

    def read(self, digest: Digest, limit: int = 1 << 26) -> bytes:
        """Return a small blob; raise MissingError."""
        fd = self.open(digest)
        with os.fdopen(fd, "rb") as file:
            return file.read(limit)

    def delete(self, digest: Digest) -> None:
        """Forget the blob; nothing happens when it is not there."""
        self._index.run(("DELETE FROM blobs WHERE digest = ?", (digest,)))
        self.path(digest).unlink(missing_ok=True)


def _digest_of_file(fd: int) -> Digest:
    with os.fdopen(os.dup(fd), "rb", buffering=0) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    os.lseek(fd, 0, os.SEEK_SET)
    return Digest("sha256:" + found)
