"""What can go wrong with the store.

PybuildError
└── StoreError          the store cannot be opened, read or written
    └── MissingError    content that the store should have and does not
"""

from pybuild.errors import PybuildError


class StoreError(PybuildError):
    """The store cannot be opened, read or written."""


class MissingError(StoreError):
    """Content that the store should have and does not."""


def failed(what: str, error: OSError) -> StoreError:
    """Return the store's error for a failed system call, with the hint that fits it."""
    import errno

    hints = {
        errno.ENOSPC: "free some space, for example with `pybuild prune`, or set PYBUILD_STORE to another disk",
        errno.EDQUOT: "free some of your quota, for example with `pybuild prune`",
        errno.EROFS: "the file system is read-only; set PYBUILD_STORE to a directory that can be written",
        errno.EACCES: "set PYBUILD_STORE to a directory of your own",
    }
    name = f": {error.filename}" if error.filename else ""
    if isinstance(error.filename, bytes):
        name = f": {error.filename.decode(errors='replace')}"
    return StoreError(f"cannot {what}: {error.strerror}{name}", hints.get(error.errno or 0, ""))
