"""Unpacking untrusted layers and contexts below a directory, never outside of it and never through a link.

Every name is made in its parent's descriptor, and a parent is opened component by component with O_NOFOLLOW:
a path has no `..`, so there is no way out whatever the archive made before.
"""

import errno
import os
import stat
from collections.abc import Sequence
from typing import Literal

import msgspec

from pybuild.layer.errors import LayerError, from_os, shown
from pybuild.layer.limits import DEFAULT_LIMITS, Limits
from pybuild.layer.names import CAPABILITY, OPAQUE_MARKER, OVERLAY_OPAQUE, marked_name
from pybuild.layer.remove import remove_tree
from pybuild.layer.tarreader import Member, Readable, members
from pybuild.tree.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry
from pybuild.tree.notes import LINK_XATTR, NODE_XATTR, OWNER_XATTR, link_note, node_note, owner_note

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_DIRECTORY = (errno.ENOTDIR, errno.ELOOP)
_SMALL = 256 << 10
_OPEN_DIRECTORIES = 48
"""How many directories stay open: archives go through trees, so the next parent is one of the last."""


class Rules(msgspec.Struct, frozen=True):
    """How entries become files.

    `whiteouts`: "overlay" keeps deletions as overlayfs marks them, for which the directory must be empty at
    first; "delete" carries them out on what earlier layers left; "none" takes the names as they are.
    `owners`: "real" sets them, "xattr" notes them on files and directories where only one id is mapped, "none"
    leaves them, devices and extended attributes out and keeps all readable for the user, as for a context.
    """

    whiteouts: Literal["overlay", "delete", "none"] = "overlay"
    owners: Literal["real", "xattr", "none"] = "real"


SNAPSHOT = Rules()


def apply_layer(
    stream: Readable,
    dest_fd: int,
    rules: Rules = SNAPSHOT,
    limits: Limits = DEFAULT_LIMITS,
    *,
    parents: Sequence[Entry] = (),
) -> None:
    """Unpack an uncompressed layer below the directory `dest_fd`.

    Directories the layer leaves out look like the entry of that path in `parents`, or are 0755 and root's.
    Devices become empty files with an attribute that tells which (`pack` turns them back). Raises LayerError
    for a malformed archive or what the file system refuses; what was unpacked until then stays.
    """
    target = _Target(dest_fd, rules, parents)
    try:
        for member in members(stream, limits):
            try:
                target.add(member)
            except OSError as error:
                raise from_os(error, "unpack", member.entry.path) from error
        target.finish()
    finally:
        target.close()


def extract_context(stream: Readable, dest_fd: int, limits: Limits = DEFAULT_LIMITS) -> None:
    """Unpack a build context that was sent into a private directory: the caller can read all of it.

    Symlinks stay what they are, fifos too, devices are skipped; nothing has a special meaning by its name.
    """
    apply_layer(stream, dest_fd, Rules("none", "none"), limits)


