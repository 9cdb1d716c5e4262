"""A directory of the client's, brought here over its session: fsutil's DiffCopy, with us as the receiver.

The client tells all entries, parents first; those whose size, time and mode are what we have already are not asked for
again. What comes is not trusted: names are single components below the root, links are made and never followed, and
every change is made in a directory opened beneath the root. The directory belongs to one build at a time.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event as Flag
from typing import Any, NamedTuple
from urllib.parse import quote_plus

from pybuild.buildkit import messages
from pybuild.buildkit.grpc import GrpcError, Headers
from pybuild.buildkit.sessions import Session
from pybuild.buildkit.talk import Talk
from pybuild.context.beneath import open_beneath, open_directory
from pybuild.engine.room import ContextLimits
from pybuild.errors import PybuildError
from pybuild.layer.errors import LimitError
from pybuild.layer.limits import DEFAULT_LIMITS

DIFF_COPY = "/moby.filesync.v1.FileSync/DiffCopy"
STAT, REQUEST, DATA, FIN, ERROR = range(5)
"""Types of packets."""

MAX_OPEN = 64
"""How many files a client may send at the same time; its own limit is far below."""

NO_LIMITS = ContextLimits()
_MAX_PATH, _MAX_NAME = 4096, 255
_GO_DIR, _GO_LINK, _GO_FIFO, _GO_OTHER = 1 << 31, 1 << 27, 1 << 25, (1 << 26) | (1 << 24) | (1 << 21)
_GO_BITS = ((1 << 23, stat.S_ISUID), (1 << 22, stat.S_ISGID), (1 << 20, stat.S_ISVTX))
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class SyncError(PybuildError):
    """The client's files cannot be had."""


class Wanted(NamedTuple):
    """What of a directory is asked for: its name with the client, patterns of `.dockerignore` that leave files out,
    and paths below which files are wanted, with what links lead to (none: all of it).
    """

    name: str
    exclude: Sequence[str] = ()
    follow: Sequence[str] = ()


class Counts(NamedTuple):
    """What was received: the files that came, by path, and their bytes."""

    files: tuple[bytes, ...]
    size: int


class _Entry(NamedTuple):
    """An entry as the client tells it: `mode` as in stat, `time` in nanoseconds, `link` of a link or a hard link."""

    mode: int
    size: int
    time: int
    link: bytes

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)


def receive(
    session: Session,
    wanted: Wanted,
    root: Path,
    cancel: Flag,
    count: Callable[[int], None] = lambda size: None,
    limits: ContextLimits = NO_LIMITS,
) -> Counts:
    """Make the directory `root` what the client's is; it has `tree`, the files, and `new`, those that are coming.

    `count` is told the bytes that have come. Raises SyncError, CancelledError, and LimitError for a directory with more
    than `limits` allow, before any file in `tree` is changed.
    """
    try:
        with ExitStack() as stack:
            talk = stack.enter_context(Talk(session, DIFF_COPY, _metadata(wanted), cancel))
            receiver = stack.enter_context(_Receiver(talk, root, count, limits))
            return receiver.run()
    except GrpcError as error:
        raise SyncError(f"cannot read the client's directory {wanted.name}: {error.message}") from error
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else os.fsdecode(error.filename or wanted.name)
        raise SyncError(f"cannot keep the client's files: {name}: {error.strerror}") from error


def prepare(root: Path) -> None:
    """Make the places of a new directory."""
    for name in ("tree", "new"):
        (root / name).mkdir(mode=0o700, parents=True)


