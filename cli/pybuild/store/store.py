"""An opened store: one private directory of one user."""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from pybuild.errors import ConflictError
from pybuild.store.blobs import Blobs
from pybuild.store.cache import Cache
from pybuild.store.errors import StoreError, failed
from pybuild.store.images import Images
from pybuild.store.index import Index
from pybuild.store.layers import Layers
from pybuild.store.snapshots import Snapshots
from pybuild.store.temporary import is_abandoned

_DIRECTORIES = ("blobs/sha256", "tocs", "snapshots", "contexts", "tmp", "logs", "empty")


class Store:
    """Use it with `with`. Any number of processes of the user may have the same store open."""

    def __init__(self, root: Path, index: Index) -> None:
        self.root = root
        self.index = index
        self.blobs = Blobs(root / "blobs/sha256", index)
        self.layers = Layers(root / "tocs", index, self.blobs)
        self.images = Images(index, self.blobs)
        self.cache = Cache(index)
        self.snapshots = Snapshots(root / "snapshots")

    @staticmethod
    def open(root: Path) -> "Store":
        """Open the store at `root`, made with mode 0700 when absent.

        Raises StoreError when it is not private, cannot be written or was made by a newer version.
        """
        try:
            if not (root / "empty").is_dir():
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
                for name in _DIRECTORIES:
                    (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            state = root.lstat()
        except OSError as error:
            raise failed("make the store", error) from error
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
            raise StoreError(
                f"the store is not private: {root}",
                f"it must be a directory of your own with mode 0700: `chmod 700 {root}`, or set PYBUILD_STORE",
            )
        return Store(root, Index(root / "index.sqlite"))

    def close(self) -> None:
        """Write what is pending and close the index."""
        try:
            self.cache.flush()
        finally:
            self.index.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            # The first error is the one to tell
            self.index.close()

    def context_memory(self, key: str) -> Path:
        """Return the file that remembers the digests of a context."""
        return self.root / "contexts" / key

    def empty_directory(self) -> Path:
        """Return a directory with nothing in it."""
        return self.root / "empty"

    @contextmanager
    def session(self) -> Iterator[None]:
        """Hold the shared lock: nothing that is there is pruned meanwhile."""
        with self._locked(fcntl.LOCK_SH, wait=60):
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone; raise ConflictError when builds go on."""
        with self._locked(fcntl.LOCK_EX, wait=2):
            yield

    @contextmanager
    def _locked(self, how: int, *, wait: float) -> Iterator[None]:
        try:
            fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise failed("lock the store", error) from error
        try:
            end = time.monotonic() + wait
            while True:
                try:
                    fcntl.flock(fd, how | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > end:
                        raise ConflictError(
                            "the store is in use by another pybuild", "wait for its builds to end and try again"
                        ) from error
                    time.sleep(0.02)
            yield
        finally:
            os.close(fd)

    def abandoned(self) -> list[Path]:
        """Return what processes that are gone left in `tmp/`."""
        try:
            return [item for item in (self.root / "tmp").iterdir() if is_abandoned(item.name)]
        except OSError as error:
            raise failed("read the store", error) from error
