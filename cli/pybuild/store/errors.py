"""What can go wrong with the store.

PybuildError
├── StoreError                the store cannot be used, or a file of it
│   ├── StoreVersionError     made by a newer pybuild
│   ├── DamagedIndexError     the index is no database any more
│   ├── MissingContentError   content that ought to be there is not
│   └── WrongContentError     content that is not what its digest says
└── ConflictError
    └── StoreBusyError        somebody else holds the lock
"""

import errno
import sqlite3
from pathlib import Path

from pybuild.errors import ConflictError, PybuildError


class StoreError(PybuildError):
    """The store cannot be used, or a file of it."""


class StoreVersionError(StoreError):
    """The store was made by a newer pybuild."""


class DamagedIndexError(StoreError):
    """The index is no database any more."""


class MissingContentError(StoreError):
    """Content that ought to be in the store is not there, or was dropped because it was damaged."""


class WrongContentError(StoreError):
    """Content that is not what its digest or size says."""


class StoreBusyError(ConflictError):
    """Somebody else holds the lock of the store."""


_FULL = (errno.ENOSPC, errno.EDQUOT)
_HINTS = {
    errno.EROFS: "the store must be writable; set PYBUILD_STORE to another directory",
    errno.EACCES: "the store must be a directory of your own; set PYBUILD_STORE to another directory",
    errno.EPERM: "the store must be a directory of your own; set PYBUILD_STORE to another directory",
}


def disk_error(what: str, path: Path | str, error: OSError) -> StoreError:
    """Return `error` as a sentence: `what` says what could not be done, as "cannot write"."""
    if error.errno in _FULL:
        return StoreError(
            f"the disk of the store is full: {path}", "free some space, for instance with `pybuild prune`"
        )
    return StoreError(f"{what}: {path}: {error.strerror or error}", _HINTS.get(error.errno or 0, ""))


def index_error(path: Path, error: sqlite3.Error) -> StoreError:
    """Return an error of the database as a sentence."""
    text = str(error)
    if "malformed" in text or "not a database" in text:
        return DamagedIndexError(
            f"the index of the store is damaged: {path}", "the next run makes it again from what is there"
        )
    if "full" in text:
        return StoreError(
            f"the disk of the store is full: {path}", "free some space, for instance with `pybuild prune`"
        )
    if "readonly" in text or "unable to open" in text:
        return StoreError(f"cannot write the index of the store: {path}: {text}", _HINTS[errno.EROFS])
    return StoreError(f"the index of the store failed: {path}: {text}")
