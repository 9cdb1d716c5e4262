"""Trees of the context for `RUN --mount=type=bind`: copies, so that a RUN sees what its key was made of and no more.

What a mount of the directory itself would show besides: files that are left out, sockets of the host, changes while the
RUN is at work.
"""

import errno
import os
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Self

import msgspec

from pybuild.engine.sources import Source
from pybuild.engine.workers import Workers
from pybuild.errors import PybuildError
from pybuild.store.store import Store
from pybuild.tree.copy import Selected
from pybuild.tree.entry import DIR, FIFO, SYMLINK, Entry

_BLOCK = 1 << 20
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_REFLINK = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)


class Tree(msgspec.Struct, frozen=True):
    """A directory of the host and what of it is meant, "" for all."""

    path: Path
    source: bytes = b""


class BindTrees:
    """The trees of a build, each made once. Use it with `with`: the end of it removes them."""

    def __init__(self, store: Store, workers: Workers) -> None:
        self._store = store
        self._workers = workers
        self._lock = Lock()
        self._made: dict[tuple[str, bytes], Tree] = {}
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def get(self, origin: str, selected: Selected, content: bytes, source: Source) -> Tree:
        """Return the tree of what is selected of `origin`; `content` is its digest.

        Raises ContextError for what changed since, and PybuildError.
        """
        key = (f"{origin}:{selected.root.hex()}", content)
        with self._lock:
            tree = self._made.get(key)
            if tree is None:
                tree = self._made[key] = self._make(selected, source)
            return tree

    def _make(self, selected: Selected, source: Source) -> Tree:
        staging = self._store.snapshots.staging()
        self._undo.callback(self._workers.remove_if_possible, staging)
        root = staging / "fs"
        try:
            root.mkdir(mode=0o700)
            if not selected.is_dir:
                # The name does not matter: only the file itself is mounted
                _write(os.fsencode(root / "file"), selected.entries[0], source)
                return Tree(root, b"file")
            _write_tree(os.fsencode(root), selected, source)
        except OSError as error:
            hint = "free some space, or name another store with PYBUILD_STORE" if error.errno == errno.ENOSPC else ""
            raise PybuildError(f"cannot copy the context for a mount: {error.strerror}", hint) from error
        return Tree(root)


def _write_tree(root: bytes, selected: Selected, source: Source) -> None:
    skip = len(selected.root) + 1 if selected.root else 0
    directories = [(root, selected.entries[0])]
    for entry in selected.entries[1:]:
        path = root + b"/" + entry.path[skip:]
        if entry.type == DIR:
            os.mkdir(path, 0o700)
            directories.append((path, entry))
        else:
            _write(path, entry, source)
    # From the bottom up, as long as they can be written
    for path, entry in reversed(directories):
        # How private the directory is where the context lies says nothing of what is in it
        os.chmod(path, entry.mode if entry.path else 0o755)
        os.utime(path, ns=(entry.mtime, entry.mtime))


def _write(path: bytes, entry: Entry, source: Source) -> None:
    if entry.type == SYMLINK:
        os.symlink(entry.link, path)
    elif entry.type == FIFO:
        os.mkfifo(path, 0o600)
        os.chmod(path, entry.mode)
    else:
        _copy(path, entry, source)
    os.utime(path, ns=(entry.mtime, entry.mtime), follow_symlinks=False)


def _copy(path: bytes, entry: Entry, source: Source) -> None:
    fd = source.open(entry.path)
    copied = False
    try:
        out = os.open(path, _FILE, 0o600)
        try:
            if _copy_content(fd, out, entry.size) != entry.size:
                raise PybuildError(f"changed while it was read: {os.fsdecode(entry.path)}")
            os.fchmod(out, entry.mode)
        finally:
            os.close(out)
        copied = True
    finally:
        # With the digest known it is checked that the file still is what was read
        source.release(entry.path, fd, (source.known_digest(entry.path) or b"") if copied else b"")


def _copy_content(fd: int, out: int, size: int) -> int:
    """Copy up to `size` bytes, by reference where the file system can; return how many there were."""
    done = 0
    try:
        while done < size and (count := os.copy_file_range(fd, out, size - done)):
            done += count
    except OSError as error:
        if error.errno not in _NO_REFLINK or done:
            raise
        while done < size and (block := os.read(fd, min(_BLOCK, size - done))):
            view = memoryview(block)
            while view:
                view = view[os.write(out, view) :]
            done += len(block)
    return done
