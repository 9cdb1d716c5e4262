"""Unpacking untrusted layers and contexts below a directory, never outside of it and never through a link."""

import errno
import os
import stat
from dataclasses import dataclass
from typing import Literal

from pybuild.layer.errors import LayerError
from pybuild.layer.remove import remove_tree
from pybuild.layer.tarreader import DEFAULT_LIMITS, Counting, Limits, Member, Readable, members, shown
from pybuild.layer.tarwriter import OPAQUE_MARKER, WHITEOUT_PREFIX
from pybuild.tree.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry

OWNER_XATTR = "user.pybuild.owner"
NODE_XATTR = "user.pybuild.node"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Rules:
    """How entries become files.

    `whiteouts`: "overlay" keeps deletions as overlayfs marks, "delete" carries them out, "none" takes the
    names as they are. `owners`: "real" sets them, "xattr" notes them on files and directories, "none" leaves
    them out, as for a build context.
    """

    whiteouts: Literal["overlay", "delete", "none"] = "overlay"
    owners: Literal["real", "xattr", "none"] = "real"


def apply_layer(stream: Readable, dest_fd: int, rules: Rules, limits: Limits = DEFAULT_LIMITS) -> None:
    """Unpack an uncompressed layer below the directory `dest_fd`.

    Raises LayerError for a malformed archive or what the file system refuses.
    """
    target = _Target(dest_fd, rules)
    try:
        for member in members(Counting(stream), limits):
            try:
                target.add(member)
            except OSError as error:
                raise LayerError(f"cannot unpack {shown(member.entry.path)}: {error.strerror}") from error
        target.finish()
    finally:
        target.close()


def extract_context(stream: Readable, dest_fd: int, limits: Limits = DEFAULT_LIMITS) -> None:
    """Unpack a build context that was sent: no owners, no deletions, no devices."""
    apply_layer(stream, dest_fd, Rules("none", "none"), limits)


