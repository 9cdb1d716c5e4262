"""Trees as layers: the upper directory of an overlay, or a whole directory.

Runs inside the user namespace that owns the files: only there do owners and file capabilities read as the
image means them. The tree must be at rest.
"""

import errno
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from pybuild.layer.errors import LayerError, shown
from pybuild.layer.limits import DEFAULT_LIMITS
from pybuild.layer.names import (
    CAPABILITY,
    OVERLAY_OPAQUE,
    WHITEOUT_PREFIX,
    keeps_xattr,
    plain_capability,
)
from pybuild.layer.tarwriter import TarWriter
from pybuild.layer.walk import OPEN_DIRECTORY, Walk
from pybuild.tree.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, WHITEOUT, Entry
from pybuild.tree.notes import LINK_XATTR, NODE_XATTR, OWNER_XATTR, read_link, read_node, read_owner

Owners = Literal["real", "xattr"]

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NANOSECONDS = 1_000_000_000


def pack_tree(
    root_fd: int,
    writer: TarWriter,
    *,
    lower_dirs: Sequence[bytes] = (),
    skip: Collection[bytes] | Mapping[bytes, int] = (),
    owners: Owners | None = None,
    epoch: int | None = None,
) -> None:
    """Write what the upper directory of an overlay changes, parents first, siblings in byte order.

    The root itself is not written. `lower_dirs` are the trees below, bottom first, asked whether an opaque
    directory hides anything. Paths in `skip` were made for mounts: they are left out, a directory only if
    nothing is in it, and with inode numbers only what still has that number. `owners` tells whether files
    have their owner or note it in an attribute, by default as the id mapping of this process suggests.
    `epoch` (seconds) is the latest time a file may have. Raises LayerError for what a layer cannot hold.
    """
    Packing(writer, lower_dirs, skip, owners or _owners(), epoch, overlay=True).walk(root_fd)


def _owners() -> Owners:
    """Return how owners were kept in this user namespace: a file cannot have one that is not mapped."""
    with open("/proc/self/uid_map", encoding="ascii") as lines:
        mapped = sum(int(line.split()[2]) for line in lines)
    return "xattr" if mapped == 1 else "real"


