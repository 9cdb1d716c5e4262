"""The lock of the store: running builds hold it shared, what removes things holds it alone.

It is an flock on a file, so the kernel takes it away from a process that dies.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pybuild.store.errors import StoreBusyError, disk_error

PRUNE_SECONDS = 120.0
"""How long a build waits for a prune to end."""

_PAUSE = 0.02


@contextmanager
def shared(path: Path, timeout: float = PRUNE_SECONDS) -> Iterator[None]:
    """Hold the lock together with others; wait up to `timeout` seconds for a prune, then raise StoreBusyError."""
    with _locked(path, fcntl.LOCK_SH, timeout, "the store is being pruned", "try again when that is done"):
        yield


@contextmanager
def exclusive(path: Path, timeout: float = 0.0) -> Iterator[None]:
    """Hold the lock alone; raise StoreBusyError when others still hold it after `timeout` seconds."""
    with _locked(path, fcntl.LOCK_EX, timeout, "the store is in use by a running build", "try again when it is done"):
        yield


@contextmanager
def _locked(path: Path, kind: int, timeout: float, problem: str, hint: str) -> Iterator[None]:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise disk_error("cannot open the lock of the store", path, error) from error
    try:
        end = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= end:
                    raise StoreBusyError(problem, hint) from error
                time.sleep(_PAUSE)
            except OSError as error:
                raise disk_error("cannot lock the store", path, error) from error
        yield
    finally:
        os.close(fd)
