"""Empty files and directories made in an image to mount upon, and taking them out of its changes again.

The upper directory of a RUN is empty at first, as a rule. What is made for a mount, and the directories above it that
overlayfs copies up for that, are noted with their inodes and times; afterwards whatever still is as it was
made disappears, so that no trace gets into the layer. Removing goes by directory descriptors and never
through a link: the RUN had its hands on this tree.
"""

import errno
import os
import posixpath
import stat
from contextlib import suppress

import msgspec

from pybuild.sandbox import syscalls
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.syscalls import RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS
from pybuild.tree.notes import OWNER_XATTR

MAX_KEPT = 4 << 20
"""Largest file that is remembered while another one is lent in its place, in bytes."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_MAX_LINKS = 40
_MAX_DEPTH = 200


class Lent(msgspec.Struct):
    """A file with content of ours at `path` below the upper directory.

    `before` is the content of what it hides, b"" when that is nothing, no regular file or too large to be kept.
    """

    path: bytes
    inode: int
    content: bytes
    before: bytes


class Made(msgspec.Struct):
    """`files` and `directories` are (path below the upper directory, inode) of what was made.

    `parents` are (path, mode, uid, gid, mtime in ns) of directories that were there before. `aside` are (path, name
    in the directory for such) of what was replaced.
    """

    files: list[tuple[bytes, int]] = []
    directories: list[tuple[bytes, int]] = []
    parents: list[tuple[bytes, int, int, int, int]] = []
    lent: list[Lent] = []
    aside: list[tuple[bytes, bytes]] = []


class Stubs:
    """Makes places to mount upon in the merged tree `root`, whose changes go to `upper`; both stay the caller's.

    Where both are the same tree, `aside` is a directory for what is replaced: nothing lies below to show up again.
    """

    def __init__(self, root: int, upper: int, aside: int | None = None) -> None:
        self._root = root
        self._upper = upper
        self._aside = aside
        self.made = Made()
        self._device = os.fstat(root).st_dev
        self._times: dict[bytes, int] = {}
        self._touched: set[bytes] = set()

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
                    self._take_away(self._note_parent(directory), directory, name)
                    self._make_file(directory, name)
            return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        finally:
            os.close(directory)

    def has(self, target: bytes) -> bool:
        """Does the tree have something there, links followed inside of it?"""
        try:
            os.close(syscalls.openat2(self._root, target, os.O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS))
        except OSError:
            return False
        return True

    def lend(self, target: bytes, content: bytes, mode: int) -> None:
        """Put a file at a target, as `file` finds it, in the place of what is there."""
        parent, _, name = target.strip(b"/").rpartition(b"/")
        directory = self._directory(parent)
        try:
            within = self._note_parent(directory)
            before = _content(name, directory)
            with suppress(FileNotFoundError):
                self._take_away(within, directory, name)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=directory)
            try:
                _write_all(fd, content)
                os.fchmod(fd, mode)
            finally:
                os.close(fd)
        finally:
            os.close(directory)
        path = within + b"/" + name if within else name
        inode = os.stat(path, dir_fd=self._upper, follow_symlinks=False).st_ino
        self.made.lent.append(Lent(path, inode, content, before))

    def _take_away(self, within: bytes, directory: int, name: bytes) -> None:
        if self._aside is None:
            os.unlink(name, dir_fd=directory)
            return
        path = within + b"/" + name if within else name
        kept = b"%d" % len(self.made.aside)
        # By the way the tree is reached outside of the root: a rename stays in one mount
        os.rename(path, kept, src_dir_fd=self._upper, dst_dir_fd=self._aside)
        self.made.aside.append((path, kept))

    def place(self, target: bytes, *, directory: bool) -> int:
        """Return a descriptor of a directory or file to mount upon, all links followed inside the image.

        What is missing is made, and noted unless it is in something else that is mounted there. Raises OSError, and
        SandboxError for what is of the other kind.
        """
        path = target.strip(b"/")
        if path.count(b"/") > _MAX_DEPTH:
            raise SandboxError(f"target of a mount is too deep: {os.fsdecode(target):.100}...")
        for _ in range(_MAX_LINKS):
            try:
                found = syscalls.openat2(self._root, path, os.O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
            except FileNotFoundError:
                path = self._make_missing(path, directory=directory)
                continue
            if stat.S_ISDIR(os.fstat(found).st_mode) != directory:
                os.close(found)
                is_, not_ = ("no directory", "a directory is") if directory else ("a directory", "a file is")
                raise SandboxError(f"{not_} to be mounted on what is {is_}: {os.fsdecode(target)}")
            return found
        raise SandboxError(f"too many symbolic links: {os.fsdecode(target)}")

    def _make_missing(self, path: bytes, *, directory: bool) -> bytes:
        """Make what is missing at `path`, or follow a link that leads nowhere; return where to look then."""
        above, _, name = path.rpartition(b"/")
        parent = self.place(above, directory=True) if above else os.dup(self._root)
        try:
            try:
                link = os.readlink(name, dir_fd=parent)
            except FileNotFoundError:
                self._make(parent, name, directory=directory)
                return path
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # No link: somebody else has made it meanwhile, in a directory that is shared
                return path
            within = self.path_of(parent)
            return posixpath.normpath(posixpath.join(b"/", within, link)).strip(b"/")
        finally:
            os.close(parent)

    def _make(self, parent: int, name: bytes, *, directory: bool) -> None:
        if self._is_other_mount(parent):
            # In another mount, whose own it becomes, and where others may be as fast
            with suppress(FileExistsError):
                if directory:
                    os.mkdir(name, 0o755, dir_fd=parent)
                else:
                    os.close(os.open(name, _NEW_FILE, 0o644, dir_fd=parent))
        elif directory:
            self._make_directory(parent, name)
        else:
            self._make_file(parent, name, link=False)

    def _is_other_mount(self, fd: int) -> bool:
        if os.fstat(fd).st_dev != self._device:
            return True
        # A tree that is no overlay is on the same device as caches are
        return self._aside is not None and _mount_id(fd) != _mount_id(self._root)

    def path_of(self, fd: int) -> bytes:
        """Return the path of something below the root, without links."""
        root = os.readlink(b"/proc/self/fd/%d" % self._root)
        return os.readlink(b"/proc/self/fd/%d" % fd).removeprefix(root).strip(b"/")

    def settle(self) -> None:
        """Give directories the times they had before something was made in them. Before they are hidden by a mount."""
        for path in self._touched:
            mtime = self._times[path]
            fd = syscalls.openat2(self._root, path or b".", _DIRECTORY, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
            os.utime(fd, ns=(mtime, mtime))
            os.close(fd)
        self._touched.clear()

    def _make_file(self, directory: int, name: bytes, *, link: bool = True) -> None:
        path = self._note_parent(directory)
        if self.made.files and link:
            # Names are cheaper than inodes, and what is mounted hides that they share one
            os.link(self.made.files[0][0], name, src_dir_fd=self._root, dst_dir_fd=directory, follow_symlinks=False)
        else:
            os.close(os.open(name, _NEW_FILE, 0o644, dir_fd=directory))
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
            self._make_directory(parent, name)
        finally:
            os.close(parent)
        return syscalls.openat2(self._root, path, _DIRECTORY, resolve)

    def _make_directory(self, parent: int, name: bytes) -> None:
        within = self._note_parent(parent)
        os.mkdir(name, 0o755, dir_fd=parent)
        made = within + b"/" + name if within else name
        self.made.directories.append((made, os.stat(made, dir_fd=self._upper, follow_symlinks=False).st_ino))

    def _note_parent(self, directory: int) -> bytes:
        """Remember a directory as it is before something is made in it; return its path without links."""
        path = self.path_of(directory)
        self._touched.add(path)
        above = path
        # Those further up are copied to the upper directory along with it
        while above not in self._times:
            state = os.stat(above or b".", dir_fd=self._root, follow_symlinks=False)
            self._times[above] = state.st_mtime_ns
            self._touched.add(above)
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


def _mount_id(fd: int) -> bytes:
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        return next(line for line in file if line.startswith(b"mnt_id:"))


def remove_stubs(upper: int, made: Made) -> set[bytes]:
    """Take out of the upper directory what was made in it and is still as it was made; return the files' paths."""
    gone: set[bytes] = set()
    for item in made.lent:
        with _Parent(upper, item.path) as parent:
            if _take_back(parent, item):
                gone.add(item.path)
    for path, inode in reversed(made.files):
        with _Parent(upper, path) as parent:
            state = parent.state()
            if state is not None and stat.S_ISREG(state.st_mode) and state.st_ino == inode and state.st_size == 0:
                parent.unlink()
                gone.add(path)
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
    return gone


