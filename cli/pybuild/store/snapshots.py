"""Snapshots: unpacked trees of layers by name, each `snapshots/NAME/fs`.

Their files are never flushed and cannot be checked, so a snapshot written before a reboot counts as absent unless the
store was flushed in between. It can always be made again from the layer.
"""

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pybuild.store.errors import StoreError, disk_error
from pybuild.store.index import Index
from pybuild.store.place import Place, allocated

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


class Snapshots:
    """The snapshots of a store. Every method may be called from several threads."""

    def __init__(self, place: Place, index: Index, boot: str) -> None:
        self._place = place
        self._index = index
        self._boot = boot

    def path(self, name: str) -> Path:
        """Return where the tree of a snapshot is or would be."""
        return self._directory(name) / "fs"

    def has(self, name: str) -> bool:
        """Is the whole tree there?"""
        directory = self._directory(name)
        row = self._index.row("SELECT boot, durable FROM snapshots WHERE name = ?", (name,))
        return row is not None and bool(row[1] or (self._boot and row[0] == self._boot)) and directory.is_dir()

    def staging(self) -> Path:
        """Return a new private directory in `tmp`, to be published or removed; its tree goes into `fs` there."""
        path = self._place.temporary()
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            raise disk_error("cannot make a directory in the store", path, error) from error
        return path

    def empty(self) -> Path:
        """Return a directory that is always empty."""
        path = self._place.root / "empty"
        path.mkdir(mode=0o500, exist_ok=True)
        return path

    def publish(self, staging: Path, name: str) -> bool:
        """Make `staging` the snapshot `name`, at once.

        False means that somebody else was first: their tree is as good, and `staging` is still the caller's to remove.
        """
        directory = self._directory(name)
        if not (staging / "fs").is_dir():
            raise StoreError(f"there is no tree to publish: {staging / 'fs'}")
        # Under the lock of the index, so that a directory without a row is never one that is just being published
        with self._index.writing() as transaction:
            if directory.exists():
                if self.has(name):
                    return False
                self.trash(name)
            try:
                staging.rename(directory)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise disk_error("cannot publish a snapshot", directory, error) from error
            transaction.execute(
                "INSERT OR REPLACE INTO snapshots (name, size, boot, durable, created) VALUES (?, NULL, ?, 0, ?)",
                (name, self._boot, time.time()),
            )
        return True

    def take(self, name: str) -> Path | None:
        """Take a snapshot out of the store to be changed; return the directory it is in now, which the caller removes.

        None when it is absent or somebody reads it (`reading`).
        """
        with self._locked(name, fcntl.LOCK_EX) as there:
            return self.trash(name) if there and self.has(name) else None

    @contextmanager
    def reading(self, name: str) -> Iterator[Path | None]:
        """Give the tree of a snapshot that nobody takes until the end of the block; None when it is absent."""
        with self._locked(name, fcntl.LOCK_SH) as there:
            yield self.path(name) if there and self.has(name) else None

    @contextmanager
    def _locked(self, name: str, kind: int) -> Iterator[bool]:
        """Lock the directory of a snapshot if it is there and not locked in another way; tell whether it is."""
        directory = self._directory(name)
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            yield False
            return
        try:
            yield _lock(fd, kind) and _is_at(fd, directory)
        finally:
            os.close(fd)

    def list(self) -> list[str]:
        """Return the names of all snapshots on disk, also of those that `has` denies."""
        try:
            return sorted(name for name in os.listdir(self._place.snapshots) if _NAME.fullmatch(name))
        except OSError as error:
            raise disk_error("cannot read", self._place.snapshots, error) from error

    def size(self, name: str) -> int:
        """Return the allocated bytes; walks the tree the first time. Closed directories of mapped ids are left out."""
        row = self._index.row("SELECT size FROM snapshots WHERE name = ?", (name,))
        if row is not None and row[0] is not None:
            return int(row[0])
        size = allocated(self._directory(name))
        self._index.write("UPDATE snapshots SET size = ? WHERE name = ?", (size, name))
        return size

    def used(self, name: str) -> None:
        """Note that a snapshot is used."""
        os.utime(self._directory(name))

    def last_used(self, name: str) -> float:
        """Return when a snapshot was made or used the last time, in seconds since the epoch; 0 when absent."""
        try:
            return self._directory(name).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def trash(self, name: str) -> Path | None:
        """Take a snapshot out of the way and return where it is now, for a worker to remove; None when absent."""
        path = self._place.temporary()
        try:
            self._directory(name).rename(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise disk_error("cannot take a snapshot away", self._directory(name), error) from error
        self._index.write("DELETE FROM snapshots WHERE name = ?", (name,))
        return path

    def _directory(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise StoreError(f"invalid name of a snapshot: {name!r}")
        return self._place.snapshots / name


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(fd: int, path: Path) -> bool:
    """Is it still there? It may have been taken between opening and locking."""
    try:
        state, here = os.stat(path, follow_symlinks=False), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (state.st_dev, state.st_ino) == (here.st_dev, here.st_ino)
