"""The calling process: its memory, and its files found as it would find them.

To find them, the supervisor puts itself in the caller's place: its root directory is the caller's, and its working
directory is the caller's below /proc, whose `cwd` and `fd/N` are then one step away. Such a directory is bound to
the process and not to its number: once the process is gone nothing is found by it, whoever has the number then.
What is looked at is found by path; what is acted on is opened first, and never through links of the image's /proc.
"""

import errno
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from pybuild.sandbox import syscalls
from pybuild.sandbox.emulate.credentials import Credentials
from pybuild.sandbox.emulate.files import NOTES, magic
from pybuild.sandbox.emulate.identity import Identities
from pybuild.sandbox.emulate.memory import Memory
from pybuild.sandbox.emulate.notify import Asked, Listener, Notification
from pybuild.sandbox.emulate.shared import Shared

T = TypeVar("T")

AT_FDCWD = -100
_OWN_FD = re.compile(rb"/(?:proc/(?:self|thread-self)|dev)/fd/([0-9]{1,9})")
_BELOW_FD = re.compile(_OWN_FD.pattern + rb"/+(.+)", re.DOTALL)
"""How programs spell a name in an open directory where a call takes only paths."""
_STREAMS = {b"/dev/stdin": 0, b"/dev/stdout": 1, b"/dev/stderr": 2}
_UMASK = re.compile(rb"^Umask:\s*([0-7]+)", re.MULTILINE)
_PLACES = 20
"""How many callers' places are kept open."""
_NEVER = -2
"""In the place of a descriptor that was tried and cannot be had."""


class Place(NamedTuple):
    """What is kept open of a caller: its directory below /proc and memory; itself and its status once needed.

    None is -1.
    """

    directory: int
    memory: int
    process: int = -1
    status: int = -1


def signed(value: int) -> int:
    """Return an argument as the int the kernel takes it for."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def where(fd: int, path: bytes) -> bytes:
    """Return the path by which the supervisor, in the caller's place, finds what the caller names."""
    if path[:1] == b"/":
        return path
    return b"cwd/" + path if fd == AT_FDCWD else b"fd/%d/%b" % (fd, path)


