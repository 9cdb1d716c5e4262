"""Copies of trees inside a file system: by reference where it can (ioctl_ficlone(2)), else byte by byte.

To be done inside the user namespace that owns the files, on trees at rest.
"""

import errno
import fcntl
import os
import stat

from pybuild.layer.errors import LayerError
from pybuild.layer.walk import OPEN_DIRECTORY, Walk

_FICLONE = 0x40049409
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_REFERENCE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF, errno.EPERM)
_NO_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)
_BLOCK = 1 << 20
_ASIDE = b".pybuild-parted"


def copy_any(fd: int, name: bytes, into: int, new: bytes) -> None:
    """Copy a name in one directory to a new name in another, with all below it; b"." is the directory itself."""
    state = os.stat(name, dir_fd=fd, follow_symlinks=False)
    if not stat.S_ISDIR(state.st_mode):
        copy_name(fd, name, into, new, state)
        return
    os.mkdir(new, 0o700, dir_fd=into)
    source = os.open(name, OPEN_DIRECTORY, dir_fd=fd)
    dest = os.open(new, OPEN_DIRECTORY, dir_fd=into)
    try:
        clone_tree(source, dest)
    finally:
        os.close(source)
        os.close(dest)


def has_references(directory: int) -> bool:
    """Can files in this directory share their content? Tried with two files that have no name."""
    try:
        one, other = (os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory) for _ in "ab")
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
        return False
    try:
        os.write(one, bytes(4096))
        return _by_reference(one, other)
    finally:
        os.close(one)
        os.close(other)


def clone_tree(source: int, dest: int) -> None:
    """Copy what is in the directory `source`, and its own metadata, into the empty one `dest`; raise LayerError."""
    walk = _Cloning(dest)
    walk.walk(source)
    walk.finish(source)


class _Cloning(Walk):
    doing = "copy"

    def __init__(self, dest: int) -> None:
        self._dest = dest
        self._links: dict[tuple[int, int], bytes] = {}
        self._directories: list[tuple[bytes, os.stat_result]] = []
        self._near = (b"", dest)

    def _add(self, fd: int, name: bytes, path: bytes) -> int | None:
        state = os.stat(name, dir_fd=fd, follow_symlinks=False)
        into = self._parent(path)
        if stat.S_ISDIR(state.st_mode):
            os.mkdir(name, 0o700, dir_fd=into)
            self._directories.append((path, state))
            inner = os.open(name, OPEN_DIRECTORY, dir_fd=fd)
            made = os.open(name, OPEN_DIRECTORY, dir_fd=into)
            copy_attributes(inner, made)
            os.close(made)
            return inner
        key = (state.st_dev, state.st_ino)
        if state.st_nlink > 1 and key in self._links:
            above, _, first = self._links[key].rpartition(b"/")
            other = open_below(self._dest, above)
            os.link(first, name, src_dir_fd=other, dst_dir_fd=into, follow_symlinks=False)
            os.close(other)
            return None
        self._links[key] = path
        copy_name(fd, name, into, name, state)
        return None

    def _parent(self, path: bytes) -> int:
        above = path.rpartition(b"/")[0]
        if above != self._near[0]:
            self.close()
            self._near = (above, open_below(self._dest, above))
        return self._near[1]

    def close(self) -> None:
        """Close what is open."""
        if self._near[0]:
            os.close(self._near[1])
        self._near = (b"", self._dest)

    def finish(self, source: int) -> None:
        """Give directories their metadata, deepest first: above ones may become unreachable, and change until then."""
        self.close()
        for path, state in reversed(self._directories):
            fd = open_below(self._dest, path)
            _settle(fd, state)
            os.close(fd)
        copy_attributes(source, self._dest)
        _settle(self._dest, os.fstat(source))


