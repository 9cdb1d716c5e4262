"""Removing trees that may hold anything: links are never followed, unreadable directories are opened up first."""

import os
import stat

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(parent_fd: int, name: bytes) -> None:
    """Remove `name` in the directory `parent_fd` with all below it; nothing happens when it is not there.

    Depth is no limit: a directory too deep for a path is emptied from inside. Raises OSError.
    """
    try:
        state = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(state.st_mode):
        os.unlink(name, dir_fd=parent_fd)
        return
    # Each level is (its descriptor, its name in the level above); descriptors stay few by lifting
    # deep directories up to the top before they are emptied.
    counter = 0
    top = _open(parent_fd, name)
    try:
        pending = [b""]
        while pending:
            pending.pop()
            for child in os.listdir(top):
                entry = os.fsencode(child)
                inner = os.stat(entry, dir_fd=top, follow_symlinks=False)
                if not stat.S_ISDIR(inner.st_mode):
                    os.unlink(entry, dir_fd=top)
                    continue
                fd = _open(top, entry)
                try:
                    for name_below in os.listdir(fd):
                        below = os.fsencode(name_below)
                        if stat.S_ISDIR(os.stat(below, dir_fd=fd, follow_symlinks=False).st_mode):
                            counter += 1
                            _make_writable(fd, below)
                            os.rename(below, b".pybuild-remove-%d" % counter, src_dir_fd=fd, dst_dir_fd=top)
                            pending.append(b"")
                        else:
                            os.unlink(below, dir_fd=fd)
                finally:
                    os.close(fd)
                os.rmdir(entry, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent_fd)


def _make_writable(parent_fd: int, name: bytes) -> None:
    """Moving a directory elsewhere changes its `..`, for which it must be writable."""
    state = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    if state.st_mode & 0o700 != 0o700:
        os.chmod(name, 0o700, dir_fd=parent_fd)


def _open(parent_fd: int, name: bytes) -> int:
    try:
        fd = os.open(name, _OPEN, dir_fd=parent_fd)
    except PermissionError:
        _make_writable(parent_fd, name)
        return os.open(name, _OPEN, dir_fd=parent_fd)
    if os.fstat(fd).st_mode & 0o700 != 0o700:
        os.fchmod(fd, 0o700)
    return fd
