"""Empty files and directories made in an image to mount upon, and taking them out of its changes again.

The upper directory of a RUN is empty at first, as a rule. What is made for a mount, and the directories above it that
overlayfs copies up for that, are noted with their inodes and times; afterwards whatever still is as it was
made disappears, so that no trace gets into the layer. Removing goes by directory descriptors and never
through a link: the RUN had its hands on this tree.
"""

import errno
import os
import stat

import msgspec

from pybuild.sandbox import syscalls
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.syscalls import RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS
from pybuild.tree.notes import OWNER_XATTR

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class Made(msgspec.Struct):
    """`files` and `directories` are (path below the upper directory, inode) of what was made.

    `parents` are (path, mode, uid, gid, mtime in ns) of directories that were there before.
    """

    files: list[tuple[bytes, int]] = []
    directories: list[tuple[bytes, int]] = []
    parents: list[tuple[bytes, int, int, int, int]] = []


class Stubs:
    """Makes places to mount upon in the merged tree `root`, whose changes go to `upper`; both stay the caller's."""

    def __init__(self, root: int, upper: int) -> None:
        self._root = root
        self._upper = upper
        self.made = Made()
        self._known: set[bytes] = set()
        self._times: list[tuple[bytes, int]] = []

    def keep_directory(self, name: bytes) -> None:
        """Make a directory in the root if it is missing; it becomes part of the layer, as with other builders."""
        try:
            os.mkdir(name, 0o755, dir_fd=self._root)
        except FileExistsError:
            state = os.stat(name, dir_fd=self._root, follow_symlinks=False)
            if not stat.S_ISDIR(state.st_mode):
                raise SandboxError(f"the image's /{name.decode()} is not a directory") from None

    def file(self, target: bytes) -> int:
        """Return a descriptor of the file to mount upon, made if missing, its missing directories too.

        Links among the directories are followed inside the image. A link in the last place is not: it may
        lead to what does not exist. A file takes its place until the end.
        """
        parent, _, name = target.strip(b"/").rpartition(b"/")
        directory = self._directory(parent)
        try:
            try:
                state = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                self._make_file(directory, name)
            else:
                if stat.S_ISDIR(state.st_mode):
                    raise SandboxError(f"the image has a directory where a file belongs: {os.fsdecode(target)}")
                if stat.S_ISLNK(state.st_mode):
                    self._note_parent(directory)
                    os.unlink(name, dir_fd=directory)
                    self._make_file(directory, name)
            return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        finally:
            os.close(directory)

    def settle(self) -> None:
        """Give directories the times they had before something was made in them."""
        for path, mtime in self._times:
            fd = syscalls.openat2(self._root, path or b".", _DIRECTORY, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
            os.utime(fd, ns=(mtime, mtime))
            os.close(fd)

    def _make_file(self, directory: int, name: bytes) -> None:
        path = self._note_parent(directory)
        if self.made.files:
            # Names are cheaper than inodes, and what is mounted hides that they share one
            os.link(self.made.files[0][0], name, src_dir_fd=self._root, dst_dir_fd=directory, follow_symlinks=False)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=directory))
        path = path + b"/" + name if path else name
        self.made.files.append((path, os.stat(path, dir_fd=self._upper, follow_symlinks=False).st_ino))

    def _directory(self, path: bytes) -> int:
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
        try:
            return syscalls.openat2(self._root, path or b".", _DIRECTORY, resolve)
        except FileNotFoundError:
            above, _, name = path.rpartition(b"/")
            parent = self._directory(above)
        try:
            within = self._note_parent(parent)
            os.mkdir(name, 0o755, dir_fd=parent)
            made = within + b"/" + name if within else name
            self.made.directories.append((made, os.stat(made, dir_fd=self._upper, follow_symlinks=False).st_ino))
        finally:
            os.close(parent)
        return syscalls.openat2(self._root, path, _DIRECTORY, resolve)

    def _note_parent(self, directory: int) -> bytes:
        """Remember a directory as it is before something is made in it; return its path without links."""
        root = os.readlink(b"/proc/self/fd/%d" % self._root)
        path = os.readlink(b"/proc/self/fd/%d" % directory).removeprefix(root).strip(b"/")
        above = path
        # Those further up are copied to the upper directory along with it
        while above not in self._known:
            self._known.add(above)
            state = os.stat(above or b".", dir_fd=self._root, follow_symlinks=False)
            self._times.append((above, state.st_mtime_ns))
            if not self._is_changed(above):
                self.made.parents.append(
                    (above, stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid, state.st_mtime_ns)
                )
            above = above.rpartition(b"/")[0]
        return path

    def _is_changed(self, directory: bytes) -> bool:
        """Does a directory belong to the changes already, as those of a failed RUN that goes on?"""
        try:
            os.stat(directory or b".", dir_fd=self._upper, follow_symlinks=False)
        except OSError:
            return False
        return True


def remove_stubs(upper: int, made: Made) -> None:
    """Take out of the upper directory what was made in it and is still as it was made."""
    for path, inode in reversed(made.files):
        with _Parent(upper, path) as parent:
            state = parent.state()
            if state is not None and stat.S_ISREG(state.st_mode) and state.st_ino == inode and state.st_size == 0:
                parent.unlink()
    for path, inode in reversed(made.directories):
        with _Parent(upper, path) as parent:
            state = parent.state()
            if state is not None and stat.S_ISDIR(state.st_mode) and state.st_ino == inode:
                parent.rmdir()
    # Deepest first: a directory that was only copied up for what was in it is empty by now
    for path, *before in sorted(made.parents, key=lambda row: row[0].count(b"/"), reverse=True):
        if not path:
            continue
        with _Parent(upper, path) as parent:
            state = parent.state()
            if state is not None and stat.S_ISDIR(state.st_mode):
                now = [stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid, state.st_mtime_ns]
                # What overlayfs copied up has no note that was not there before: only a RUN may have changed it
                if now == before and not parent.has_note():
                    parent.rmdir()


class _Parent:
    """The directory that holds a path of the upper tree; its times are kept while a name is taken out of it."""

    def __init__(self, upper: int, path: bytes) -> None:
        above, _, self._name = path.rpartition(b"/")
        self._fd = -1
        try:
            self._fd = syscalls.openat2(upper, above or b".", _DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except OSError:
            # Moved or replaced by the RUN: what is there now is its own
            return

    def __enter__(self) -> "_Parent":
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def has_note(self) -> bool:
        """Is an owner noted on the directory of that name?"""
        try:
            fd = os.open(self._name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError:
            return False
        try:
            return os.fsdecode(OWNER_XATTR) in os.listxattr(fd)
        finally:
            os.close(fd)

    def state(self) -> os.stat_result | None:
        if self._fd < 0:
            return None
        try:
            return os.stat(self._name, dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return None

    def unlink(self) -> None:
        before = os.fstat(self._fd)
        os.unlink(self._name, dir_fd=self._fd)
        os.utime(self._fd, ns=(before.st_atime_ns, before.st_mtime_ns))

    def rmdir(self) -> None:
        """Remove it if it is empty."""
        before = os.fstat(self._fd)
        try:
            os.rmdir(self._name, dir_fd=self._fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return
        os.utime(self._fd, ns=(before.st_atime_ns, before.st_mtime_ns))