def put_back(upper: int, path: bytes, aside: int, name: bytes) -> None:
    """Put what was replaced at `path`, and is kept in the directory `aside`, where it was."""
    with _Parent(upper, path) as parent:
        if parent.state() is None:
            parent.take(aside, name)


def _take_back(parent: "_Parent", item: Lent) -> bool:
    """Remove a file that was lent, and tell so.

    What a RUN has written behind our content goes behind what was there before.
    """
    state = parent.state()
    if state is None or not stat.S_ISREG(state.st_mode) or state.st_ino != item.inode:
        # The RUN has removed it, or put its own there
        return False
    fd = parent.open(os.O_RDWR)
    try:
        now = os.pread(fd, len(item.content), 0)
        if now != item.content:
            return False
        if state.st_size == len(now):
            parent.unlink()
            return True
        rest = os.pread(fd, state.st_size - len(now), len(now))
        os.ftruncate(fd, 0)
        _write_all(fd, item.before + rest)
        os.utime(fd, ns=(state.st_atime_ns, state.st_mtime_ns))
        return False
    finally:
        os.close(fd)


def _content(name: bytes, directory: int) -> bytes:
    """Return the content of a file, b"" for what is not there, no file or too large."""
    try:
        state = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return b""
    if stat.S_ISDIR(state.st_mode):
        raise SandboxError(f"the image has a directory where a file belongs: {os.fsdecode(name)}")
    if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_KEPT:
        return b""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.pread(fd, state.st_size, 0)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


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

    def open(self, flags: int) -> int:
        """Return a descriptor of the file of that name."""
        return os.open(self._name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)

    def take(self, directory: int, name: bytes) -> None:
        """Move something of another directory to this name."""
        before = os.fstat(self._fd)
        os.rename(name, self._name, src_dir_fd=directory, dst_dir_fd=self._fd)
        os.utime(self._fd, ns=(before.st_atime_ns, before.st_mtime_ns))

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