class _Target:
    """The tree being made."""

    def __init__(self, root_fd: int, rules: Rules, parents: Sequence[Entry]) -> None:
        self._root = root_fd
        self._rules = rules
        self._overlay = rules.whiteouts == "overlay"
        self._markers = rules.whiteouts != "none"
        self._real = rules.owners == "real"
        self._bare = rules.owners == "none"
        self._parents = {entry.path: entry for entry in parents if entry.type == DIR}
        # Open directories by path, the latest last
        self._open: dict[bytes, int] = {}
        # What is set at the end, for each later entry changes the time, and a mode may keep us out
        self._directories: dict[bytes, Entry] = {}
        # What this layer made, which its own whiteouts are not about
        self._made: set[bytes] | None = {b""} if rules.whiteouts == "delete" else None
        if self._overlay:
            # A staging directory is made for its maker only, but the root is everybody's
            self._directories[b""] = self._parents.get(b"") or Entry(path=b"", type=DIR, mode=0o755)

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def finish(self) -> None:
        """Give directories their metadata, deepest first: above ones may become unreachable."""
        for path in sorted(self._directories, reverse=True):
            entry = self._directories[path]
            try:
                fd = self._directory_fd(path)
                self._metadata(fd, entry, entry.mode | 0o700 if self._bare else entry.mode)
            except OSError as error:
                raise from_os(error, "unpack", path) from error

    def add(self, member: Member) -> None:
        entry = member.entry
        path = entry.path
        if self._markers:
            marked = marked_name(path)
            if marked is not None:
                if marked:
                    self._whiteout(path, marked)
                return
        kind = entry.type
        if not path:
            self._directories[path] = entry
            return
        directory, _, name = path.rpartition(b"/")
        fd = self._open.get(directory, -1)
        if fd < 0:
            fd = self._directory_fd(directory)
        if kind == FILE:
            self._file(fd, name, member)
        elif kind == DIR:
            self._make_directory(fd, name, entry)
        elif kind == HARDLINK:
            self._link(fd, name, entry)
        elif kind == SYMLINK:
            self._clear(fd, name, path)
            os.symlink(entry.link, name, dir_fd=fd)
            if self._real:
                self._own(fd, name, entry)
            elif not self._bare:
                self._note(fd, name, entry)
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=fd, follow_symlinks=False)
        elif kind == FIFO:
            self._clear(fd, name, path)
            self._fifo(fd, name, entry)
        elif self._bare:
            return
        else:
            self._device(fd, name, entry)
        if self._made is not None:
            while path not in self._made:
                self._made.add(path)
                path = path.rpartition(b"/")[0]

    # Directories

    def _directory_fd(self, path: bytes) -> int:
        """Return a descriptor of a directory, made if it is missing; it stays ours."""
        if not path:
            return self._root
        fd = self._open.pop(path, -1)
        if fd < 0:
            # Not recursive: the depth is the archive's to choose
            above, missing = path, [path]
            while (above := above.rpartition(b"/")[0]) and above not in self._open:
                missing.append(above)
            fd = self._open[above] if above else self._root
            for below in reversed(missing):
                fd = self._enter(fd, below)
                self._keep(below, fd)
        else:
            self._open[path] = fd
        return fd

    def _keep(self, path: bytes, fd: int) -> None:
        self._open[path] = fd
        if len(self._open) > _OPEN_DIRECTORIES:
            oldest = next(iter(self._open))
            os.close(self._open.pop(oldest))

    def _enter(self, fd: int, path: bytes) -> int:
        name = path.rpartition(b"/")[2]
        try:
            return os.open(name, _DIRECTORY, dir_fd=fd)
        except OSError as error:
            if error.errno not in (errno.ENOENT, *_NO_DIRECTORY):
                raise
        self._new_directory(fd, name)
        entry = self._parents.get(path)
        self._directories[path] = entry or Entry(path=path, type=DIR, mode=0o755)
        return os.open(name, _DIRECTORY, dir_fd=fd)

    def _new_directory(self, fd: int, name: bytes) -> None:
        """Make a directory in the place of anything else."""
        hidden = False
        try:
            os.mkdir(name, 0o700, dir_fd=fd)
        except FileExistsError:
            hidden = self._overlay and _is_whiteout(os.stat(name, dir_fd=fd, follow_symlinks=False))
            os.unlink(name, dir_fd=fd)
            os.mkdir(name, 0o700, dir_fd=fd)
        if hidden:
            self._mark_opaque(fd, name)

    def _make_directory(self, fd: int, name: bytes, entry: Entry) -> None:
        path = entry.path
        if path not in self._directories:
            try:
                os.mkdir(name, 0o700, dir_fd=fd)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                    self._new_directory(fd, name)
                elif self._made is not None:
                    self._strip(fd, name)
        self._directories[path] = entry

    def _strip(self, fd: int, name: bytes) -> None:
        """Take the attributes away that an earlier layer gave a directory: this layer's replace them all."""
        inner = os.open(name, _DIRECTORY, dir_fd=fd)
        try:
            for key in os.listxattr(inner):
                if key.startswith("user."):
                    os.removexattr(inner, key)
        finally:
            os.close(inner)

    def _mark_opaque(self, fd: int, name: bytes) -> None:
        inner = os.open(name, _DIRECTORY, dir_fd=fd)
        try:
            os.setxattr(inner, OVERLAY_OPAQUE, b"y")
        finally:
            os.close(inner)

    def _clear(self, fd: int, name: bytes, path: bytes) -> None:
        """Make room for an entry that is no directory: the last of several with one name counts."""
        try:
            os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            self._remove_directory(fd, name, path)

    def _remove_directory(self, fd: int, name: bytes, path: bytes) -> None:
        prefix = path[: len(path) - len(name)]

        def forget(relative: bytes) -> None:
            gone = prefix + relative
            self._directories.pop(gone, None)
            held = self._open.pop(gone, -1)
            if held >= 0:
                os.close(held)

        remove_tree(fd, name, removed=forget)

    # Files and the rest

    def _file(self, fd: int, name: bytes, member: Member) -> None:
        entry = member.entry
        try:
            out = os.open(name, _CREATE, 0o600, dir_fd=fd)
        except FileExistsError:
            self._clear(fd, name, entry.path)
            out = os.open(name, _CREATE, 0o600, dir_fd=fd)
        try:
            size = entry.size
            if size <= _SMALL:
                data = member.read()
                written = os.write(out, data) if data else 0
                while written < size:
                    written += os.write(out, data[written:])
            else:
                for chunk in member.chunks():
                    while chunk:
                        chunk = chunk[os.write(out, chunk) :]
            self._metadata(out, entry, entry.mode | 0o400 if self._bare else entry.mode)
        finally:
            os.close(out)

    def _metadata(self, fd: int, entry: Entry, mode: int) -> None:
        # The owner comes first: a change of it takes set-id bits and capabilities away
        if self._real:
            try:
                os.fchown(fd, entry.uid, entry.gid)
            except OSError as error:
                raise _unmapped(error, entry) from error
        elif not self._bare and (entry.uid or entry.gid):
            os.setxattr(fd, OWNER_XATTR, owner_note(entry.uid, entry.gid))
        if entry.xattrs and not self._bare:
            for key, value in entry.xattrs.items():
                self._xattr(fd, key, value)
        os.fchmod(fd, mode)
        os.utime(fd, ns=(entry.mtime, entry.mtime))

    def _xattr(self, fd: int, key: bytes, value: bytes) -> None:
        try:
            os.setxattr(fd, key, value)
        except OSError as error:
            # A plain user, who cannot run a file with more rights than his own either, may not set these
            if key == CAPABILITY and error.errno == errno.EPERM and not self._real:
                return
            raise

    def _own(self, fd: int, name: bytes, entry: Entry) -> None:
        try:
            os.chown(name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            raise _unmapped(error, entry) from error

    def _note(self, fd: int, name: bytes, entry: Entry) -> None:
        """Note the owner of what is neither file nor directory."""
        if entry.uid or entry.gid:
            path = b"/proc/self/fd/%d/%b" % (fd, name)
            try:
                os.setxattr(path, LINK_XATTR, link_note(entry.uid, entry.gid), follow_symlinks=False)
            except OSError as error:
                # A plain user outside of a namespace may not
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                    raise

    def _fifo(self, fd: int, name: bytes, entry: Entry) -> None:
        os.mkfifo(name, 0o600, dir_fd=fd)
        # To open one for reading does not wait with O_NONBLOCK. User attributes are not for fifos (xattr(7)).
        inner = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            if self._real:
                try:
                    os.fchown(inner, entry.uid, entry.gid)
                except OSError as error:
                    raise _unmapped(error, entry) from error
            elif not self._bare:
                self._note(fd, name, entry)
            os.fchmod(inner, entry.mode)
            os.utime(inner, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(inner)

    def _device(self, fd: int, name: bytes, entry: Entry) -> None:
        """No real device is ever made: an empty file notes which one it stands for."""
        self._clear(fd, name, entry.path)
        out = os.open(name, _CREATE, 0o600, dir_fd=fd)
        try:
            os.setxattr(out, NODE_XATTR, node_note({CHAR: "c", BLOCK: "b"}[entry.type], *entry.rdev))
            self._metadata(out, entry, entry.mode)
        finally:
            os.close(out)

    def _link(self, fd: int, name: bytes, entry: Entry) -> None:
        directory, _, target = entry.link.rpartition(b"/")
        nothing = LayerError(f"hard link to a file that is not in the layer: `{shown(entry.link)}`")
        if entry.link == entry.path:
            try:
                state = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                raise nothing from None
            if self._overlay and _is_whiteout(state):
                raise nothing
            return
        self._clear(fd, name, entry.path)
        source = self._existing_fd(directory)
        if source is None:
            raise nothing
        try:
            state = os.stat(target, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(state.st_mode) or (self._overlay and _is_whiteout(state)):
                raise nothing
            os.link(target, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError as error:
            raise nothing from error
        finally:
            os.close(source)

    def _existing_fd(self, path: bytes) -> int | None:
        """Return a new descriptor of a directory, None when there is none without following a link."""
        fd = os.dup(self._open.get(path, self._root))
        if path in self._open or not path:
            return fd
        for name in path.split(b"/"):
            try:
                inner = os.open(name, _DIRECTORY, dir_fd=fd)
            except OSError as error:
                if error.errno in (errno.ENOENT, *_NO_DIRECTORY):
                    return None
                raise
            finally:
                os.close(fd)
            fd = inner
        return fd

    # Whiteouts

    def _whiteout(self, path: bytes, marked: bytes) -> None:
        directory, slash, _ = path.rpartition(b"/")
        fd = self._directory_fd(directory)
        if marked == OPAQUE_MARKER:
            if self._overlay:
                os.setxattr(fd, OVERLAY_OPAQUE, b"y")
            else:
                self._prune(directory)
            return
        hidden = directory + slash + marked
        try:
            state = os.stat(marked, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            if self._overlay:
                # The one device anybody may make in a user namespace of their own
                os.mknod(marked, stat.S_IFCHR, 0, dir_fd=fd)
            return
        if self._overlay:
            # Already there, so of this very layer: only what lower layers have below it is meant
            if stat.S_ISDIR(state.st_mode):
                self._mark_opaque(fd, marked)
        elif self._made is not None and hidden in self._made:
            if stat.S_ISDIR(state.st_mode):
                self._prune(hidden)
        else:
            self._clear(fd, marked, hidden)

    def _prune(self, directory: bytes) -> None:
        """Remove what earlier layers left in a directory, at any depth."""
        made = self._made or set()
        pending = [directory]
        while pending:
            path = pending.pop()
            fd = self._directory_fd(path)
            with os.scandir(fd) as listing:
                found = [(os.fsencode(item.name), item.is_dir(follow_symlinks=False)) for item in listing]
            for name, is_directory in found:
                below = path + b"/" + name if path else name
                if below not in made:
                    self._clear(fd, name, below)
                elif is_directory:
                    pending.append(below)


def _is_whiteout(state: os.stat_result) -> bool:
    return stat.S_ISCHR(state.st_mode) and state.st_rdev == 0


def _unmapped(error: OSError, entry: Entry) -> LayerError:
    if error.errno not in (errno.EINVAL, errno.EPERM):
        return from_os(error, "unpack", entry.path)
    return LayerError(
        f"cannot make {entry.uid}:{entry.gid} the owner, an id that is not mapped: `{shown(entry.path)}`",
        "the ranges of subordinate ids in /etc/subuid and /etc/subgid must reach that far",
    )
