"""Set-gid directories: what root makes in one gets the directory's group, which the kernel cannot give as it is noted.

Nobody is asked about each new file for that. The kernel tells by inotify(7) what was made in these few directories, and
a new file's group is noted before the next question of the RUN is answered: the event is there before the call that
made the file returns, and its signal before a question that follows. So that a file cannot leave before, nor a stranger
come in unseen, a RUN that is watched is asked about renames, links and set-gid bits too.

That a directory is set-gid no more nobody is asked about. It is told as a change of its attributes, among all others:
of several between two questions the last is taken for it. A new group is noted by the supervisor, so it is there from
the first of them on.
"""

import ctypes
import errno
import fcntl
import os
import signal
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress

from pybuild.sandbox import syscalls
from pybuild.tree.notes import LINK_XATTR, OWNER_XATTR, link_note, owner_note, read_owner

_libc = ctypes.CDLL(None, use_errno=True)
_EVENT = struct.Struct("iIII")
_READ = 1 << 16
_ATTRIB, _CREATE, _ONLYDIR = 0x4, 0x100, 0x01000000
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class LostError(Exception):
    """It is not known any more what was made where, or it cannot be noted."""


def open_events() -> int:
    """Return a descriptor on which the kernel tells of changes, -1 where the user may have no more of them.

    The user's other programs, such as editors, may have taken all that may be watched: so it is tried.
    """
    events = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if events < 0:
        return -1
    watch = _libc.inotify_add_watch(events, b"/", _ATTRIB | _ONLYDIR)
    if watch < 0:
        os.close(events)
        return -1
    _libc.inotify_rm_watch(events, watch)
    # What it tells of that is of no interest
    with suppress(BlockingIOError):
        os.read(events, _READ)
    return events


class Shared:
    """The set-gid directories of a RUN.

    `events` is of `open_events`, or -1: then nothing is watched. `proc` is a descriptor of the host's /proc. All that
    is done here leaves the working directory anywhere.
    """

    def __init__(self, events: int, proc: int) -> None:
        self._events = events
        self._proc = proc
        self._directories: dict[int, int] = {}
        self._groups: dict[int, int | None] = {}
        self._pending = False
        self.watching = events >= 0
        """Is every such directory watched?"""

    def begin(self, root: int, paths: Sequence[bytes]) -> None:
        """Watch the directories at these paths below `root`, as far as they are there. Raises LostError."""
        signal.signal(signal.SIGIO, self._note)
        fcntl.fcntl(self._events, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self._events, fcntl.F_SETFL, fcntl.fcntl(self._events, fcntl.F_GETFL) | os.O_ASYNC)
        resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
        for path in paths:
            try:
                directory = syscalls.openat2(root, path, _DIRECTORY, resolve)
            except OSError as error:
                # A layer above has removed it, or made something else of it
                if error.errno in _GONE:
                    continue
                raise LostError from error
            if os.fstat(directory).st_mode & stat.S_ISGID:
                self._add(directory)
            else:
                os.close(directory)

    def add(self, path: bytes) -> None:
        """Watch the set-gid directory at a path, the end of which is followed. Raises LostError."""
        try:
            directory = os.open(path, _DIRECTORY & ~os.O_NOFOLLOW)
        except OSError as error:
            raise LostError from error
        self._add(directory)

    def settle(self, linked: int = 0) -> bool:
        """Give what was made until now its group; tell whether there was anything to look at. Raises LostError.

        `linked` is the inode number of a file that was not made but given another name.
        """
        if not self._pending:
            return False
        # What ends this process must not come between reading an event and acting upon it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._pending = False
        try:
            events = list(self._read())
            last = {watch: number for number, (watch, _, name) in enumerate(events) if not name}
            for number, (watch, mask, name) in enumerate(events):
                self._take(watch, mask, name, linked, last=number == last.get(watch))
        except OSError as error:
            raise LostError from error
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return True

    def settle_all(self, linked: int = 0) -> None:
        """Do the same without waiting for a signal. Raises LostError."""
        self._pending = self.watching
        self.settle(linked)

    def _note(self, *_: object) -> None:
        self._pending = True

    def _add(self, directory: int) -> None:
        os.fchdir(self._proc)
        watch = _libc.inotify_add_watch(self._events, b"self/fd/%d" % directory, _CREATE | _ATTRIB | _ONLYDIR)
        if watch < 0:
            number = ctypes.get_errno()
            raise LostError(os.strerror(number))
        known = self._directories.get(watch, -1)
        if known >= 0:
            os.close(known)
        self._directories[watch] = directory
        self._groups[watch] = _group_of(directory)

    def _read(self) -> Iterator[tuple[int, int, bytes]]:
        while True:
            try:
                data = os.read(self._events, _READ)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size
                yield watch, mask, data[at : at + length].rstrip(b"\0")
                at += length

    def _take(self, watch: int, mask: int, name: bytes, linked: int, *, last: bool) -> None:
        if mask & _OVERFLOW:
            raise LostError
        directory = self._directories.get(watch)
        if directory is None:
            return
        if mask & _IGNORED:
            os.close(self._directories.pop(watch))
            del self._groups[watch]
        elif not name:
            if self._groups[watch] is not None or last:
                self._groups[watch] = _group_of(directory)
            if last and not os.fstat(directory).st_mode & stat.S_ISGID:
                self._groups[watch] = None
        elif mask & _CREATE and (group := self._groups[watch]) is not None:
            self._give(directory, name, group, linked)

    def _give(self, directory: int, name: bytes, group: int, linked: int) -> None:
        """Note the group of what was just made in a directory, and of all that was made in that meanwhile."""
        opened: list[int] = []
        pending = [(directory, name)]
        try:
            while pending:
                above, name = pending.pop()
                with suppress(FileNotFoundError):
                    state = os.stat(name, dir_fd=above, follow_symlinks=False)
                    if state.st_ino == linked:
                        continue
                    os.fchdir(above)
                    if group:
                        _note_group(name, state.st_mode, group)
                    if stat.S_ISDIR(state.st_mode) and state.st_mode & stat.S_ISGID:
                        inner = os.open(name, _DIRECTORY, dir_fd=above)
                        opened.append(inner)
                        # First this, so that nothing made while its names are read is missed
                        self._add(os.dup(inner))
                        pending.extend((inner, os.fsencode(child)) for child in os.listdir(inner))
        finally:
            for fd in opened:
                os.close(fd)


def _group_of(directory: int) -> int:
    """Return the noted group of a directory."""
    try:
        note = read_owner(os.getxattr(directory, OWNER_XATTR))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return 0
        raise
    return note[1] if note else 0


def _note_group(name: bytes, mode: int, group: int) -> None:
    """Note the group of a new file of the working directory, if no owner is noted yet."""
    plain = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    attribute = OWNER_XATTR if plain else LINK_XATTR
    try:
        if os.fsdecode(attribute) in os.listxattr(name, follow_symlinks=False):
            return
        note = owner_note(0, group) if plain else link_note(0, group)
        os.setxattr(name, attribute, note, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
