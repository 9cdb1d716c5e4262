"""What a RUN changed in a tree it worked on in place, found by comparing with a table taken before.

The layer is the one that the upper directory of an overlay would give: a directory above a change is in it, and so is
a file that was only touched, for the time of its last change (ctime) tells, which no process can set. Nothing tells of
a file that was opened to be written and was not: overlayfs copies it up, here it is no change.

To overlayfs each name of a file of the layers below is a file of its own once it is written to; so hard links are
parted before a RUN (`settle`), and what it does to one name neither changes the others nor their times.
"""

import ctypes
import os
import stat
import struct
import time
from collections.abc import Collection
from typing import Literal

import msgspec

from pybuild.layer.clone import part_links
from pybuild.layer.pack import Owners, Packing
from pybuild.layer.tarwriter import TarWriter
from pybuild.layer.walk import OPEN_DIRECTORY, Walk
from pybuild.tree.entry import WHITEOUT, Entry

_COARSE_CLOCK = 5
"""CLOCK_REALTIME_COARSE (linux/time.h): what file systems take their times from."""
_MOST_WAIT = 50_000_000
_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
_FROM_STATX = ctypes.CDLL(None, use_errno=True)


class Row(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """How a path was: `mode` with the type, times in nanoseconds, `born` and `xattrs` of directories only.

    `size` is that of files. `born` is 0 where the file system does not know.
    """

    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    ctime: int
    inode: int
    born: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def is_directory(self) -> bool:
        """Is it a directory?"""
        return stat.S_ISDIR(self.mode)

    def without_ctime(self) -> "Row":
        """Return the row without what the sandbox itself may have changed."""
        return msgspec.structs.replace(self, ctime=0)


Table = dict[bytes, Row]


class _Scan(Walk):
    def __init__(self) -> None:
        self.table: Table = {}
        self.linked: dict[tuple[int, int], list[bytes]] = {}

    def _add(self, fd: int, name: bytes, path: bytes) -> int | None:
        state = os.stat(name, dir_fd=fd, follow_symlinks=False)
        mode = state.st_mode
        inner = None
        born, size = 0, state.st_size
        xattrs: tuple[tuple[bytes, bytes], ...] = ()
        if stat.S_ISDIR(mode):
            inner = os.open(name, OPEN_DIRECTORY, dir_fd=fd)
            born, size = _born(inner), 0
            xattrs = tuple((os.fsencode(key), os.getxattr(inner, key)) for key in sorted(os.listxattr(inner)))
        elif state.st_nlink > 1 and stat.S_IFMT(mode) in (stat.S_IFREG, stat.S_IFLNK):
            self.linked.setdefault((state.st_dev, state.st_ino), []).append(path)
        self.table[path] = Row(
            mode, state.st_uid, state.st_gid, size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, born, xattrs
        )
        return inner


def scan(root: int) -> Table:
    """Return the table of all below a directory. Raises LayerError."""
    walk = _Scan()
    walk.walk(root)
    return walk.table


def settle(root: int) -> Table:
    """Return the table of a tree from which on every change shows, its hard links parted; raise LayerError, OSError."""
    walk = _Scan()
    walk.walk(root)
    if any(len(names) > 1 for names in walk.linked.values()):
        for names in walk.linked.values():
            part_links(root, names)
        walk = _Scan()
        walk.walk(root)
    _let_time_pass(max((row.ctime for row in walk.table.values()), default=0))
    return walk.table


def _let_time_pass(newest: int) -> None:
    """Wait until what changes from now on gets another time than the newest of what is there: a tick of the clock."""
    begun = time.monotonic_ns()
    # Times of the future are none of ours, and not waited for
    while (ahead := newest - time.clock_gettime_ns(_COARSE_CLOCK)) >= 0:
        if ahead > _MOST_WAIT or time.monotonic_ns() - begun > _MOST_WAIT:
            return
        time.sleep(0.001)


def _born(fd: int) -> int:
    """Return when an inode was made: numbers of inodes are used again (statx(2), which Python lacks)."""
    buffer = ctypes.create_string_buffer(256)
    if _FROM_STATX.statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, buffer) != 0:
        return 0
    mask = int.from_bytes(buffer.raw[0:4], "little")
    if not mask & _STATX_BTIME:
        return 0
    seconds, nanoseconds = struct.unpack_from("qI", buffer, 80)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def pack_changes(
    root: int, writer: TarWriter, before: Table, *, touched: Collection[bytes] = (), owners: Owners
) -> None:
    """Write what differs from the table `before`; of paths `touched` the ctime is not looked at."""
    _Changing(writer, compare(before, scan(root), touched), owners).walk(root)


class Changes(msgspec.Struct, frozen=True):
    """Paths by what became of them. `listed` are changed, new or above such; `opaque` are new directories."""

    listed: set[bytes]
    gone: set[bytes]
    opaque: set[bytes]


Fate = Literal["same", "changed", "replaced"]


def compare(before: Table, after: Table, touched: Collection[bytes] = ()) -> Changes:
    """Return what became of each path that is not as it was."""
    replaced: set[bytes] = set()
    changes = Changes(set(), set(), set())
    for path, row in after.items():
        # Parents come first
        within = _above(path) in replaced
        was = None if within else before.get(path)
        fate = _fate(was, row, path in touched) if was is not None else "replaced"
        if fate == "same":
            continue
        _list(changes.listed, path)
        if row.is_directory and fate == "replaced":
            replaced.add(path)
            if was is not None:
                changes.opaque.add(path)
    for path in before:
        above = _above(path)
        # What was in a directory that is gone or another one goes with it
        if path not in after and (
            not above or (above not in replaced and above in after and after[above].is_directory)
        ):
            changes.gone.add(path)
            _list(changes.listed, above)
    return changes


def _above(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _list(listed: set[bytes], path: bytes) -> None:
    while path and path not in listed:
        listed.add(path)
        path = _above(path)


def _fate(was: Row, now: Row, touched: bool) -> Fate:
    if now.is_directory and (not was.is_directory or (was.inode, was.born) != (now.inode, now.born)):
        return "replaced"
    if touched:
        was, now = was.without_ctime(), now.without_ctime()
    return "same" if was == now else "changed"


class _Changing(Packing):
    """Writes the paths that are listed, and deletions."""

    def __init__(self, writer: TarWriter, changes: Changes, owners: Owners) -> None:
        super().__init__(writer, (), (), owners, None, overlay=False)
        self._changes = changes
        self._children: dict[bytes, list[bytes]] = {}
        for path in (*changes.listed, *changes.gone):
            above, slash, name = path.rpartition(b"/")
            self._children.setdefault(above + slash, []).append(name)

    def _listing(self, fd: int, prefix: bytes) -> list[bytes]:
        return self._children.get(prefix, [])

    def _add(self, fd: int, name: bytes, path: bytes) -> int | None:
        if path in self._changes.gone:
            self._writer.add(Entry(path=path, type=WHITEOUT))
            return None
        return super()._add(fd, name, path)

    def _is_opaque(self, path: bytes, marks: dict[bytes, bytes]) -> bool:
        return path in self._changes.opaque
