"""The upper directory of an overlay as a layer. Runs inside the user namespace that owns the files."""

import os
import stat
import struct
from collections.abc import Sequence

from pybuild.layer.apply import NODE_XATTR, OWNER_XATTR
from pybuild.layer.errors import LayerError
from pybuild.layer.tarreader import shown
from pybuild.layer.tarwriter import WHITEOUT_PREFIX, TarWriter
from pybuild.tree.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, WHITEOUT, Entry

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def pack_tree(
    root_fd: int, writer: TarWriter, *, lower_dirs: Sequence[bytes] = (), skip: frozenset[bytes] = frozenset()
) -> None:
    """Write what an upper directory holds as layer entries, parents first, siblings in byte order.

    `lower_dirs` are the trees below, asked whether an opaque directory hides anything. Paths in `skip` are
    left out. Raises LayerError for a file whose name a layer cannot hold.
    """
    _Packing(root_fd, writer, lower_dirs, skip).directory(root_fd, b"")


class _Packing:
    def __init__(self, root_fd: int, writer: TarWriter, lower_dirs: Sequence[bytes], skip: frozenset[bytes]) -> None:
        self._root = root_fd
        self._writer = writer
        self._lowers = lower_dirs
        self._skip = skip
        self._links: dict[tuple[int, int], bytes] = {}

    def directory(self, fd: int, path: bytes) -> None:
        prefix = path + b"/" if path else b""
        with os.scandir(fd) as listing:
            names = sorted(os.fsencode(item.name) for item in listing)
        for name in names:
            full = prefix + name
            if full in self._skip:
                continue
            self._entry(fd, name, full)

    def _entry(self, fd: int, name: bytes, path: bytes) -> None:
        state = os.stat(name, dir_fd=fd, follow_symlinks=False)
        kind = stat.S_IFMT(state.st_mode)
        if kind == stat.S_IFCHR and state.st_rdev == 0:
            self._writer.add(Entry(path=path, type=WHITEOUT))
            return
        if name.startswith(WHITEOUT_PREFIX):
            raise LayerError(
                f"a layer cannot hold a file of this name: {shown(path)}",
                "names that begin with `.wh.` mark deletions; rename the file",
            )
        if kind == stat.S_IFSOCK:
            return
        entry = Entry(
            path=path,
            type=FILE,
            mode=stat.S_IMODE(state.st_mode),
            uid=state.st_uid,
            gid=state.st_gid,
            mtime=state.st_mtime_ns,
        )
        if kind == stat.S_IFDIR:
            self._dir(fd, name, entry)
            return
        if state.st_nlink > 1:
            first = self._links.setdefault((state.st_dev, state.st_ino), path)
            if first != path:
                entry.type, entry.link = HARDLINK, first
                self._writer.add(entry)
                return
        if kind == stat.S_IFREG:
            self._file(fd, name, entry, state)
            return
        if kind == stat.S_IFLNK:
            entry.type, entry.link = SYMLINK, os.readlink(name, dir_fd=fd)
        elif kind == stat.S_IFIFO:
            entry.type = FIFO
        else:
            entry.type = CHAR if kind == stat.S_IFCHR else BLOCK
            entry.rdev = (os.major(state.st_rdev), os.minor(state.st_rdev))
        self._writer.add(entry)

    def _dir(self, fd: int, name: bytes, entry: Entry) -> None:
        inner = os.open(name, _OPEN_DIR, dir_fd=fd)
        try:
            marks = self._attributes(inner, entry)
            entry.type = DIR
            entry.opaque = marks.get("user.overlay.opaque") == b"y" and self._hides(entry.path)
            self._writer.add(entry)
            self.directory(inner, entry.path)
        finally:
            os.close(inner)

    def _file(self, fd: int, name: bytes, entry: Entry, state: os.stat_result) -> None:
        inner = os.open(name, _OPEN_FILE, dir_fd=fd)
        try:
            marks = self._attributes(inner, entry)
            node = marks.get(NODE_XATTR)
            if node is not None:
                kind, major, minor = node.split(b":")
                entry.type = CHAR if kind == b"c" else BLOCK
                entry.rdev = (int(major), int(minor))
                self._writer.add(entry)
                return
            entry.size = state.st_size
            self._writer.add(entry, inner)
        finally:
            os.close(inner)

    def _attributes(self, fd: int, entry: Entry) -> dict[str, bytes]:
        """Fill in what extended attributes say; return overlayfs's and our own marks, which stay out of layers."""
        marks: dict[str, bytes] = {}
        found: dict[bytes, bytes] = {}
        for name in os.listxattr(fd):
            if name.startswith(("user.overlay.", "user.pybuild.")):
                marks[name] = os.getxattr(fd, name)
            elif name == "security.capability":
                found[b"security.capability"] = _capability(os.getxattr(fd, name))
            elif name.startswith("user."):
                found[os.fsencode(name)] = os.getxattr(fd, name)
        if found:
            entry.xattrs = found
        owner = marks.get(OWNER_XATTR)
        if owner is not None:
            uid, _, gid = owner.partition(b":")
            entry.uid, entry.gid = int(uid), int(gid)
        return marks

    def _hides(self, path: bytes) -> bool:
        """Is there a directory below that the opaque mark hides?"""
        for lower in reversed(self._lowers):
            try:
                state = os.lstat(lower + b"/" + path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            return stat.S_ISDIR(state.st_mode)
        return False


def _capability(value: bytes) -> bytes:
    """Return a file capability in the form without a root id (v2), which is right in every namespace."""
    if len(value) != 24:
        return value
    (magic,) = struct.unpack("<I", value[:4])
    return struct.pack("<I", magic & 0x00FFFFFF | 0x02000000) + value[4:20]
