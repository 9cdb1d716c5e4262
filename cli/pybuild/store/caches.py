"""Cache mounts: directories that outlive builds, `caches/NAME.N/fs`, and who uses them at the moment.

NAME is a digest of all that tells one cache from another; N counts the copies that are there because a private one was
wanted while another was in use. Users lock the copy (flock, which the kernel takes back from whoever dies), and
choosing or making one is done under a lock of the name. What is removed is removed under the lock of the store.
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from pybuild.store.errors import StoreError, disk_error
from pybuild.store.place import Place, allocated

Sharing = Literal["shared", "private", "locked"]

_NAME = re.compile(r"[a-z]-[0-9a-f]{64}\.[0-9]{1,9}")
_PAUSE = 0.05
_INFO = "info.json"
_TREE = "fs"
_NEW = "new"


class CacheDirectory(msgspec.Struct, frozen=True):
    """A cache that is there: its `id` and first target, when it was made and last used (seconds since the epoch)."""

    name: str
    id: str
    target: str
    created: float
    last_used: float

    @property
    def shown(self) -> str:
        """Return the id as people wrote it, or the name of one that was never completed."""
        return self.id.removeprefix("/") or self.name


class _Info(msgspec.Struct, frozen=True):
    id: str = ""
    target: str = ""
    created: float = 0.0


class Held(msgspec.Struct, frozen=True):
    """A cache in use: its directory, and the descriptor whose last copy to be closed lets go of it."""

    path: Path
    lock: int


class Caches:
    """The cache mounts of a store. Every method may be called from several threads."""

    def __init__(self, place: Place) -> None:
        self._root = place.caches
        self._place = place

    @contextmanager
    def use(
        self,
        name: str,
        sharing: Sharing,
        *,
        id: str,
        target: str,
        make: Callable[[Path], None],
        discard: Callable[[Path], None],
        wait: Callable[[], None],
    ) -> Iterator[Held]:
        """Give a cache until the end of the block.

        `make` makes its directory, `discard` removes what an interrupted `make` left, `wait` is called again and again
        while there is something to wait for, and may raise. A shared one is given to any number of users, unless
        somebody has it alone: then to another copy. A private one is in nobody else's hands, nor is a locked one, for
        which its users wait instead.
        """
        directory, lock = self._take(name, sharing, wait)
        try:
            try:
                if not (directory / _TREE).is_dir():
                    self._make(name, directory, _Info(id, target, time.time()), make, discard, wait)
                os.utime(directory / _INFO)
            except OSError as error:
                raise disk_error("cannot make a cache mount", directory, error) from error
            yield Held(directory / _TREE, lock)
        finally:
            os.close(lock)

    def _take(self, name: str, sharing: Sharing, wait: Callable[[], None]) -> tuple[Path, int]:
        kind = fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX
        while True:
            with self._named(name, wait):
                number = 0
                while True:
                    directory = self._directory(f"{name}.{number}")
                    is_new = not directory.is_dir()
                    if is_new and number and sharing == "locked":
                        break
                    lock = self._lock(directory, kind)
                    if lock is not None:
                        return directory, lock
                    number += 1
            wait()
            time.sleep(_PAUSE)

    def _lock(self, directory: Path, kind: int) -> int | None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise disk_error("cannot make a cache mount", directory, error) from error
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    @contextmanager
    def _named(self, name: str, wait: Callable[[], None]) -> Iterator[None]:
        """Hold the lock under which a copy is chosen or made."""
        self._root.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(self._root / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    wait()
                    time.sleep(_PAUSE)
            yield
        finally:
            os.close(lock)

    def _make(
        self,
        name: str,
        directory: Path,
        info: _Info,
        make: Callable[[Path], None],
        discard: Callable[[Path], None],
        wait: Callable[[], None],
    ) -> None:
        with self._named(name, wait):
            if (directory / _TREE).is_dir():
                return
            fresh = directory / _NEW
            if os.path.lexists(fresh):
                discard(fresh)
            make(fresh)
            (directory / _INFO).write_bytes(msgspec.json.encode(info))
            fresh.rename(directory / _TREE)

    def list(self) -> list[CacheDirectory]:
        """Return all caches, copies too, in the order of their ids."""
        found = []
        for name in self._names():
            info, used = self._info(name)
            found.append(CacheDirectory(name, info.id, info.target, info.created, used))
        return sorted(found, key=lambda cache: (cache.id, cache.name))

    def size(self, name: str) -> int:
        """Return the allocated bytes. Closed directories of mapped ids are left out."""
        return allocated(self._directory(name))

    def trash(self, name: str) -> Path | None:
        """Take a cache out of the way and return where it is now, for a worker to remove; None when absent.

        Only under the lock of the store.
        """
        path = self._place.temporary()
        try:
            self._directory(name).rename(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise disk_error("cannot take a cache mount away", self._directory(name), error) from error
        first = name.rpartition(".")[0]
        if not any(other.startswith(first + ".") for other in self._names()):
            (self._root / f"{first}.lock").unlink(missing_ok=True)
        return path

    def _names(self) -> Sequence[str]:
        try:
            return [name for name in os.listdir(self._root) if _NAME.fullmatch(name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise disk_error("cannot read", self._root, error) from error

    def _info(self, name: str) -> tuple[_Info, float]:
        path = self._directory(name) / _INFO
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Info), path.stat().st_mtime
        except (OSError, msgspec.DecodeError):
            # Never completed: as old as can be
            return _Info(), 0.0

    def _directory(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise StoreError(f"invalid name of a cache mount: {name!r}")
        return self._root / name
