"""Waits until something in a context changes that a build would read (inotify(7))."""

import ctypes
import errno
import os
import select
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from pybuild.context.errors import ContextError
from pybuild.context.footprint import Footprint
from pybuild.context.ignore import DirState, IgnoreMatcher

QUIET_SECONDS = 0.05
"""A change is told when nothing has changed for so long: saving a file, or many, takes several steps."""

LONGEST_SECONDS = 1.0
"""It is told after so long at the latest."""

_CLOCK_SECONDS = 0.02
"""The kernel's time of a change may lie behind the clock by so much."""

_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _OVERFLOW, _IGNORED = 0x400, 0x800, 0x4000, 0x8000
_ONLYDIR, _DONT_FOLLOW, _EXCL_UNLINK, _ISDIR = 0x1000000, 0x2000000, 0x4000000, 0x40000000
_APPEARED = _CREATE | _MOVED_TO
_MASK = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _APPEARED | _DELETE | _DELETE_SELF | _MOVE_SELF
_EVENT = struct.Struct("iIII")
_CLOEXEC_NONBLOCK = os.O_CLOEXEC | os.O_NONBLOCK


class Watcher:
    """Watches the directories of `root` that matter, less what `ignore` leaves out, and single `files` anywhere.

    `written` are paths, of files or of whole directories, that the build itself writes: they do not count. Use it with
    `with`. Raises ContextError for a directory that cannot be watched.
    """

    def __init__(
        self, root: Path, ignore: IgnoreMatcher, footprint: Footprint, files: Iterable[Path], written: Iterable[Path]
    ) -> None:
        self._root = os.fsencode(root)
        self._ignore = ignore
        self._footprint = footprint
        self._written = [os.fsencode(path) for path in written]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(_CLOEXEC_NONBLOCK)
        if self._fd < 0:
            raise self._failure(b"")
        self._trees: dict[int, tuple[bytes, DirState]] = {}
        self._files: dict[int, tuple[bytes, set[bytes]]] = {}
        try:
            for path in files:
                self._watch_file(os.fsencode(path))
            for _ in self._watch_below(b"", ignore.root):
                continue
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @property
    def directories(self) -> int:
        """Return how many directories are watched."""
        return len(self._trees.keys() | self._files.keys())

    def changed_since(self, seconds: float) -> list[str]:
        """Return the paths that have changed since a time (of the epoch), before they were watched.

        Of something that went away its directory is told, unless the build itself writes there.
        """
        limit = (seconds - _CLOCK_SECONDS) * 1e9
        found = {
            directory + b"/" + name
            for directory, names in self._files.values()
            for name in names
            if _changed_at(directory + b"/" + name) >= limit
        }
        for path, state in self._trees.values():
            full = self._full(path)
            if _changed_at(full) >= limit and not any(_parent(written) == full for written in self._written):
                found.add(full)
            for entry in _scan(full):
                if not entry.is_dir(follow_symlinks=False) and self._counts(path, state, entry.name, False):
                    inside = full + b"/" + entry.name
                    if _changed_at(inside) >= limit:
                        found.add(inside)
        return self._told(found)

    def wait(self) -> list[str]:
        """Return the paths that have changed, as people name them, when some have."""
        import time

        found: set[bytes] = set()
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        latest = 0.0
        while True:
            ready = poll.poll(QUIET_SECONDS * 1000 if found else None)
            if ready:
                found |= self._take()
            if found and not latest:
                latest = time.monotonic() + LONGEST_SECONDS
            if found and (not ready or time.monotonic() >= latest):
                return self._told(found)

    def _told(self, found: Iterable[bytes]) -> list[str]:
        top = self._root + b"/"
        return sorted(os.fsdecode(path.removeprefix(top)) for path in found)

    def _take(self) -> set[bytes]:
        """Read what the kernel tells; return the paths that count."""
        found: set[bytes] = set()
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return found
        at = 0
        while at < len(data):
            number, mask, _, size = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + size].rstrip(b"\0")
            at += _EVENT.size + size
            found.update(self._judge(number, mask, name))
        return found

    def _judge(self, number: int, mask: int, name: bytes) -> Iterator[bytes]:
        if mask & _OVERFLOW:
            # Nobody knows what was missed
            yield self._root
        if number in self._files:
            above, names = self._files[number]
            if name in names:
                yield above + b"/" + name
        if number not in self._trees:
            return
        path, state = self._trees[number]
        if mask & (_DELETE_SELF | _MOVE_SELF) and not path:
            raise ContextError(f"the context is gone: {os.fsdecode(self._root)}")
        if mask & _IGNORED or (mask & _MOVE_SELF and not os.path.isdir(self._full(path))):
            # One that was moved inside of the context has its new path already, as its new place tells first
            del self._trees[number]
            return
        directory = bool(mask & _ISDIR)
        if not name or not self._counts(path, state, name, directory):
            return
        inside = path + b"/" + name if path else name
        yield self._full(inside)
        if directory and mask & _APPEARED:
            yield from self._watch_below(inside, state.enter(os.fsdecode(name)))

    def _counts(self, path: bytes, state: DirState, name: bytes, directory: bool) -> bool:
        text = os.fsdecode(name)
        if state.excludes(text) and not (directory and state.enter(text).may_reinclude()):
            return False
        inside = path + b"/" + name if path else name
        if any(written == self._full(inside) for written in self._written):
            return False
        return self._footprint.uses(inside, directory=directory)

    def _watch_below(self, path: bytes, state: DirState) -> Iterator[bytes]:
        """Watch a directory and those in it; yield what is in them, full paths, that may have come before the watch."""
        pending = [(path, state)]
        while pending:
            path, state = pending.pop()
            full = self._full(path)
            number = self._add(full)
            if number < 0:
                continue
            self._trees[number] = (path, state)
            for entry in _scan(full):
                directory = entry.is_dir(follow_symlinks=False)
                if self._counts(path, state, entry.name, directory):
                    inside = path + b"/" + entry.name if path else entry.name
                    yield self._full(inside)
                    if directory:
                        pending.append((inside, state.enter(os.fsdecode(entry.name))))

    def _watch_file(self, path: bytes) -> None:
        directory, _, name = path.rpartition(b"/")
        number = self._add(directory or b"/")
        if number >= 0:
            self._files.setdefault(number, (directory, set()))[1].add(name)

    def _add(self, directory: bytes) -> int:
        """Return the number of the watch, -1 for a directory that has gone again."""
        number: int = self._libc.inotify_add_watch(
            self._fd, directory, ctypes.c_uint32(_MASK | _ONLYDIR | _DONT_FOLLOW | _EXCL_UNLINK)
        )
        if number < 0 and ctypes.get_errno() not in (errno.ENOENT, errno.ENOTDIR):
            raise self._failure(directory)
        return number

    def _failure(self, directory: bytes) -> ContextError:
        number = ctypes.get_errno()
        hint = ""
        if number in (errno.ENOSPC, errno.EMFILE):
            name = "max_user_watches" if number == errno.ENOSPC else "max_user_instances"
            hint = f"try `sudo sysctl fs.inotify.{name}=524288`, or name more in .dockerignore"
        what = f": {os.fsdecode(directory)}" if directory else ""
        return ContextError(f"cannot watch for changes{what}: {os.strerror(number)}", hint)

    def _full(self, path: bytes) -> bytes:
        return self._root + b"/" + path if path else self._root


def _scan(directory: bytes) -> list["os.DirEntry[bytes]"]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:
        # Gone again, or not to be read: the build says so if it matters
        return []


def _changed_at(path: bytes) -> int:
    """Return the time in ns of the last change, of the inode too; 0 for what is not there."""
    try:
        return os.lstat(path).st_ctime_ns
    except OSError:
        return 0


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]
