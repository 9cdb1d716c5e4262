"""Removing trees that may hold anything: links are never followed, unreadable directories are opened up first."""

import os
import stat
from collections.abc import Callable

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = 32
"""Directories above the present one that stay open: any depth needs no more descriptors."""


def remove_tree(parent_fd: int, name: bytes, *, removed: Callable[[bytes], None] | None = None) -> None:
    """Remove `name` in the directory `parent_fd` with all below it; nothing happens when it is not there.

    Depth is no limit. `removed` is told each directory that went, relative to `parent_fd`. Raises OSError;
    what is left then can be removed by another call.
    """
    try:
        os.unlink(name, dir_fd=parent_fd)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        # Linux answers EISDIR; EPERM is what POSIX asks for. Anything but a directory fails again below
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
            raise
    levels = [_Level(_open(parent_fd, name), name)]
    try:
        while levels:
            level = levels[-1]
            if level.names:
                below = level.names.pop()
                levels.append(_Level(_open(level.fd, below), below))
                if len(levels) > _KEPT:
                    levels[-1 - _KEPT].close()
                continue
            levels.pop()
            if levels and levels[-1].fd < 0:
                levels[-1].reopen(level.fd)
            level.close()
            os.rmdir(level.name, dir_fd=levels[-1].fd if levels else parent_fd)
            if removed is not None:
                removed(b"/".join([above.name for above in levels] + [level.name]))
    finally:
        for level in levels:
            level.close()


class _Level:
    """A directory being emptied: its files are gone, `names` are the directories left in it."""

    __slots__ = ("_identity", "fd", "name", "names")

    def __init__(self, fd: int, name: bytes) -> None:
        self.fd = fd
        self.name = name
        state = os.fstat(fd)
        self._identity = (state.st_dev, state.st_ino)
        self.names: list[bytes] = []
        try:
            with os.scandir(fd) as listing:
                for item in listing:
                    if item.is_dir(follow_symlinks=False):
                        self.names.append(os.fsencode(item.name))
                    else:
                        os.unlink(item.name, dir_fd=fd)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def reopen(self, below: int) -> None:
        """Go back up from a directory below; raise OSError if that leads elsewhere by now."""
        fd = os.open("..", _OPEN, dir_fd=below)
        state = os.fstat(fd)
        if (state.st_dev, state.st_ino) != self._identity:
            os.close(fd)
            raise OSError(f"directory was moved while it was removed: {os.fsdecode(self.name)}")
        self.fd = fd


def _open(parent_fd: int, name: bytes) -> int:
    try:
        fd = os.open(name, _OPEN, dir_fd=parent_fd)
    except PermissionError:
        # Its mode keeps even its owner out. Changed through a descriptor, so that no link can be in the way;
        # one of O_PATH needs no permission but takes no fchmod
        held = os.open(name, _OPEN_PATH, dir_fd=parent_fd)
        try:
            os.chmod(f"/proc/self/fd/{held}", 0o700)
        finally:
            os.close(held)
        return os.open(name, _OPEN, dir_fd=parent_fd)
    if os.fstat(fd).st_mode & 0o700 != 0o700:
        try:
            os.fchmod(fd, 0o700)
        except PermissionError:
            pass  # not ours, but perhaps we may write all the same: unlink will tell
    return fd
