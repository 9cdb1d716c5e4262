"""Blobs that come from elsewhere and are not all here: kept by the digest they are to have, for a later command.

Whoever writes one holds an flock on it, which the kernel takes away from a process that dies; what is there by then is
the beginning of the blob. Only the digest of the whole says that it is right.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from pybuild.oci.digest import Digest, parse_digest
from pybuild.store.blobs import BLOCK, Blobs
from pybuild.store.errors import StoreError, WrongContentError, disk_error
from pybuild.store.place import Place

LEAST = 64 << 10
"""Less than so many bytes are not kept."""

KEPT_SECONDS = 7 * 86400
"""After so long without a byte more a beginning is removed."""


class Download:
    """The beginning of a blob, and what comes to it; use it with `with`, which keeps what is there for another time.

    `begun` is how many bytes an earlier command had. A `private` one is thrown away instead.
    """

    def __init__(self, blobs: Blobs, path: Path, fd: int, *, private: bool) -> None:
        self._blobs = blobs
        self._path = path
        self._fd = fd
        self._private = private
        self.begun = os.fstat(fd).st_size

    def __enter__(self) -> "Download":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def blocks(self) -> Iterator[bytes]:
        """Yield what was begun, from its first byte."""
        at = 0
        while at < self.begun:
            try:
                data = os.pread(self._open(), min(BLOCK, self.begun - at), at)
            except OSError as error:
                raise disk_error("cannot read what was downloaded", self._path, error) from error
            if not data:
                raise StoreError(f"somebody has cut off what was downloaded: {self._path}", "try again")
            yield data
            at += len(data)

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`; raise StoreError."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._open(), view) :]
        except OSError as error:
            raise disk_error("cannot keep what was downloaded", self._path, error) from error

    def commit(self, digest: Digest, size: int) -> None:
        """Put the file among the blobs under `digest`, which the caller has worked out; as BlobWriter.commit."""
        found = os.fstat(self._open()).st_size
        if found != size:
            raise WrongContentError(f"a blob of {size} bytes has {found}: {digest}")
        self._blobs.adopt(self._path, digest, size)
        # It is there under its name, or another one was
        self.drop()

    def drop(self) -> None:
        """Throw it away: it is not what it should be. Harmless after `commit`."""
        if self._fd >= 0:
            if _is(self._path, self._fd):
                self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Let go of it. Harmless after `commit` and `drop`."""
        if self._fd < 0:
            return
        if self._private or os.fstat(self._fd).st_size < LEAST:
            self.drop()
        else:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        if self._fd < 0:
            raise StoreError("the download was already committed or dropped")
        return self._fd


class Downloads:
    """What a store has of blobs that are still to come. Every method may be called from several threads."""

    def __init__(self, place: Place, blobs: Blobs) -> None:
        self._place = place
        self._blobs = blobs

    def open(self, digest: Digest, size: int) -> Download:
        """Go on with the blob of that digest, of `size` bytes in the end, or begin it; raise StoreError.

        While somebody else is at it, what comes is kept for oneself.
        """
        path = self._place.downloads / parse_digest(digest)[7:]
        fd = _locked(path)
        if fd is None:
            own = self._place.temporary()
            return Download(self._blobs, own, _opened(own, os.O_EXCL), private=True)
        if os.fstat(fd).st_size > size:
            os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_END)
        return Download(self._blobs, path, fd, private=False)

    def paths(self) -> list[Path]:
        """Return the files."""
        try:
            return [self._place.downloads / name for name in sorted(os.listdir(self._place.downloads))]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise disk_error("cannot read", self._place.downloads, error) from error

    def sweep(self) -> None:
        """Remove what nobody has gone on with for long."""
        for path in self.paths():
            try:
                if time.time() - path.stat().st_mtime < KEPT_SECONDS:
                    continue
            except FileNotFoundError:
                continue
            fd = _locked(path)
            if fd is not None:
                # It may have been gone on with just now
                if time.time() - os.fstat(fd).st_mtime >= KEPT_SECONDS:
                    path.unlink(missing_ok=True)
                os.close(fd)


def _locked(path: Path) -> int | None:
    """Return a descriptor of the file, made when absent, that is locked; None while somebody else has it."""
    while True:
        fd = _opened(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # Where there are no locks at all nobody can go on
            os.close(fd)
            return None
        if _is(path, fd):
            return fd
        # It has become a blob, or is gone, between the two
        os.close(fd)


def _opened(path: Path, flags: int = 0) -> int:
    flags |= os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            # A store of an earlier version lacks the directory
            path.parent.mkdir(mode=0o700, exist_ok=True)
            return os.open(path, flags, 0o600)
    except OSError as error:
        raise disk_error("cannot make a file in the store", path, error) from error


def _is(path: Path, fd: int) -> bool:
    try:
        now = path.lstat()
    except FileNotFoundError:
        return False
    ours = os.fstat(fd)
    return (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino)
