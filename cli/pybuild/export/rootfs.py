"""The final file system of an image: as one flat tar, or as a directory of the user's own."""

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from pybuild.export.errors import ExportError
from pybuild.layer.tarwriter import TarWriter
from pybuild.tree.entry import DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry
from pybuild.tree.merged import Tree

_MODE = 0o1777
"""What of a mode a user's own file gets: all but the set-id bits."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Content(Protocol):
    """The files of an image."""

    @property
    def tree(self) -> Tree:
        """Return the merged table."""

    def open(self, path: bytes) -> int:
        """Return a borrowed descriptor at the beginning of a file's content."""


def write_tar(content: Content, fd: int, mtime: int | None = None) -> None:
    """Write the whole tree as one tar; hard links become links where both names are there.

    All gets the time `mtime` (nanoseconds), if that is given.
    """
    writer = TarWriter(fd)
    for entry in sorted_entries(content.tree, mtime):
        writer.add(entry, content.open(entry.path) if entry.type == FILE else None)
    writer.finish()


def write_files(content: Content, paths: Iterable[bytes], fd: int) -> None:
    """Write the files at these paths as a tar; no link is followed, and what is no file is left out."""
    from msgspec.structs import replace

    writer = TarWriter(fd)
    for path in sorted({*paths}):
        entry = content.tree.get(path)
        if entry is not None and entry.type in (FILE, HARDLINK):
            writer.add(replace(entry, type=FILE, link=b""), content.open(path))
    writer.finish()


def write_tars(contents: Mapping[str, Content], fd: int, mtime: int | None = None) -> None:
    """Write several trees as one tar, each below a directory of its name; else as `write_tar`."""
    import msgspec

    writer = TarWriter(fd)
    for name, content in contents.items():
        below = name.encode() + b"/"
        writer.add(Entry(path=name.encode(), type=DIR, mode=0o755, mtime=mtime or 0), None)
        for entry in sorted_entries(content.tree, mtime):
            source = content.open(entry.path) if entry.type == FILE else None
            link = below + entry.link if entry.type == HARDLINK else entry.link
            writer.add(msgspec.structs.replace(entry, path=below + entry.path, link=link), source)
    writer.finish()


def sorted_entries(tree: Tree, mtime: int | None = None) -> list[Entry]:
    """Return the tree's entries in tar order, a file with several names first, the others as links to it.

    All have the time `mtime` (nanoseconds), if that is given.
    """
    import msgspec

    first: dict[tuple[bytes, bytes, int, int, int], bytes] = {}
    rows: list[Entry] = []
    for entry in tree.walk(b""):
        if not entry.path:
            continue
        if mtime is not None:
            entry = msgspec.structs.replace(entry, mtime=mtime)
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


def write_directory(content: Content, dest: Path, mtime: int | None = None) -> None:
    """Write the tree below `dest`, made when absent; files that are there are replaced, links never followed.

    All belongs to the user; set-id bits, extended attributes and devices are left out, and every directory stays open
    to its owner. Everything is written beside its place first and then moved: a failure before that changes nothing.
    All gets the time `mtime` (nanoseconds), if that is given. Raises ExportError.
    """
    try:
        existed = _prepare(dest)
        aside = (dest if existed else dest.parent) / f".pybuild-{os.urandom(8).hex()}.partial"
        aside.mkdir(mode=0o777)
        try:
            directories = _unpack(content, aside, mtime)
            if existed:
                _move_into(aside, dest)
            else:
                aside.rename(dest)
            _finish(dest, directories)
        finally:
            if aside.exists():
                shutil.rmtree(aside)
    except OSError as error:
        raise ExportError(f"cannot write to {dest}: {error.strerror or error}") from error
    except RecursionError as error:
        raise ExportError(f"the directories to be overwritten are nested too deep: {dest}") from error


def _prepare(dest: Path) -> bool:
    """Return whether `dest` is there; make the directories above it when it is not."""
    try:
        state = dest.lstat()
    except FileNotFoundError:
        dest.parent.mkdir(parents=True, exist_ok=True)
        return False
    if stat.S_ISLNK(state.st_mode) and state.st_uid != os.geteuid():
        raise ExportError(f"the destination is a link of somebody else: {dest}")
    if not dest.is_dir():
        raise ExportError(f"the destination is not a directory: {dest}")
    return True


