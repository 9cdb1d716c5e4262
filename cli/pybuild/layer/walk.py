"""Visiting a tree by directory descriptors: parents first, siblings in byte order, at any depth a layer may have."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable

from pybuild.layer.errors import LayerError, from_os, shown
from pybuild.layer.limits import DEFAULT_LIMITS

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = 32
"""Directories above the present one that stay open."""


class _Level:
    """A directory being visited; `names` are those still to come, the next one last."""

    __slots__ = ("_identity", "fd", "names", "prefix")

    def __init__(self, fd: int, prefix: bytes, listing: Callable[[int, bytes], list[bytes]]) -> None:
        self.fd = fd
        self.prefix = prefix
        state = os.fstat(fd)
        self._identity = (state.st_dev, state.st_ino)
        self.names = sorted(listing(fd, prefix), reverse=True)

    def reopen(self, below: int) -> None:
        """Go back up from a directory below."""
        self.fd = os.open("..", OPEN_DIRECTORY, dir_fd=below)
        state = os.fstat(self.fd)
        if (state.st_dev, state.st_ino) != self._identity:
            raise LayerError(f"directory was moved while it was read: `{shown(self.prefix)}`")


class Walk(ABC):
    """A visit of a tree that must be at rest; `doing` is what an error says could not be done."""

    doing = "read"

    def walk(self, root_fd: int) -> None:
        """Visit all below a directory, not itself. Raises LayerError."""
        path = b""
        levels: list[_Level] = []
        try:
            # Opened anew: listing a directory moves the offset that descriptors share
            levels.append(_Level(os.open(".", OPEN_DIRECTORY, dir_fd=root_fd), b"", self._listing))
            while levels:
                level = levels[-1]
                if not level.names:
                    levels.pop()
                    if levels and levels[-1].fd < 0:
                        levels[-1].reopen(level.fd)
                    os.close(level.fd)
                    continue
                name = level.names.pop()
                path = level.prefix + name
                inner = self._add(level.fd, name, path)
                if inner is None:
                    continue
                if len(levels) >= DEFAULT_LIMITS.depth:
                    os.close(inner)
                    raise LayerError(f"a path more than {len(levels)} directories deep: `{shown(path)}`")
                if len(levels) > _KEPT and levels[-_KEPT].fd >= 0:
                    os.close(levels[-_KEPT].fd)
                    levels[-_KEPT].fd = -1
                levels.append(_Level(inner, path + b"/", self._listing))
        except OSError as error:
            raise from_os(error, self.doing, path) from error
        finally:
            for level in levels:
                if level.fd >= 0:
                    os.close(level.fd)

    def _listing(self, fd: int, prefix: bytes) -> list[bytes]:
        """Return the names to visit in a directory; `prefix` is its path and a slash, b"" for the root."""
        return [os.fsencode(name) for name in os.listdir(fd)]

    @abstractmethod
    def _add(self, fd: int, name: bytes, path: bytes) -> int | None:
        """Visit a name in the directory `fd`; return a descriptor of it if it is a directory to go on with."""
