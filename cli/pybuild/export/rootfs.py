"""The final file system of an image: as one flat tar, or as a directory of the user's own."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from pybuild.export.errors import ExportError
from pybuild.layer.tarwriter import TarWriter
from pybuild.tree.entry import DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry
from pybuild.tree.merged import Tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Content(Protocol):
    """The files of an image."""

    @property
    def tree(self) -> Tree:
        """Return the merged table."""

    def open(self, path: bytes) -> int:
        """Return a borrowed descriptor at the beginning of a file's content."""


def write_tar(content: Content, fd: int) -> None:
    """Write the whole tree as one tar; hard links become links where both names are there."""
    writer = TarWriter(fd)
    for entry in sorted_entries(content.tree):
        writer.add(entry, content.open(entry.path) if entry.type == FILE else None)
    writer.finish()


def sorted_entries(tree: Tree) -> list[Entry]:
    """Return the tree's entries in tar order, a file with several names first, the others as links to it."""
    import msgspec

    first: dict[tuple[bytes, bytes, int, int, int], bytes] = {}
    rows: list[Entry] = []
    for entry in tree.walk(b""):
        if not entry.path:
            continue
        if entry.type in (FILE, HARDLINK):
            name = entry.link if entry.type == HARDLINK else entry.path
            key = (name, entry.digest, entry.mode, entry.uid, entry.gid)
            known = first.setdefault(key, entry.path)
            if known != entry.path:
                rows.append(msgspec.structs.replace(entry, type=HARDLINK, link=known))
                continue
            entry = msgspec.structs.replace(entry, type=FILE, link=b"")
        elif entry.type == DIR and entry.opaque:
            entry = msgspec.structs.replace(entry, opaque=False)
        rows.append(entry)
    return rows


def write_directory(content: Content, dest: Path) -> None:
    """Write the tree below `dest`, made when absent; files that are there are replaced.

    All belongs to the user; set-id bits and devices are left out. Links of the tree are never followed.
    Raises ExportError.
    """
    try:
        dest.mkdir(parents=True, exist_ok=True)
        root = os.open(dest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ExportError(f"cannot write to {dest}: {error.strerror}") from error
    times: list[Entry] = []
    try:
        for entry in content.tree.walk(b""):
            if not entry.path:
                continue
            try:
                _write(content, root, entry)
            except OSError as error:
                name = entry.path.decode(errors="replace")
                raise ExportError(f"cannot write {dest}/{name}: {error.strerror}") from error
            if entry.type == DIR:
                times.append(entry)
        for entry in reversed(times):
            fd = _directory(root, entry.path)
            try:
                os.fchmod(fd, entry.mode & 0o777 | 0o700)
                os.utime(fd, ns=(entry.mtime, entry.mtime))
            finally:
                os.close(fd)
    finally:
        os.close(root)


def _directory(root: int, path: bytes) -> int:
    fd = os.dup(root)
    for part in path.split(b"/") if path else ():
        try:
            inner = os.open(part, _DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def _write(content: Content, root: int, entry: Entry) -> None:
    parent, _, name = entry.path.rpartition(b"/")
    fd = _directory(root, parent)
    try:
        _make_room(fd, name, entry)
        if entry.type == DIR:
            try:
                os.mkdir(name, 0o700, dir_fd=fd)
            except FileExistsError:
                os.chmod(name, 0o700, dir_fd=fd)
        elif entry.type in (FILE, HARDLINK):
            _write_file(content, fd, name, entry)
        elif entry.type == SYMLINK:
            os.symlink(entry.link, name, dir_fd=fd)
        elif entry.type == FIFO:
            os.mkfifo(name, entry.mode & 0o777, dir_fd=fd)
    finally:
        os.close(fd)


def _make_room(fd: int, name: bytes, entry: Entry) -> None:
    try:
        state = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(state.st_mode):
        os.unlink(name, dir_fd=fd)
    elif entry.type != DIR:
        os.rmdir(name, dir_fd=fd)


def _write_file(content: Content, fd: int, name: bytes, entry: Entry) -> None:
    out = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
    try:
        source = content.open(entry.path)
        left = entry.size
        while left and (data := os.read(source, min(left, 1 << 20))):
            left -= len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(out, view) :]
        os.fchmod(out, entry.mode & 0o777)
        os.utime(out, ns=(entry.mtime, entry.mtime))
    finally:
        os.close(out)


def spool(write: Callable[[int], None], out: BinaryIO, scratch: int) -> None:
    """Let `write` fill the scratch file, then copy it to `out`, which may be a pipe."""
    write(scratch)
    os.lseek(scratch, 0, os.SEEK_SET)
    while data := os.read(scratch, 1 << 20):
        out.write(data)