def _unpack(content: Content, root: Path, mtime: int | None) -> list[Entry]:
    """Write everything below `root`; return the directories, whose modes and times come last.

    Nobody else writes there, and nothing is below a link in a tree, so that no link is walked through.
    """
    directories: list[Entry] = []
    # Relative to a descriptor, the longest path of an image is not too long
    at = os.open(root, _DIRECTORY)
    try:
        for entry in sorted_entries(content.tree, mtime):
            if entry.type == DIR:
                os.mkdir(entry.path, 0o700, dir_fd=at)
                directories.append(entry)
            elif entry.type == HARDLINK:
                os.link(entry.link, entry.path, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
            elif entry.type == FILE:
                _write_file(content, at, entry)
            elif entry.type in (SYMLINK, FIFO):
                if entry.type == SYMLINK:
                    os.symlink(entry.link, entry.path, dir_fd=at)
                else:
                    os.mkfifo(entry.path, entry.mode & _MODE, dir_fd=at)
                os.utime(entry.path, ns=(entry.mtime, entry.mtime), dir_fd=at, follow_symlinks=False)
    finally:
        os.close(at)
    return directories


def _write_file(content: Content, at: int, entry: Entry) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    out = os.open(entry.path, flags, 0o600, dir_fd=at)
    try:
        source = content.open(entry.path)
        left = entry.size
        while left:
            data = os.read(source, min(left, 1 << 20))
            if not data:
                raise ExportError(f"content is cut short: /{entry.path.decode(errors='backslashreplace')}")
            left -= len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(out, view) :]
        os.fchmod(out, entry.mode & _MODE)
        os.utime(out, ns=(entry.mtime, entry.mtime))
    finally:
        os.close(out)


def _finish(root: Path, directories: list[Entry]) -> None:
    """Give the directories their modes and times, the deepest first: what is moved into one changes its time."""
    at = os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        for entry in reversed(directories):
            fd = os.open(entry.path, _DIRECTORY, dir_fd=at)
            try:
                os.fchmod(fd, entry.mode & _MODE | 0o700)
                os.utime(fd, ns=(entry.mtime, entry.mtime))
            finally:
                os.close(fd)
    finally:
        os.close(at)


def _move_into(source: Path, dest: Path) -> None:
    source_fd = os.open(source, _DIRECTORY)
    dest_fd = os.open(dest, _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        # Once without touching anything: what cannot be done is found before anything is changed
        _merge(source_fd, dest_fd, b"", moving=False)
        _merge(source_fd, dest_fd, b"", moving=True)
    finally:
        os.close(source_fd)
        os.close(dest_fd)


def _merge(source: int, dest: int, below: bytes, *, moving: bool) -> None:
    for name in sorted(os.listdir(source)):
        path = below + b"/" + os.fsencode(name)
        ours = os.stat(name, dir_fd=source, follow_symlinks=False).st_mode
        try:
            theirs = os.stat(name, dir_fd=dest, follow_symlinks=False).st_mode
        except FileNotFoundError:
            theirs = 0
        if stat.S_ISDIR(ours) and stat.S_ISDIR(theirs):
            _merge_directory(source, dest, name, path, moving=moving)
            continue
        if stat.S_ISDIR(theirs):
            raise ExportError(f"there is a directory where a file should be: {path.decode(errors='backslashreplace')}")
        if moving:
            if theirs and stat.S_ISDIR(ours):
                os.unlink(name, dir_fd=dest)
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=dest)


def _merge_directory(source: int, dest: int, name: str, path: bytes, *, moving: bool) -> None:
    inner = os.open(name, _DIRECTORY, dir_fd=source)
    try:
        outer = os.open(name, _DIRECTORY, dir_fd=dest)
        try:
            _merge(inner, outer, path, moving=moving)
        finally:
            os.close(outer)
    finally:
        os.close(inner)


def spool(write: Callable[[int], None], out: BinaryIO, scratch: int) -> None:
    """Let `write` fill the scratch file, then copy it to `out`, which may be a pipe."""
    write(scratch)
    os.lseek(scratch, 0, os.SEEK_SET)
    while data := os.read(scratch, 1 << 20):
        out.write(data)