class Packing(Walk):
    """Writes what it comes by as entries of a layer."""

    doing = "pack"

    def __init__(
        self,
        writer: TarWriter,
        lower_dirs: Sequence[bytes],
        skip: Collection[bytes] | Mapping[bytes, int],
        owners: Owners,
        epoch: int | None,
        *,
        overlay: bool,
    ) -> None:
        self._writer = writer
        self._lowers = lower_dirs
        self._skip = skip
        self._noted = owners == "xattr"
        self._latest = None if epoch is None else epoch * _NANOSECONDS
        self._overlay = overlay
        self._names: dict[tuple[int, int], bytes] = {}

    def _add(self, fd: int, name: bytes, path: bytes) -> int | None:
        """Write one entry; return a descriptor if it is a directory to go on with."""
        state = os.stat(name, dir_fd=fd, follow_symlinks=False)
        mode = state.st_mode
        kind = stat.S_IFMT(mode)
        if self._overlay and kind == stat.S_IFCHR and state.st_rdev == 0:
            # All of them may be hard links of one inode: never looked at as such
            if not self._skips(path, state):
                self._writer.add(Entry(path=path, type=WHITEOUT))
            return None
        if kind == stat.S_IFSOCK:
            return None
        if name.startswith(WHITEOUT_PREFIX):
            raise LayerError(
                f"a layer cannot hold a file of this name: `{shown(path)}`",
                "names that begin with `.wh.` mark deletions; rename the file",
            )
        if len(path) > DEFAULT_LIMITS.name:
            raise LayerError(f"a path of {len(path)} bytes: `{shown(path)}`")
        mtime = state.st_mtime_ns
        if self._latest is not None and mtime > self._latest:
            mtime = self._latest
        entry = Entry(path=path, type=FILE, mode=mode & 0o7777, uid=state.st_uid, gid=state.st_gid, mtime=mtime)
        if kind == stat.S_IFDIR:
            return self._directory(fd, name, entry, state)
        if self._skip and self._skips(path, state):
            return None
        if state.st_nlink > 1:
            first = self._names.setdefault((state.st_dev, state.st_ino), path)
            if first is not path:
                self._again(fd, name, entry, kind, first)
                return None
        if kind == stat.S_IFREG:
            self._file(fd, name, entry, state)
        else:
            self._special(fd, name, entry, state)
            self._writer.add(entry)
        return None

    def _skips(self, path: bytes, state: os.stat_result) -> bool:
        skip = self._skip
        if path not in skip:
            return False
        return not isinstance(skip, Mapping) or skip[path] == state.st_ino

    def _directory(self, fd: int, name: bytes, entry: Entry, state: os.stat_result) -> int | None:
        inner = os.open(name, OPEN_DIRECTORY, dir_fd=fd)
        try:
            if self._skip and self._skips(entry.path, state) and not os.listdir(inner):
                os.close(inner)
                return None
            entry.type = DIR
            marks = self._attributes(inner, entry)
            entry.opaque = self._is_opaque(entry.path, marks or {})
            self._writer.add(entry)
        except BaseException:
            os.close(inner)
            raise
        return inner

    def _file(self, fd: int, name: bytes, entry: Entry, state: os.stat_result) -> None:
        inner = os.open(name, _OPEN_FILE, dir_fd=fd)
        try:
            marks = self._attributes(inner, entry)
            node = marks.get(NODE_XATTR) if marks else None
            if node is not None and state.st_size == 0 and _as_device(entry, node):
                self._writer.add(entry)
                return
            entry.size = state.st_size
            self._writer.add(entry, inner, whole=True)
        finally:
            os.close(inner)

    def _special(self, fd: int, name: bytes, entry: Entry, state: os.stat_result) -> None:
        kind = stat.S_IFMT(state.st_mode)
        if kind == stat.S_IFLNK:
            entry.type, entry.link = SYMLINK, os.readlink(name, dir_fd=fd)
        elif kind == stat.S_IFIFO:
            entry.type = FIFO
        else:
            entry.type = CHAR if kind == stat.S_IFCHR else BLOCK
            entry.rdev = (os.major(state.st_rdev), os.minor(state.st_rdev))
        if self._noted:
            try:
                note = os.getxattr(b"/proc/self/fd/%d/%b" % (fd, name), LINK_XATTR, follow_symlinks=False)
            except OSError:
                return
            owner = read_link(note)
            if owner is not None:
                entry.uid, entry.gid = owner

    def _again(self, fd: int, name: bytes, entry: Entry, kind: int, first: bytes) -> None:
        """Write another name of something that has one: a hard link to a file, a copy of anything else."""
        if kind == stat.S_IFREG and self._writer.has_file(first):
            entry.type, entry.link = HARDLINK, first
            self._writer.add(entry)
        elif kind == stat.S_IFREG:
            self._file(fd, name, entry, os.stat(name, dir_fd=fd, follow_symlinks=False))
        else:
            self._special(fd, name, entry, os.stat(name, dir_fd=fd, follow_symlinks=False))
            self._writer.add(entry)

    def _attributes(self, fd: int, entry: Entry) -> dict[bytes, bytes] | None:
        """Fill in what extended attributes say; return overlayfs's and our own, which stay out of layers."""
        names = os.listxattr(fd)
        if not names:
            return None
        marks: dict[bytes, bytes] = {}
        kept: dict[bytes, bytes] = {}
        for text in names:
            name = os.fsencode(text)
            if keeps_xattr(name):
                value = os.getxattr(fd, name)
                kept[name] = plain_capability(value) if name == CAPABILITY else value
            elif name.startswith(b"user."):
                marks[name] = os.getxattr(fd, name)
        if kept:
            entry.xattrs = kept
        if self._noted and OWNER_XATTR in marks:
            owner = read_owner(marks[OWNER_XATTR])
            if owner is not None:
                entry.uid, entry.gid = owner
        return marks

    def _is_opaque(self, path: bytes, marks: dict[bytes, bytes]) -> bool:
        """Does this directory hide what the layers below show at its path?

        To make a directory where one was removed sets overlayfs's mark, but so does to make one for the first time
        in a directory that is only in the upper tree.
        """
        if not self._overlay or marks.get(OVERLAY_OPAQUE) != b"y":
            return False
        for lower in reversed(self._lowers):
            found = _look(lower, path)
            if found is not None:
                return found == "shown"
        return False


def _look(lower: bytes, path: bytes) -> Literal["shown", "hidden"] | None:
    """Return what a layer's tree says of `path`, links below it not followed; None when it leaves that to those below.

    Hidden is also what is in a directory that the layer removes, replaces or makes opaque.
    """
    *above, name = path.split(b"/")
    opaque = False
    fd = os.open(lower, OPEN_DIRECTORY)
    try:
        for part in above:
            inner = os.open(part, OPEN_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
            opaque = opaque or _is_marked(fd)
        state = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return "hidden" if opaque else None
    except OSError as error:
        # A deletion or a link, where a directory was or will be
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        return "hidden"
    finally:
        os.close(fd)
    return "hidden" if stat.S_ISCHR(state.st_mode) and state.st_rdev == 0 else "shown"


def _is_marked(fd: int) -> bool:
    try:
        return os.getxattr(fd, OVERLAY_OPAQUE) == b"y"
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        return False


def _as_device(entry: Entry, node: bytes) -> bool:
    """Turn an empty file back into the device it stands for; False if it says nothing of the kind."""
    found = read_node(node)
    if found is None:
        return False
    kind, *rdev = found
    entry.type = CHAR if kind == "c" else BLOCK
    entry.rdev = rdev[0], rdev[1]
    return True
