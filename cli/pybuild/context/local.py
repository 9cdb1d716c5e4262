"""A directory of the host as the files a build may read, in place and only as far as it is asked."""

import errno
import hashlib
import os
import stat
import sys
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Self

from pybuild.context.beneath import explain, open_beneath, open_directory
from pybuild.context.errors import ChangedError, ContextError
from pybuild.context.ignore import DirState, IgnoreMatcher
from pybuild.context.memory import DigestMemory, Identity, identity
from pybuild.tree.entry import DIR, FIFO, FILE, SYMLINK, Entry

_BLOCK = 1 << 20  # bytes read at once, and the size from which a file is worth a second thread
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_LOOK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_NOFOLLOW
_UNREADABLE_HINT = "make it readable, or name it in .dockerignore"

# Ignore patterns are UTF-8 whatever the locale says names are
_ENCODING, _ENCODING_ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
_NAMES_ARE_UTF8 = _ENCODING == "utf-8"

_by_path = attrgetter("path")


class LocalContext:
    """A Tree over the directory `root`, without what `ignore` leaves out.

    Each directory is listed once, when first asked for, and its files looked at then; later changes show
    up as ChangedError when a file is opened. Links are entries and never followed. Everything belongs to
    0:0. Sockets and devices are not there; a device that is named raises ContextError. A directory that
    is left out is there when something in it is brought back. `Entry.digest` of a file is set when
    `memory` knows it or once it was read.

    Paths are relative to the root, as in Entry. All methods raise ContextError naming the path. Threads
    may share a context.
    """

    def __init__(self, root: Path, ignore: IgnoreMatcher | None = None, memory: Path | None = None) -> None:
        """Raise ContextError when `root` is no directory that can be listed."""
        self.root = root
        self._root_fd = open_directory(root)
        self._ignore = IgnoreMatcher() if ignore is None else ignore
        self._memory = DigestMemory(memory)
        self._states: dict[bytes, DirState] = {b"": self._ignore.root}
        self._entries: dict[bytes, Entry] = {}
        self._identities: dict[bytes, Identity] = {}
        self._devices: set[bytes] = set()
        self.hard_links: dict[bytes, tuple[int, int]] = {}
        """Files looked at so far that have several names, here or elsewhere: equal values are the same file."""
        # What a directory holds itself, with the names of those left out that may hold something
        self._scans: dict[bytes, tuple[list[Entry], list[bytes]]] = {}
        self._listings: dict[bytes, list[Entry]] = {}
        self._shown: dict[bytes, bool] = {}

    @property
    def ignore(self) -> IgnoreMatcher:
        """Return the rules of what is left out."""
        return self._ignore

    def close(self) -> None:
        """Let go of the directory; the context cannot be asked any more. Safe to call twice."""
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the Tree ------------------------------------------------------------------------------------

    def get(self, path: bytes) -> Entry | None:
        """Return the entry at `path` (b"" is the root) without following links; None when absent."""
        entry = self._entries.get(path)
        if entry is not None:
            return entry
        if path in self._devices:
            raise ContextError(f"a device cannot be part of a build context: `{_shown(path)}`")
        if path and path.rpartition(b"/")[0] in self._listings:
            return None
        return self._look(path)

    def children(self, path: bytes) -> list[bytes]:
        """Return the names in directory `path`, sorted; empty for anything else."""
        if path not in self._listings and not self._is_directory(path):
            return []
        skip = len(path) + 1 if path else 0
        return [entry.path[skip:] for entry in self._list(path)]

    def walk(self, path: bytes = b"") -> list[Entry]:
        """Return the entry at `path` and all below it, parents first, siblings in byte order."""
        top = self.get(path)
        if top is None:
            return []
        found: list[Entry] = []
        pending = [top]
        while pending:
            entry = pending.pop()
            found.append(entry)
            if entry.type == DIR:
                pending.extend(reversed(self._list(entry.path)))
        return found

    # -- content -------------------------------------------------------------------------------------

    def open(self, path: bytes) -> int:
        """Return a descriptor to read file `path` from, owned by the caller; O_NONBLOCK and close-on-exec.

        Raises ChangedError when it is not what was listed: another size, or another version of a file
        whose digest was already given away.
        """
        entry = self._file(path)
        try:
            fd = open_beneath(self._root_fd, path, _READ)
        except OSError as error:
            raise self._failure(error, path) from error
        try:
            status = os.fstat(fd)
            now = identity(status)
            if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
                raise _changed(path)
            if entry.digest and now != self._identities.get(path):
                raise _changed(path)
        except BaseException:
            os.close(fd)
            raise
        self._identities[path] = now
        return fd

    def confirm(self, path: bytes, fd: int, digest: bytes) -> None:
        """Take `digest` for what was read to the end from `fd`, got from `open`; remember it.

        Raises ChangedError when the file changed since it was opened, so that what was read may be a mix.
        """
        entry = self._file(path)
        key = identity(os.fstat(fd))
        if key != self._identities.get(path) or (entry.digest and entry.digest != digest):
            raise _changed(path)
        entry.digest = digest
        self._memory.put(key, digest)

    def known_digest(self, path: bytes) -> bytes | None:
        """Return the raw sha256 of file `path` if it is known without reading."""
        entry = self.get(path)
        return entry.digest or None if entry is not None else None

    def digest(self, path: bytes) -> bytes:
        """Return the raw sha256 of the content of file `path`, read only when not known."""
        entry = self._file(path)
        if entry.digest:
            return entry.digest
        fd = self.open(path)
        try:
            self.confirm(path, fd, self._hash(path, fd, entry.size))
        finally:
            os.close(fd)
        return entry.digest

    def save(self) -> None:
        """Write the remembered digests to the memory file, atomically; raise ContextError."""
        self._memory.save(self._identities.values())

    # -- looking -------------------------------------------------------------------------------------

    def _file(self, path: bytes) -> Entry:
        entry = self.get(path)
        if entry is None:
            raise ContextError(f"not found in the context: `{_shown(path)}`")
        if entry.type != FILE:
            raise ContextError(f"not a regular file: `{_shown(path)}`")
        return entry

    def _is_directory(self, path: bytes) -> bool:
        entry = self.get(path)
        return entry is not None and entry.type == DIR

    def _hash(self, path: bytes, fd: int, size: int) -> bytes:
        try:
            if size < _BLOCK:
                # One byte more tells whether it grew
                data = os.read(fd, size + 1)
                if len(data) == size:
                    return hashlib.sha256(data).digest()
                raise _changed(path)
            state = hashlib.sha256()
            view = memoryview(bytearray(_BLOCK))
            total = 0
            while count := os.readv(fd, [view]):
                state.update(view[:count])
                total += count
                if total > size:
                    break
        except OSError as error:
            raise self._failure(error, path) from error
        if total != size:
            raise _changed(path)
        return state.digest()

    def _state(self, path: bytes) -> DirState:
        """Return what the ignore rules say of directory `path`."""
        if not self._ignore:
            return self._ignore.root
        missing: list[bytes] = []
        state = self._states.get(path)
        while state is None:
            path, _, name = path.rpartition(b"/")
            missing.append(name)
            state = self._states.get(path)
        for name in reversed(missing):
            path = path + b"/" + name if path else name
            state = self._states[path] = state.enter(_pattern_text(name))
        return state

    def _look(self, path: bytes) -> Entry | None:
        """Return the entry of one path without listing its directory."""
        parent, _, name = path.rpartition(b"/")
        if path and (b"\0" in path or any(part in (b"", b".", b"..") for part in path.split(b"/"))):
            return None
        link = b""
        try:
            fd = open_beneath(self._root_fd, parent, _LOOK)
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False) if path else os.fstat(fd)
                if stat.S_ISLNK(status.st_mode):
                    link = os.readlink(name, dir_fd=fd)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise self._failure(error, path) from error
        left_out = bool(path) and self._state(parent).excludes(_pattern_text(name))
        if left_out and not (stat.S_ISDIR(status.st_mode) and self._state(path).may_reinclude() and self._shows(path)):
            return None
        entry = self._entry(path, status, link)
        if entry is None:
            return self.get(path) if path in self._devices else None
        return self._entries.setdefault(path, entry)

    def _entry(self, path: bytes, status: os.stat_result, link: bytes) -> Entry | None:
        mode = status.st_mode
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFREG:
            key = self._identities[path] = identity(status)
            if status.st_nlink > 1:
                self.hard_links[path] = key[:2]
            return Entry(
                path=path,
                type=FILE,
                mode=mode & 0o7777,
                size=status.st_size,
                mtime=status.st_mtime_ns,
                digest=self._memory.get(key),
            )
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            self._devices.add(path)
            return None
        simple = {stat.S_IFDIR: DIR, stat.S_IFLNK: SYMLINK, stat.S_IFIFO: FIFO}.get(kind)
        if simple is None:
            return None
        return Entry(path=path, type=simple, mode=mode & 0o7777, mtime=status.st_mtime_ns, link=link)

    def _scan(self, path: bytes) -> tuple[list[Entry], list[bytes]]:
        """List directory `path`: the entries in it that stay, and the directories that go but may show."""
        known = self._scans.get(path)
        if known is not None:
            return known
        state = self._state(path)
        found: list[Entry] = []
        hidden: list[bytes] = []
        try:
            fd = open_beneath(self._root_fd, path, _LIST)
        except OSError as error:
            if state.excluded and isinstance(error, PermissionError):
                return self._scans.setdefault(path, (found, hidden))
            raise self._failure(error, path) from error
        prefix = path + b"/" if path else b""
        all_stay = state.quiet and not state.excluded
        all_go = state.quiet and state.excluded
        may_show = state.may_reinclude()
        # Locals, because this runs for each file of the context
        excludes, devices, identities, entries = state.excludes, self._memory.devices, self._identities, self._entries
        kind_of, regular = stat.S_IFMT, stat.S_IFREG
        try:
            with os.scandir(fd) as items:
                for item in items:
                    name = item.name
                    if not all_stay and (
                        all_go or excludes(name if _NAMES_ARE_UTF8 else _pattern_text(os.fsencode(name)))
                    ):
                        if may_show and item.is_dir(follow_symlinks=False):
                            hidden.append(os.fsencode(name))
                        continue
                    full = prefix + name.encode(_ENCODING, _ENCODING_ERRORS)
                    try:
                        status = item.stat(follow_symlinks=False)
                        mode = status.st_mode
                        if kind_of(mode) == regular:
                            device, inode, size = status.st_dev, status.st_ino, status.st_size
                            mtime, ctime = status.st_mtime_ns, status.st_ctime_ns
                            identities[full] = (device, inode, size, mtime, ctime)
                            if status.st_nlink > 1:
                                self.hard_links[full] = (device, inode)
                            digest = b""
                            if device in devices:
                                row = devices[device].get(inode)
                                if row is not None and row[0] == size and row[1] == mtime and row[2] == ctime:
                                    digest = row[3]
                            entry: Entry | None = Entry(
                                path=full, type=FILE, mode=mode & 0o7777, size=size, mtime=mtime, digest=digest
                            )
                        else:
                            link = os.readlink(os.fsencode(name), dir_fd=fd) if stat.S_ISLNK(mode) else b""
                            entry = self._entry(full, status, link)
                    except FileNotFoundError:
                        continue  # gone since it was listed
                    except OSError as error:
                        raise self._failure(error, full) from error
                    if entry is not None:
                        entries[full] = entry
                        found.append(entry)
        except OSError as error:
            raise self._failure(error, path) from error
        finally:
            os.close(fd)
        found.sort(key=_by_path)
        if hidden:
            hidden = [name for name in hidden if self._state(prefix + name).may_reinclude()]
        return self._scans.setdefault(path, (found, hidden))

    def _list(self, path: bytes) -> list[Entry]:
        """Return what is in directory `path`, sorted, with the directories that only show what is brought back."""
        known = self._listings.get(path)
        if known is not None:
            return known
        found, hidden = self._scan(path)
        if hidden:
            prefix = path + b"/" if path else b""
            showing = [self._look(prefix + name) for name in hidden if self._shows(prefix + name)]
            if showing:
                found = sorted([*found, *(entry for entry in showing if entry is not None)], key=_by_path)
        return self._listings.setdefault(path, found)

    def _shows(self, path: bytes) -> bool:
        """Is anything below a directory that is left out brought back?"""
        known = self._shown.get(path)
        if known is not None:
            return known
        # Down first, then answers from the bottom up: each directory once, and no recursion for deep trees
        order = [path]
        for directory in order:
            order.extend(directory + b"/" + name for name in self._scan(directory)[1])
        for directory in reversed(order):
            found, hidden = self._scan(directory)
            self._shown[directory] = bool(found) or any(self._shown[directory + b"/" + name] for name in hidden)
        return self._shown[path]

    def _failure(self, error: OSError, path: bytes) -> ContextError:
        if isinstance(error, PermissionError):
            return ContextError(explain(error, path), _UNREADABLE_HINT)
        # It was there when it was listed
        return _changed(path) if error.errno in _ABSENT else ContextError(explain(error, path))


# What the kernel says of a path that leads nowhere, or through a link (which is no directory here)
_ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG))


def _changed(path: bytes) -> ChangedError:
    return ChangedError(
        f"changed while it was read: `{_shown(path)}`", "build again when nothing writes to the context"
    )


def _pattern_text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def _shown(path: bytes) -> str:
    return path.decode(errors="replace") or "."
