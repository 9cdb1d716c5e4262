"""Waits until something in contexts changes that a build would read (inotify(7))."""

import ctypes
import errno
import os
import select
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

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


class Watched(NamedTuple):
    """A context: its directory, without links; what of it is left out and what is used."""

    root: Path
    ignore: IgnoreMatcher
    footprint: Footprint


class _Tree:
    """A context, as bytes."""

    def __init__(self, watched: Watched) -> None:
        self.root = os.fsencode(watched.root)
        self.footprint = watched.footprint

    def full(self, path: bytes) -> bytes:
        return self.root + b"/" + path if path else self.root


class _Place(NamedTuple):
    """A directory that is watched: whose it is, its path in there, and what ignore files say of it."""

    tree: _Tree
    path: bytes
    state: DirState

    @property
    def full(self) -> bytes:
        return self.tree.full(self.path)

    def inside(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name


class Watcher:
    """Watches the directories of contexts that matter, less what is left out, and single `files` anywhere.

    Paths are told as they are in the first context, others in full.
    `written` are paths, of files or of whole directories, that the build itself writes: they do not count. Use it with
    `with`. Raises ContextError for a directory that cannot be watched.
    """

    def __init__(self, contexts: Sequence[Watched], files: Iterable[Path], written: Iterable[Path]) -> None:
        self._root = os.fsencode(contexts[0].root)
        self._written = [os.fsencode(path) for path in written]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(_CLOEXEC_NONBLOCK)
        if self._fd < 0:
            raise self._failure(b"")
        # One watch may be of several contexts, which may lie in one another
        self._trees: dict[int, list[_Place]] = {}
        self._files: dict[int, tuple[bytes, set[bytes]]] = {}
        try:
            for path in files:
                self._watch_file(os.fsencode(path))
            for context in contexts:
                for _ in self._watch_below(_Place(_Tree(context), b"", context.ignore.root)):
                    continue
                if not os.path.isdir(context.root):
                    raise _gone(os.fsencode(context.root))
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
        for place in (place for places in self._trees.values() for place in places):
            full = place.full
            if _changed_at(full) >= limit and not any(_parent(written) == full for written in self._written):
                found.add(full)
            for entry in _scan(full):
                if not entry.is_dir(follow_symlinks=False) and self._counts(place, entry.name, False):
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
        for place in list(self._trees.get(number, ())):
            yield from self._judge_in(place, number, mask, name)

    def _judge_in(self, place: _Place, number: int, mask: int, name: bytes) -> Iterator[bytes]:
        if mask & (_DELETE_SELF | _MOVE_SELF) and not place.path:
            raise _gone(place.full)
        if mask & _IGNORED or (mask & _MOVE_SELF and not os.path.isdir(place.full)):
            # One that was moved inside of the context has its new path already, as its new place tells first
            self._trees[number].remove(place)
            if not self._trees[number]:
                del self._trees[number]
            return
        directory = bool(mask & _ISDIR)
        if not name or not self._counts(place, name, directory):
            return
        inside = place.inside(name)
        yield place.tree.full(inside)
        if directory and mask & _APPEARED:
            yield from self._watch_below(_Place(place.tree, inside, place.state.enter(os.fsdecode(name))))

    def _counts(self, place: _Place, name: bytes, directory: bool) -> bool:
        text = os.fsdecode(name)
        if place.state.excludes(text) and not (directory and place.state.enter(text).may_reinclude()):
            return False
        inside = place.inside(name)
        if any(written == place.tree.full(inside) for written in self._written):
            return False
        return place.tree.footprint.uses(inside, directory=directory)

    def _watch_below(self, place: _Place) -> Iterator[bytes]:
        """Watch a directory and those in it; yield what is in them, full paths, that may have come before the watch."""
        pending = [place]
        while pending:
            place = pending.pop()
            number = self._add(place.full)
            if number < 0:
                continue
            # A directory that was moved has one place in its context, the new one
            others = [other for other in self._trees.get(number, ()) if other.tree is not place.tree]
            self._trees[number] = [*others, place]
            for entry in _scan(place.full):
                directory = entry.is_dir(follow_symlinks=False)
                if self._counts(place, entry.name, directory):
                    inside = place.inside(entry.name)
                    yield place.tree.full(inside)
                    if directory:
                        pending.append(_Place(place.tree, inside, place.state.enter(os.fsdecode(entry.name))))

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


def _gone(root: bytes) -> ContextError:
    return ContextError(f"the context is gone: {os.fsdecode(root)}")


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