class _Target:
    """The tree being made. The directory of the last entry stays open: the next one is often beside it."""

    def __init__(self, root_fd: int, rules: Rules) -> None:
        self._root = root_fd
        self._rules = rules
        self._parent_path: bytes | None = None
        self._parent_fd = -1
        self._times: dict[bytes, int] = {}
        self._modes: dict[bytes, int] = {}

    def close(self) -> None:
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
            self._parent_fd = -1
            self._parent_path = None

    def finish(self) -> None:
        """Set what later entries would have changed again: modes that keep us out, and times of directories."""
        self.close()
        for path in sorted(self._modes.keys() | self._times.keys(), reverse=True):
            fd = self._open_dir(path, make=False)
            if fd is None:
                continue
            try:
                if path in self._modes:
                    os.fchmod(fd, self._modes[path])
                if path in self._times:
                    os.utime(fd, ns=(self._times[path], self._times[path]))
            finally:
                os.close(fd)

    def _open_dir(self, path: bytes, *, make: bool) -> int | None:
        fd = os.dup(self._root)
        for part in path.split(b"/") if path else ():
            try:
                inner = os.open(part, _DIRECTORY, dir_fd=fd)
            except OSError as error:
                if not make or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    os.close(fd)
                    if not make and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                        return None
                    raise
                if error.errno != errno.ENOENT:
                    os.unlink(part, dir_fd=fd)
                os.mkdir(part, 0o755, dir_fd=fd)
                inner = os.open(part, _DIRECTORY, dir_fd=fd)
                os.fchmod(inner, 0o755)
            os.close(fd)
            fd = inner
        return fd

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        parent, _, name = path.rpartition(b"/")
        if parent != self._parent_path:
            fd = self._open_dir(parent, make=True)
            assert fd is not None
            self.close()
            self._parent_fd, self._parent_path = fd, parent
        return self._parent_fd, name

    def add(self, member: Member) -> None:
        entry = member.entry
        if not entry.path:
            if entry.type == DIR:
                self._directory_metadata(os.dup(self._root), entry)
            return
        fd, name = self._parent(entry.path)
        if self._rules.whiteouts != "none" and name.startswith(WHITEOUT_PREFIX):
            self._whiteout(fd, name, entry.path)
            return
        if entry.type == DIR:
            self._directory(fd, name, entry)
            return
        self._clear(fd, name, entry.path)
        if entry.type == FILE:
            self._file(fd, name, member)
        elif entry.type == SYMLINK:
            os.symlink(entry.link, name, dir_fd=fd)
            self._own_link(fd, name, entry)
        elif entry.type == HARDLINK:
            self._link(fd, name, entry)
        elif entry.type == FIFO:
            os.mkfifo(name, 0o600, dir_fd=fd)
            self._own_link(fd, name, entry)
            os.chmod(name, entry.mode, dir_fd=fd)
        elif self._rules.owners != "none":
            self._device(fd, name, entry)

    def _clear(self, fd: int, name: bytes, path: bytes) -> None:
        """Make room: the last entry of a name wins."""
        try:
            os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            remove_tree(fd, name)
            for known in (self._times, self._modes):
                for below in [key for key in known if key == path or key.startswith(path + b"/")]:
                    del known[below]

    def _file(self, fd: int, name: bytes, member: Member) -> None:
        entry = member.entry
        out = os.open(name, _CREATE, 0o600, dir_fd=fd)
        try:
            while data := member.read(1 << 20):
                view = memoryview(data)
                while view:
                    view = view[os.write(out, view) :]
            self._metadata(out, entry)
        finally:
            os.close(out)

    def _metadata(self, fd: int, entry: Entry) -> None:
        if self._rules.owners == "real":
            if entry.uid or entry.gid:
                self._chown(fd, entry)
        elif self._rules.owners == "xattr" and (entry.uid or entry.gid):
            os.setxattr(fd, OWNER_XATTR, b"%d:%d" % (entry.uid, entry.gid))
        # After the owner: chown takes the set-id bits and capabilities away
        os.fchmod(fd, entry.mode if self._rules.owners != "none" else entry.mode & 0o777 | 0o400)
        if self._rules.owners != "none":
            for key, value in entry.xattrs.items():
                self._xattr(fd, key, value)
        os.utime(fd, ns=(entry.mtime, entry.mtime))

    def _xattr(self, fd: int, key: bytes, value: bytes) -> None:
        try:
            os.setxattr(fd, key, value)
        except OSError as error:
            # A file system without them, or a capability in a namespace with one id
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise

    def _chown(self, fd: int, entry: Entry) -> None:
        try:
            os.fchown(fd, entry.uid, entry.gid)
        except OSError as error:
            raise _unmapped(error, entry) from error

    def _own_link(self, fd: int, name: bytes, entry: Entry) -> None:
        if self._rules.owners == "real" and (entry.uid or entry.gid):
            try:
                os.chown(name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                raise _unmapped(error, entry) from error
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=fd, follow_symlinks=False)

    def _directory(self, fd: int, name: bytes, entry: Entry) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=fd)
        except FileExistsError:
            state = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if not stat.S_ISDIR(state.st_mode):
                os.unlink(name, dir_fd=fd)
                os.mkdir(name, 0o700, dir_fd=fd)
        self._directory_metadata(os.open(name, _DIRECTORY, dir_fd=fd), entry)

    def _directory_metadata(self, fd: int, entry: Entry) -> None:
        try:
            self._metadata(fd, entry)
            mode = entry.mode
            if self._rules.owners == "none":
                mode = mode & 0o777 | 0o700
            if mode & 0o700 != 0o700:
                self._modes[entry.path] = mode
                mode |= 0o700
            else:
                self._modes.pop(entry.path, None)
            os.fchmod(fd, mode)
            self._times[entry.path] = entry.mtime
        finally:
            os.close(fd)

    def _link(self, fd: int, name: bytes, entry: Entry) -> None:
        parent, _, target = entry.link.rpartition(b"/")
        source = self._open_dir(parent, make=False)
        if source is None:
            raise LayerError(f"archive has a hard link to nothing: {shown(entry.path)}")
        try:
            os.link(target, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError as error:
            raise LayerError(f"archive has a hard link to nothing: {shown(entry.path)}") from error
        finally:
            os.close(source)

    def _device(self, fd: int, name: bytes, entry: Entry) -> None:
        """No real device is ever made: a file notes which one it stands for."""
        out = os.open(name, _CREATE, 0o600, dir_fd=fd)
        try:
            kind = b"c" if entry.type == CHAR else b"b"
            assert entry.type in (CHAR, BLOCK)
            os.setxattr(out, NODE_XATTR, b"%b:%d:%d" % (kind, *entry.rdev))
            self._metadata(out, entry)
        finally:
            os.close(out)

    def _whiteout(self, fd: int, name: bytes, path: bytes) -> None:
        if name == OPAQUE_MARKER:
            self._opaque(fd)
            return
        hidden = name[len(WHITEOUT_PREFIX) :]
        if hidden.startswith(WHITEOUT_PREFIX):
            return
        if hidden in (b"", b".", b".."):
            raise LayerError(f"layer removes an impossible name: {shown(path)}")
        if self._rules.whiteouts == "delete":
            self._clear(fd, hidden, path[: -len(name)] + hidden)
            return
        try:
            os.stat(hidden, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=fd)

    def _opaque(self, fd: int) -> None:
        if self._rules.whiteouts == "overlay":
            os.setxattr(fd, "user.overlay.opaque", b"y")
            return
        for name in os.listdir(fd):
            # Only what lower layers left: entries of this layer come after the mark in every known writer
            remove_tree(fd, os.fsencode(name))


def _unmapped(error: OSError, entry: Entry) -> LayerError:
    return LayerError(
        f"cannot give {shown(entry.path)} to {entry.uid}:{entry.gid}: {error.strerror}",
        "the subordinate id ranges in /etc/subuid and /etc/subgid must reach that far",
    )