def open_below(root: int, path: bytes) -> int:
    """Return a new descriptor of a directory below `root`, no link followed."""
    fd = os.dup(root)
    for name in path.split(b"/") if path else ():
        try:
            inner = os.open(name, OPEN_DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def copy_name(fd: int, name: bytes, into: int, new: bytes, state: os.stat_result) -> None:
    """Copy what is no directory, with owner, mode, times and attributes. Sockets are left out."""
    kind = stat.S_IFMT(state.st_mode)
    if kind == stat.S_IFREG:
        _copy_file(fd, name, into, new, state)
        return
    if kind == stat.S_IFSOCK:
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=fd), new, dir_fd=into)
    elif kind == stat.S_IFIFO:
        os.mkfifo(new, 0o600, dir_fd=into)
    else:
        os.mknod(new, kind | 0o600, state.st_rdev, dir_fd=into)
    os.chown(new, state.st_uid, state.st_gid, dir_fd=into, follow_symlinks=False)
    here, there = (b"/proc/self/fd/%d/%b" % place for place in ((fd, name), (into, new)))
    for key in filter(_is_copied, os.listxattr(here, follow_symlinks=False)):
        os.setxattr(there, key, os.getxattr(here, key, follow_symlinks=False), follow_symlinks=False)
    if kind != stat.S_IFLNK:
        os.chmod(new, stat.S_IMODE(state.st_mode), dir_fd=into)
    os.utime(new, ns=(state.st_atime_ns, state.st_mtime_ns), dir_fd=into, follow_symlinks=False)


def _copy_file(fd: int, name: bytes, into: int, new: bytes, state: os.stat_result) -> None:
    inner = os.open(name, _READ, dir_fd=fd)
    try:
        out = os.open(new, _CREATE, 0o600, dir_fd=into)
        try:
            if state.st_size and not _by_reference(inner, out):
                _copy_content(inner, out, state.st_size)
            # The owner comes first: a change of it takes set-id bits and capabilities away
            os.fchown(out, state.st_uid, state.st_gid)
            copy_attributes(inner, out)
            os.fchmod(out, stat.S_IMODE(state.st_mode))
            os.utime(out, ns=(state.st_atime_ns, state.st_mtime_ns))
        finally:
            os.close(out)
    finally:
        os.close(inner)


def _settle(fd: int, state: os.stat_result) -> None:
    os.fchown(fd, state.st_uid, state.st_gid)
    os.fchmod(fd, stat.S_IMODE(state.st_mode))
    os.utime(fd, ns=(state.st_atime_ns, state.st_mtime_ns))


def copy_attributes(source: int, dest: int) -> None:
    """Copy extended attributes between descriptors. Labels of security modules are those of the new place."""
    for key in filter(_is_copied, os.listxattr(source)):
        os.setxattr(dest, key, os.getxattr(source, key))


def _is_copied(key: str) -> bool:
    return key.startswith("user.") or key == "security.capability"


def _by_reference(source: int, dest: int) -> bool:
    try:
        fcntl.ioctl(dest, _FICLONE, source)
    except OSError as error:
        if error.errno not in _NO_REFERENCE:
            raise
        return False
    return True


def _copy_content(source: int, dest: int, size: int) -> None:
    done = 0
    try:
        while done < size and (count := os.copy_file_range(source, dest, size - done)):
            done += count
    except OSError as error:
        if error.errno not in _NO_COPY or done:
            raise
        while block := os.read(source, _BLOCK):
            view = memoryview(block)
            while view:
                view = view[os.write(dest, view) :]
            done += len(block)
    if done != size:
        raise LayerError("a file changed while it was copied")


def part_links(root: int, names: list[bytes]) -> None:
    """Make each of these hard links of one file, but the first, a file of its own. Times of directories stay."""
    for path in names[1:]:
        above, _, name = path.rpartition(b"/")
        fd = open_below(root, above)
        try:
            before = os.fstat(fd)
            copy_name(fd, name, fd, _ASIDE, os.stat(name, dir_fd=fd, follow_symlinks=False))
            os.rename(_ASIDE, name, src_dir_fd=fd, dst_dir_fd=fd)
            os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        finally:
            os.close(fd)
