"""What stands in a tree for mounts where none can be made: files, directories and device nodes, taken back afterwards.

What was in the place of one is kept aside meanwhile. Nothing of this is in the layer: directories are held by
descriptor, their times are kept, and the paths whose ctime changes all the same are noted.
"""

import errno
import os
import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from pybuild.sandbox import syscalls
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40


class Tools(msgspec.Struct, frozen=True):
    """What is done to whole trees: `remove` a name in a directory, `copy` a name in one to a new name in another."""

    remove: Callable[[int, bytes], None]
    copy: Callable[[int, bytes, int, bytes], None]


class Place(msgspec.Struct, frozen=True):
    """A name that is free now, in an open directory."""

    directory: int
    name: bytes


class Standins:
    """Puts things into the tree `root`, until `take_back`; `aside` is a directory on the same file system.

    `lend` is told of what is moved before it is: its path in the tree, where it came from, and its inode.
    """

    def __init__(self, root: int, aside: int, tools: Tools, lend: Callable[[bytes, bytes, int], None]) -> None:
        self._lend = lend
        self._root = root
        self._aside = aside
        self._tools = tools
        self._count = 0
        self._undo: list[Callable[[], None]] = []
        self._own = os.readlink(b"/proc/self/fd/%d" % root)
        self._check: Callable[[bytes, str], None] | None = None
        self.touched: set[bytes] = set()

    def guard(self, check: Callable[[bytes, str], None]) -> None:
        """From now on `check`, which may raise, is told each path that is taken and the target it was meant by."""
        self._check = check

    def take_back(self) -> None:
        """Take everything out again, the last first, and put back what was there."""
        while self._undo:
            self._undo.pop()()

    def path_of(self, fd: int) -> bytes:
        """Return the path of a directory of the tree, without links."""
        return os.readlink(b"/proc/self/fd/%d" % fd).removeprefix(self._own).strip(b"/")

    def directory(self, target: bytes, mode: int = 0o755) -> int:
        """Put an empty directory at a path; return a descriptor of it, which stays this object's."""
        place = self.place(target)
        with _time_kept(place.directory):
            os.mkdir(place.name, 0o700, dir_fd=place.directory)
        fd = os.open(place.name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.directory)
        os.fchmod(fd, mode)
        self._undo.append(lambda: os.close(fd))
        return fd

    def file(
        self,
        target: bytes,
        content: bytes,
        mode: int,
        give: Callable[[int], None] | None = None,
        *,
        follow: bool = True,
    ) -> None:
        """Put a file at a path, which `give` gives its owner; without `follow` it takes the place of a link there."""
        place = self.place(target, follow=follow)
        with _time_kept(place.directory):
            write_file(place.directory, place.name, content, mode, give)

    def moved(self, target: bytes, source_parent: int, source: bytes) -> None:
        """Move a directory of the same file system to a path, until it is taken back."""
        place = self.place(target)
        within = self.path_of(place.directory)
        home = os.readlink(b"/proc/self/fd/%d" % source_parent) + b"/" + source
        inode = os.stat(source, dir_fd=source_parent, follow_symlinks=False).st_ino
        self._lend(within + b"/" + place.name if within else place.name, home, inode)
        with _time_kept(place.directory):
            _rename(source_parent, source, place)
        lent = _identity(place)

        def undo() -> None:
            # Should the RUN have put something else there, such as a link, that must not get where the store trusts it
            with suppress(FileNotFoundError), _time_kept(place.directory):
                if _identity(place) == lent:
                    os.rename(place.name, source, src_dir_fd=place.directory, dst_dir_fd=source_parent)

        self._undo.append(undo)

    def copied(self, target: bytes, source_parent: int, source: bytes) -> None:
        """Put a copy of something at a path."""
        place = self.place(target)
        with _time_kept(place.directory):
            self._tools.copy(source_parent, source, place.directory, place.name)

    def device(self, target: bytes, like: os.stat_result) -> None:
        """Make a device node like another one; raise SandboxError where that is not allowed."""
        place = self.place(target)
        with _time_kept(place.directory):
            try:
                os.mknod(place.name, like.st_mode, like.st_rdev, dir_fd=place.directory)
            except PermissionError as error:
                raise SandboxError(
                    f"a device node cannot be made without mounts: {os.fsdecode(target)}",
                    "`--isolation=namespaces` can show that of the machine",
                ) from error

    def linked(self, target: bytes, source: bytes) -> None:
        """Put another name of a socket at a path."""
        place = self.place(target)
        with _time_kept(place.directory):
            os.link(source, place.name, dst_dir_fd=place.directory, follow_symlinks=False)

    def place(self, target: bytes, *, follow: bool = True) -> Place:
        """Free the place at a path of the image, links followed inside of it, and missing directories made.

        Whatever is there when all is taken back is removed.
        """
        directory, name = self._resolve(target, follow=follow)
        within = self.path_of(directory)
        path = within + b"/" + name if within else name
        if self._check is not None:
            self._check(path, os.fsdecode(target))
        self.touched |= {within, path}
        kept = b"" if not _has(directory, name) else b"s%d" % self._count
        self._count += 1
        if kept:
            with _time_kept(directory):
                os.rename(name, kept, src_dir_fd=directory, dst_dir_fd=self._aside)

        def undo() -> None:
            # The directory itself may have been removed
            with suppress(FileNotFoundError), _time_kept(directory):
                self._tools.remove(directory, name)
                if kept:
                    os.rename(kept, name, src_dir_fd=self._aside, dst_dir_fd=directory)
            os.close(directory)

        self._undo.append(undo)
        return Place(directory, name)

    def _resolve(self, target: bytes, *, follow: bool = True) -> tuple[int, bytes]:
        """Return the directory of a path and the name in it, which is no link if links are to be followed."""
        path = posixpath.normpath(b"/" + target).strip(b"/")
        for _ in range(_MAX_LINKS):
            above, _, name = path.rpartition(b"/")
            directory = self._made(above)
            if not follow and name:
                return directory, name
            try:
                link = os.readlink(name, dir_fd=directory)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    os.close(directory)
                    raise
                return directory, name
            within = self.path_of(directory)
            os.close(directory)
            path = posixpath.normpath(posixpath.join(b"/", within, link)).strip(b"/")
            if not path:
                break
        raise SandboxError(f"this is no place for a mount: {os.fsdecode(target)}")

    def _made(self, path: bytes) -> int:
        """Return a directory, made with those above it if missing."""
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
        try:
            return syscalls.openat2(self._root, path or b".", _DIRECTORY, resolve)
        except FileNotFoundError:
            directory, name = self._resolve(path)
        within = self.path_of(directory)
        self.touched.add(within)
        with _time_kept(directory):
            os.mkdir(name, 0o755, dir_fd=directory)

        def undo() -> None:
            with suppress(FileNotFoundError, NotADirectoryError), _time_kept(directory):
                try:
                    os.rmdir(name, dir_fd=directory)
                except OSError as error:
                    # The RUN has put something into it
                    if error.errno != errno.ENOTEMPTY:
                        raise
            os.close(directory)

        self._undo.append(undo)
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def write_file(
    directory: int, name: bytes, content: bytes, mode: int, give: Callable[[int], None] | None = None
) -> None:
    """Write a new file; `give` is called with its descriptor to give it an owner."""
    fd = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        if give is not None:
            give(fd)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _rename(source_parent: int, source: bytes, place: Place) -> None:
    try:
        os.rename(source, place.name, src_dir_fd=source_parent, dst_dir_fd=place.directory)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        raise SandboxError(f"cannot lend a directory of another file system: {os.fsdecode(source)}") from error


def _identity(place: Place) -> tuple[int, int]:
    info = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    return info.st_dev, info.st_ino


def _has(directory: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _time_kept(directory: int) -> Iterator[None]:
    before = os.fstat(directory)
    yield
    os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
