"""Errors of the layer room.

LayerError                an archive that is damaged or hostile, or a tree that cannot be packed or unpacked
└── LimitError            an archive beyond one of the numbers in `Limits`
"""

import errno

from pybuild.errors import PybuildError


class LayerError(PybuildError):
    """An archive that is damaged or hostile, or a tree that cannot be packed or unpacked."""

    http_status = 400


class LimitError(LayerError):
    """An archive beyond one of the numbers in `Limits`; `limit` is the name of that field."""

    def __init__(self, message: str, hint: str = "", *, limit: str = "") -> None:
        super().__init__(message, hint)
        self.limit = limit


def shown(path: bytes) -> str:
    """Return a path for a message: bytes that are no UTF-8 escaped, very long ones cut."""
    text = path.decode(errors="backslashreplace")
    return text if len(text) <= 300 else f"{text[:200]}...{text[-80:]}"


def from_os(error: OSError, doing: str, path: bytes) -> LayerError:
    """Return the LayerError for an OSError met while `doing` something to `path`."""
    hints = {
        errno.ENOSPC: "free some space, or name another store with PYBUILD_STORE",
        errno.EDQUOT: "the disk quota is used up",
        errno.ENOTSUP: "the store needs a file system with extended attributes, such as ext4, xfs, btrfs or tmpfs",
    }
    what = f"cannot {doing}: {error.strerror}" if error.strerror else f"cannot {doing}: {error}"
    return LayerError(f"{what}: `{shown(path)}`", hints.get(error.errno or 0, ""))
