"""Blobs: files named by the sha256 of what is in them."""

import hashlib
import os
import time
from pathlib import Path
from types import TracebackType

from pybuild.oci.digest import Digest, digest_of, parse_digest
from pybuild.store.errors import MissingContentError, StoreError, WrongContentError, disk_error
from pybuild.store.index import Index
from pybuild.store.place import Place

BLOCK = 1 << 20


class BlobWriter:
    """A blob in the making: a private file without a name among the blobs until it is committed.

    Use it with `with`, or end it by `commit` or `abort`; both close `fd`, the second does nothing.
    """

    def __init__(self, blobs: "Blobs", path: Path, fd: int) -> None:
        self._blobs = blobs
        self._path = path
        self._fd = fd

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    @property
    def fd(self) -> int:
        """Return the descriptor, for reading and writing; it stays the writer's."""
        if self._fd < 0:
            raise StoreError("the blob was already committed or given up")
        return self._fd

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`; raise StoreError."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError as error:
            raise disk_error("cannot write a blob", self._path, error) from error

    def commit(self, digest: Digest, size: int) -> None:
        """Put the file among the blobs under `digest`, which the caller worked out while writing.

        Success means that the blob is there, not that this call put it there. Raises WrongContentError when the file
        has another size.
        """
        try:
            found = os.fstat(self.fd).st_size
            if found != size:
                raise WrongContentError(f"a blob of {size} bytes has {found}: {digest}")
            self._blobs.adopt(self._path, digest, size)
        finally:
            self.abort()

    def abort(self) -> None:
        """Give the file up. Harmless after `commit`."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        self._path.unlink(missing_ok=True)


class Blobs:
    """The blobs of a store. Every method may be called from several threads."""

    def __init__(self, place: Place, index: Index, boot: str) -> None:
        self._place = place
        self._index = index
        self._boot = boot

    def create(self) -> BlobWriter:
        """Begin a blob; raise StoreError."""
        path = self._place.temporary()
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise disk_error("cannot make a file in the store", path, error) from error
        return BlobWriter(self, path, fd)

    def put(self, data: bytes) -> Digest:
        """Keep `data` and return its digest."""
        digest = digest_of(data)
        if not self.has(digest):
            with self.create() as blob:
                blob.write(data)
                blob.commit(digest, len(data))
        return digest

    def path(self, digest: Digest) -> Path:
        """Return where a blob lies or would lie."""
        return self._place.blobs / parse_digest(digest)[7:]

    def has(self, digest: Digest) -> bool:
        """Is the blob there and right? One that was written before a reboot is read once to know; a wrong one is
        dropped.
        """
        try:
            os.close(self.open(digest))
        except MissingContentError:
            return False
        return True

    def open(self, digest: Digest) -> int:
        """Return a descriptor for reading, which the caller closes; raise MissingContentError.

        Checks as `has` does.
        """
        path = self.path(digest)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise _missing(digest) from None
        except OSError as error:
            raise disk_error("cannot open a blob", path, error) from error
        try:
            if not self._check(digest, fd):
                raise _missing(digest)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def read(self, digest: Digest, limit: int) -> bytes:
        """Return all of a blob; raise MissingContentError, and StoreError for one over `limit` bytes."""
        fd = self.open(digest)
        with os.fdopen(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise StoreError(f"blob is over {limit} bytes: {digest}")
        return data

    def size(self, digest: Digest) -> int:
        """Return the size in bytes; raise MissingContentError."""
        row = self._index.row("SELECT size FROM blobs WHERE digest = ?", (digest,))
        if row is None:
            fd = self.open(digest)
            try:
                return os.fstat(fd).st_size
            finally:
                os.close(fd)
        return int(row[0])

    def delete(self, digest: Digest) -> None:
        """Remove a blob, absent or not. Only for those who hold the store alone."""
        self._index.write("DELETE FROM blobs WHERE digest = ?", (digest,))
        try:
            self.path(digest).unlink(missing_ok=True)
        except OSError as error:
            raise disk_error("cannot remove a blob", self.path(digest), error) from error

    def _check(self, digest: Digest, fd: int) -> bool:
        row = self._index.row("SELECT size, boot, durable FROM blobs WHERE digest = ?", (digest,))
        size = os.fstat(fd).st_size
        if row is not None and row[0] == size and (row[2] or (self._boot and row[1] == self._boot)):
            return True
        # Written before a reboot and perhaps never flushed, or its writer died before it could tell
        if (row is None or row[0] == size) and _hash(fd) == digest:
            os.lseek(fd, 0, os.SEEK_SET)
            self._tell(digest, size, durable=row is not None)
            return True
        self._drop(digest, fd)
        return False

    def _drop(self, digest: Digest, fd: int) -> None:
        """Take a wrong file away, but not a right one that has taken its place meanwhile."""
        path = self.path(digest)
        try:
            now = path.lstat()
            ours = os.fstat(fd)
            if (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino):
                path.unlink()
                self._index.write("DELETE FROM blobs WHERE digest = ?", (digest,))
        except FileNotFoundError:
            return
        except OSError as error:
            raise disk_error("cannot drop a damaged blob", path, error) from error

    def adopt(self, temporary: Path, digest: Digest, size: int) -> None:
        """Let a file of the store, which holds what `digest` says, be that blob; raise StoreError.

        It stays where it is when there is such a blob already.
        """
        target = self.path(digest)
        row = self._index.row("SELECT size, boot, durable FROM blobs WHERE digest = ?", (digest,))
        try:
            # Of two the one that has been there longer is the safer one
            trusted = row is not None and row[0] == size and (row[2] or (self._boot and row[1] == self._boot))
            if trusted and target.exists() and target.stat().st_size == size:
                return
            # First the name, then the row: a row without a file would claim what is not there
            temporary.rename(target)
        except OSError as error:
            raise disk_error("cannot keep a blob", target, error) from error
        self._tell(digest, size, durable=False)

    def _tell(self, digest: Digest, size: int, *, durable: bool) -> None:
        self._index.write(
            "INSERT OR REPLACE INTO blobs (digest, size, boot, durable, created) VALUES (?, ?, ?, ?, ?)",
            (digest, size, self._boot, int(durable), time.time()),
        )


def _hash(fd: int) -> Digest:
    """Read `fd` from its beginning and return the digest."""
    sha = hashlib.sha256()
    buffer = bytearray(BLOCK)
    view = memoryview(buffer)
    os.lseek(fd, 0, os.SEEK_SET)
    while count := os.readv(fd, [buffer]):
        sha.update(view[:count])
    return Digest(f"sha256:{sha.hexdigest()}")


def _missing(digest: Digest) -> MissingContentError:
    return MissingContentError(
        f"content is missing from the store: {digest}", "build or load the image again to bring it back"
    )