class _Receiver:
    def __init__(self, talk: Talk, root: Path, count: Callable[[int], None], limits: ContextLimits) -> None:
        self._talk = talk
        self._most = limits.size or DEFAULT_LIMITS.total
        self._most_entries = limits.files or DEFAULT_LIMITS.entries
        self._told = 0
        self._count = count
        self._new = root / "new"
        self._tree = open_directory(root / "tree")
        self._entries: dict[bytes, _Entry] = {}
        self._paths: list[bytes] = []
        self._wanted: dict[int, bytes] = {}
        self._open: dict[int, tuple[int, int]] = {}
        self._old: dict[bytes, os.stat_result] = {}
        self._came: list[bytes] = []
        self._size = 0

    def __enter__(self) -> "_Receiver":
        return self

    def __exit__(self, *_: object) -> None:
        for fd, _size in self._open.values():
            os.close(fd)
        os.close(self._tree)

    def run(self) -> Counts:
        # What an interrupted build left there
        shutil.rmtree(self._new, ignore_errors=True)
        self._new.mkdir(mode=0o700, exist_ok=True)
        self._scan()
        listed = False
        while not listed or self._wanted:
            packet = self._packet()
            if packet["type"] == STAT:
                if packet["stat"] is None:
                    listed = True
                    self._finish_listing()
                else:
                    self._take(packet["stat"])
            elif packet["type"] == DATA:
                self._data(packet["ID"], packet["data"])
        self._finish()
        self._talk.send(messages.PACKET.encode({"type": FIN}))
        self._talk.end()
        while (message := self._talk.receive()) is not None:
            if messages.PACKET.decode(message)["type"] == FIN:
                break
        return Counts(tuple(self._came), self._size)

    def _packet(self) -> dict[str, Any]:
        message = self._talk.receive()
        if message is None:
            raise SyncError("the client ended before all files were sent")
        packet = messages.PACKET.decode(message)
        if packet["type"] == ERROR:
            raise SyncError(f"the client cannot send its files: {packet['data'].decode(errors='replace')}")
        return packet

    # -- the listing

    def _take(self, told: dict[str, Any]) -> None:
        path = os.fsencode(told["path"])
        number = len(self._paths)
        if number >= self._most_entries:
            raise _beyond(f"{self._most_entries} entries", "entries", "PYBUILD_MAX_CONTEXT_FILES")
        self._paths.append(path)
        entry = _entry(told)
        if entry is None:
            return
        self._check(path)
        self._entries[path] = entry
        self._told += entry.size
        if self._told > self._most:
            raise _beyond(f"{self._most} bytes", "total", "PYBUILD_MAX_CONTEXT_SIZE")
        if entry.kind == stat.S_IFREG and not entry.link and not self._is_same(path, entry):
            self._wanted[number] = path
            self._talk.post(messages.PACKET.encode({"type": REQUEST, "ID": number}))

    def _check(self, path: bytes) -> None:
        """Raise SyncError for a path that is not one below the root whose directory is known already."""
        parts = path.split(b"/")
        bad = any(part in (b"", b".", b"..") or len(part) > _MAX_NAME for part in parts)
        if bad or b"\0" in path or len(path) > _MAX_PATH or path in self._entries:
            raise SyncError(f"the client sent an invalid path: {os.fsdecode(path)!r:.200}")
        parent = path.rpartition(b"/")[0]
        if parent and (parent not in self._entries or self._entries[parent].kind != stat.S_IFDIR):
            raise SyncError(f"the client sent a path without its directory: {os.fsdecode(path)!r:.200}")

    def _is_same(self, path: bytes, entry: _Entry) -> bool:
        old = self._old.get(path)
        return (
            old is not None
            and old.st_mode == entry.mode
            and (entry.kind == stat.S_IFDIR or old.st_mtime_ns == entry.time)
            and (entry.kind != stat.S_IFREG or old.st_size == entry.size)
        )

    def _finish_listing(self) -> None:
        """Remove what is not there any more, or is something else, and make what has no content; top down."""
        for path in sorted(self._old, reverse=True):
            entry = self._entries.get(path)
            if entry is None or stat.S_IFMT(self._old[path].st_mode) != entry.kind:
                with self._in(path) as (parent, name):
                    _remove(parent, name)
        for path, entry in self._entries.items():
            if entry.kind == stat.S_IFDIR:
                with self._in(path) as (parent, name), suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=parent)
            elif entry.kind == stat.S_IFLNK:
                self._make_link(path, entry)
            elif entry.kind == stat.S_IFIFO and not self._is_same(path, entry):
                with self._in(path) as (parent, name):
                    _remove(parent, name)
                    os.mkfifo(name, dir_fd=parent)
                    os.chmod(name, stat.S_IMODE(entry.mode), dir_fd=parent)
                    os.utime(name, ns=(entry.time, entry.time), dir_fd=parent, follow_symlinks=False)

    def _make_link(self, path: bytes, entry: _Entry) -> None:
        with self._in(path) as (parent, name):
            old = self._old.get(path)
            is_link = old is not None and stat.S_ISLNK(old.st_mode) and old.st_mtime_ns == entry.time
            if is_link and os.readlink(name, dir_fd=parent) == entry.link:
                return
            _remove(parent, name)
            os.symlink(entry.link, name, dir_fd=parent)
            os.utime(name, ns=(entry.time, entry.time), dir_fd=parent, follow_symlinks=False)

    # -- content

    def _data(self, number: int, data: bytes) -> None:
        path = self._wanted.get(number)
        if path is None:
            raise SyncError("the client sent a file that was not asked for")
        if number not in self._open:
            if len(self._open) >= MAX_OPEN:
                raise SyncError(f"the client sends more than {MAX_OPEN} files at once")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._open[number] = os.open(self._new / str(number), flags, 0o600), 0
        fd, size = self._open[number]
        if data:
            size += len(data)
            if size > self._entries[path].size:
                raise SyncError(f"the client sent more than it told: {os.fsdecode(path)}", "it was changed meanwhile")
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            self._open[number] = fd, size
            self._size += len(data)
            self._count(self._size)
            return
        entry = self._entries[path]
        if size != entry.size:
            raise SyncError(f"the client sent less than it told: {os.fsdecode(path)}", "it was changed meanwhile")
        os.fchmod(fd, stat.S_IMODE(entry.mode))
        os.utime(fd, ns=(entry.time, entry.time))
        del self._open[number], self._wanted[number]
        os.close(fd)
        self._came.append(path)

    def _finish(self) -> None:
        """Move the files that came to their places, then make hard links, then give directories mode and time."""
        numbers = {path: number for number, path in enumerate(self._paths)}
        for path in self._came:
            with self._in(path) as (parent, name):
                os.rename(self._new / str(numbers[path]), name, dst_dir_fd=parent)
        for path, entry in self._entries.items():
            if entry.kind == stat.S_IFREG and entry.link:
                self._hard_link(path, entry)
        for path, entry in reversed([*self._entries.items()]):
            if entry.kind == stat.S_IFDIR:
                with self._in(path) as (parent, name):
                    now = os.stat(name, dir_fd=parent, follow_symlinks=False)
                    if now.st_mode != entry.mode or now.st_mtime_ns != entry.time:
                        fd = os.open(name, _DIRECTORY, dir_fd=parent)
                        try:
                            os.fchmod(fd, stat.S_IMODE(entry.mode))
                            os.utime(fd, ns=(entry.time, entry.time))
                        finally:
                            os.close(fd)

    def _hard_link(self, path: bytes, entry: _Entry) -> None:
        target = self._entries.get(entry.link)
        if target is None or target.kind != stat.S_IFREG or target.link:
            raise SyncError(f"the client sent a hard link to no file: {os.fsdecode(path)}")
        with self._in(entry.link) as (source, first), self._in(path) as (parent, name):
            there = os.stat(first, dir_fd=source, follow_symlinks=False)
            with suppress(FileNotFoundError):
                here = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                    return
            _remove(parent, name)
            os.link(first, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    # -- the tree

    def _scan(self) -> None:
        """Look at what is here, and make its directories such that they can be written to."""
        pending = [b""]
        while pending:
            directory = pending.pop()
            fd = open_beneath(self._tree, directory, _DIRECTORY)
            try:
                with os.scandir(fd) as found:
                    for item in found:
                        name = os.fsencode(item.name)
                        path = directory + b"/" + name if directory else name
                        status = self._old[path] = os.stat(item.name, dir_fd=fd, follow_symlinks=False)
                        if stat.S_ISDIR(status.st_mode):
                            if status.st_mode & 0o700 != 0o700:
                                os.chmod(item.name, 0o700, dir_fd=fd)
                            pending.append(path)
            finally:
                os.close(fd)

    def _in(self, path: bytes) -> "_Parent":
        return _Parent(self._tree, path)


class _Parent:
    """The directory that a path is in, opened beneath the root, and the path's last component."""

    def __init__(self, root: int, path: bytes) -> None:
        self._root = root
        self._parent, _, self._name = path.rpartition(b"/")

    def __enter__(self) -> tuple[int, bytes]:
        self._fd = open_beneath(self._root, self._parent, _DIRECTORY)
        return self._fd, self._name

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _entry(told: dict[str, Any]) -> _Entry | None:
    """Return what a Stat means; None for devices and sockets, which are no part of a context."""
    mode: int = told["mode"]
    link = os.fsencode(told["linkname"])
    bits = mode & 0o777
    for go, bit in _GO_BITS:
        bits |= bit if mode & go else 0
    if mode & _GO_OTHER:
        return None
    if mode & _GO_DIR:
        # We have to get in, whatever is told
        return _Entry(stat.S_IFDIR | bits | 0o500, 0, told["modTime"], b"")
    if mode & _GO_LINK:
        if not link or b"\0" in link or len(link) >= _MAX_PATH:
            raise SyncError(f"the client sent an invalid link: {told['path']!r:.200}")
        return _Entry(stat.S_IFLNK | 0o777, len(link), told["modTime"], link)
    if mode & _GO_FIFO:
        return _Entry(stat.S_IFIFO | bits, 0, told["modTime"], b"")
    if told["size"] < 0:
        raise SyncError(f"the client sent an invalid size: {told['path']!r:.200}")
    return _Entry(stat.S_IFREG | bits | 0o400, told["size"], told["modTime"], link)


def _beyond(amount: str, limit: str, variable: str) -> LimitError:
    hint = f"leave more out by .dockerignore, or set {variable} for the daemon"
    return LimitError(f"the client's directory has more than {amount}", hint, limit=limit)


def _remove(parent: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
        os.rmdir(name, dir_fd=parent)


def _metadata(wanted: Wanted) -> Headers:
    headers = [("dir-name", wanted.name)]
    for key, values in (("exclude-patterns", wanted.exclude), ("followpaths", wanted.follow)):
        plain = all(value.isascii() and value.isprintable() for value in values)
        if not plain:
            headers.append((f"{key}-encoded", "1"))
        headers += [(key, value if plain else quote_plus(os.fsencode(value))) for value in values]
    return headers


def read(root: Path, name: str, limit: int) -> bytes:
    """Return the first `limit` bytes of a file that was received, links followed below the root.

    Raises FileNotFoundError, and SyncError for what is no file.
    """
    tree = open_directory(root / "tree")
    try:
        fd = open_beneath(tree, os.fsencode(name), os.O_RDONLY, follow=True)
    finally:
        os.close(tree)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise SyncError(f"not a regular file: {name}")
        return file.read(limit)