class Caller:
    """Who waits for an answer. Raises OSError with what the call is to fail with, GoneError when it is gone."""

    def __init__(self, listener: Listener, identities: Identities, events: int = -1) -> None:
        self.listener = listener
        self.memory = Memory()
        self._identities = identities
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.shared = Shared(events, self._proc)
        self._places: dict[int, Place] = {}
        self.here = 0
        """Whose place this is, and who `who` is; 0 when what is found from it has to be looked at more closely."""
        self.words = self.process = -1
        """Its memory and itself. They are another's if its number is: they count only if something is found by them."""
        # The first to ask is the payload on its way to its exec: its root is the image's
        self._away = True

    def turn_to(self, asked: Asked) -> None:
        """Be about another call from here on."""
        self.asked = Notification._make(asked)
        self.pid = asked[1]
        self.args = asked[6:]
        self.who = self._identities.of(self.pid)
        if self.pid != self.here:
            self.here = 0

    def stands(self, pid: int) -> bool:
        """Take the place of a caller that has been here before; False when that takes more than a step."""
        found = self._places.get(pid)
        if found is None or self._away:
            return False
        self.here = 0
        who = self._identities.of(pid)
        if who.chrooted:
            return False
        os.fchdir(found.directory)
        self.who = who
        self.here, self.words, self.process = pid, found.memory, found.process
        return True

    def check(self) -> None:
        """Raise GoneError unless the caller still waits: then all that was opened by its pid is its own."""
        self.listener.check(self.asked)

    def enter(self) -> None:
        """Take the caller's place; everything below needs that."""
        if self.pid != self.here:
            self._enter()
        # Who has changed its root directory once may do so again
        if self._away or self.who.chrooted:
            self._away = True
            self.tried(lambda: os.chroot(b"root"))
            self._away = self.who.chrooted
            if self._away:
                self.here = 0

    def _enter(self) -> None:
        found = self._places.get(self.pid)
        if found is None:
            if len(self._places) >= _PLACES:
                self._drop(next(iter(self._places)))
            found = self._places[self.pid] = self._find_place()
        else:
            os.fchdir(found.directory)
        self.here, self.words, self.process = self.pid, found.memory, found.process

    def _find_place(self) -> Place:
        opened = [os.open(b"%d" % self.pid, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._proc)]
        try:
            os.fchdir(opened[0])
            opened.append(_open_memory())
            self.check()
        except BaseException:
            self.here = 0
            _close(opened)
            raise
        return Place(*opened)

    def hold(self) -> bool:
        """Have a descriptor of the process whose place this is; False when that cannot be."""
        place = self._places.get(self.here)
        if place is None or place.process == _NEVER:
            return False
        process = _open_process(self.here)
        # By its number it may be another one, unless the one that is meant is still there
        if process >= 0 and not self.is_there():
            os.close(process)
            return False
        self._places[self.here] = place._replace(process=process)
        self.process = process
        return process >= 0

    def stays(self, pid: int) -> Credentials | None:
        """Return who a caller is whose root directory is the image's and the supervisor's; None for all others."""
        if self._away:
            return None
        who = self._identities.of(pid)
        return None if who.chrooted else who

    def is_root(self, pid: int) -> bool:
        """Are the files that a process makes root's, but for their directory's group?"""
        who = self._identities.of(pid)
        return not who.uids[3] and not who.gids[3]

    def watch(self, paths: Sequence[bytes]) -> None:
        """Watch set-gid directories below the caller's root directory. Raises LostError."""
        self.here = 0
        root = os.open(b"%d/root" % self.pid, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._proc)
        try:
            self.check()
            self.shared.begin(root, paths)
        finally:
            os.close(root)

    def settle(self) -> None:
        """Give what was made in set-gid directories its group. Raises LostError."""
        if self.shared.settle():
            self.here = 0

    def settle_now(self, linked: int) -> None:
        """Do so, but for the file of this inode number, which was linked and not made. Raises LostError."""
        self.shared.settle_all(linked)
        self.here = 0

    def share(self, fd: int) -> None:
        """Watch the directory of a descriptor, which has just been made set-gid. Raises LostError."""
        if self.shared.watching:
            self.shared.add(magic(fd))
            self.settle_now(0)

    def drop(self, pid: int) -> None:
        """Have nothing open of a process."""
        if pid == self.here:
            self.here = 0
        self._drop(pid)

    def _drop(self, pid: int) -> None:
        _close(self._places.pop(pid, ()))

    def forget(self) -> None:
        """Have nothing open of the caller: it is about to execute a program, and memory goes with the old one."""
        self.here = 0
        self._drop(self.pid)

    def is_there(self) -> bool:
        """Is the process whose place this is still there? What has its number then may be another one."""
        try:
            os.readlink(b"root")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return True

    def _renewed(self) -> bool:
        """Was the place that of a process gone by now, whose number the caller has got? It is the caller's then."""
        if self.is_there():
            return False
        self.forget()
        self._enter()
        if self._away:
            self.here = 0
        return True

    def tried(self, action: Callable[[], T]) -> T:
        """Return what `action` does at the place, making sure that it is the caller's when nothing is there."""
        try:
            return action()
        except (FileNotFoundError, ProcessLookupError):
            if not self._renewed():
                raise
            return action()

    def noted(self, path: bytes, *, follow: bool = True) -> bool:
        """Is anything noted on a file? For all others the kernel does the right thing by itself. Raises OSError."""
        while True:
            try:
                return not NOTES.isdisjoint(os.listxattr(path, follow_symlinks=follow))
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP:
                    return False
                if error.errno not in (errno.ENOENT, errno.ESRCH) or not self._renewed():
                    raise

    def text(self, number: int) -> bytes:
        """Return the path that an argument points to."""
        return self.memory.text(self.pid, self.args[number])

    def umask(self) -> int:
        """Return the mask that new files have."""
        found = _UMASK.search(self.tried(self._status))
        return int(found[1], 8) if found else 0o022

    def _status(self) -> bytes:
        place = self._places[self.pid]
        if place.status < 0:
            place = place._replace(status=os.open(b"status", os.O_RDONLY | os.O_CLOEXEC))
            self._places[self.pid] = place
        return os.pread(place.status, 4096, 0)

    def held(self, fd: int) -> int:
        """Return an O_PATH descriptor of what the caller's descriptor `fd` (or its directory) is."""
        name = b"cwd" if fd == AT_FDCWD else b"fd/%d" % fd
        try:
            return self.tried(lambda: os.open(name, os.O_PATH | os.O_CLOEXEC))
        except FileNotFoundError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def open(self, fd: int, path: bytes, flags: int, *, resolve: int = 0) -> int:
        """Return a descriptor of a path, relative to the caller's descriptor `fd` when it is relative.

        `resolve` are rules of openat2(2).
        """
        base = AT_FDCWD if path[:1] == b"/" and not resolve else self.held(fd)
        try:
            return syscalls.openat2(base, path, flags, resolve | syscalls.RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP) or not flags & os.O_PATH:
                raise
            if not resolve and (below := _BELOW_FD.fullmatch(path)):
                return self.open(int(below[1]), below[2], flags)
            own = _OWN_FD.fullmatch(path)
            number = int(own[1]) if own else _STREAMS.get(path, -1)
            if number < 0 or flags & os.O_NOFOLLOW or resolve:
                raise
        finally:
            if base >= 0:
                os.close(base)
        return self.held(number)

    def parent(self, fd: int, path: bytes) -> tuple[int, bytes]:
        """Return a descriptor of the directory a new name is to be made in, and the name."""
        above, name = split(path)
        if name in (b"", b".", b".."):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        return self.open(fd, above, os.O_PATH | os.O_DIRECTORY), name


def _open_memory() -> int:
    try:
        return os.open(b"mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        # It can be done without
        return -1


def _open_process(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        # A thread beside the first one
        return _NEVER


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return the path of the directory that a name is in, and the name."""
    above, slash, name = path.rstrip(b"/").rpartition(b"/")
    return (above or b"/") if slash else b".", name
