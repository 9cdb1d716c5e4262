"""The calling process: its memory, and its files found as it would find them.

Paths are opened beneath the caller's own root directory only, and never through links of /proc: what those
lead to is on the host's side.
"""

import errno
import os
import re

from pybuild.sandbox import syscalls
from pybuild.sandbox.emulate.credentials import Credentials
from pybuild.sandbox.emulate.memory import Memory
from pybuild.sandbox.emulate.notify import Listener, Notification

AT_FDCWD = -100
_OWN_FD = re.compile(rb"/(?:proc/(?:self|thread-self)|dev)/fd/([0-9]{1,9})")
_STREAMS = {b"/dev/stdin": 0, b"/dev/stdout": 1, b"/dev/stderr": 2}


def signed(value: int) -> int:
    """Return an argument as the int the kernel takes it for."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


class Caller:
    """Who waits for an answer. Raises OSError with what the call is to fail with, GoneError when it is gone."""

    def __init__(self, listener: Listener, asked: Notification, memory: Memory, root: int, who: Credentials) -> None:
        self.listener = listener
        self.asked = asked
        self.pid = asked.pid
        self.args = asked.args
        self.memory = memory
        self.who = who
        self._root = root

    def check(self) -> None:
        """Raise GoneError unless the caller still waits: then all that was opened by its pid is its own."""
        self.listener.check(self.asked)

    def text(self, number: int) -> bytes:
        """Return the path that an argument points to."""
        return self.memory.text(self.pid, self.args[number])

    def umask(self) -> int:
        """Return the mask that new files have."""
        with open(f"/proc/{self.pid}/status", "rb", buffering=0) as file:
            found = re.search(rb"^Umask:\s*([0-7]+)", file.read(4096), re.MULTILINE)
        return int(found[1], 8) if found else 0o022

    def _base(self, fd: int) -> bytes:
        return b"/proc/%d/cwd" % self.pid if fd == AT_FDCWD else b"/proc/%d/fd/%d" % (self.pid, fd)

    def held(self, fd: int) -> int:
        """Return an O_PATH descriptor of what the caller's descriptor `fd` (or its directory) is."""
        if fd < 0 and fd != AT_FDCWD:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            return os.open(self._base(fd), os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def open(self, fd: int, path: bytes, flags: int, mode: int = 0) -> int:
        """Return a descriptor of a path, relative to the caller's descriptor `fd` when it is relative."""
        if path[:1] != b"/":
            base = self.held(fd)
            try:
                return syscalls.openat2(base, path, flags, syscalls.RESOLVE_BENEATH, mode)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # It leads above the directory: then by its whole path
                path = os.readlink(b"/proc/self/fd/%d" % base) + b"/" + path
                if self.who.chrooted:
                    path = path.removeprefix(os.readlink(b"/proc/%d/root" % self.pid).rstrip(b"/"))
            finally:
                os.close(base)
        root = self._root
        if self.who.chrooted:
            root = os.open(b"/proc/%d/root" % self.pid, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return syscalls.openat2(root, path, flags, syscalls.RESOLVE_IN_ROOT, mode)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EXDEV, errno.ELOOP) or not flags & os.O_PATH:
                raise
            own = _OWN_FD.fullmatch(path)
            number = int(own[1]) if own else _STREAMS.get(path, -1)
            if number < 0 or flags & os.O_NOFOLLOW:
                raise
        finally:
            if root != self._root:
                os.close(root)
        return self.held(number)

    def parent(self, fd: int, path: bytes) -> tuple[int, bytes]:
        """Return a descriptor of the directory a new name is to be made in, and the name."""
        above, slash, name = path.rstrip(b"/").rpartition(b"/")
        if name in (b"", b".", b".."):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        flags = os.O_PATH | os.O_DIRECTORY
        return self.open(fd, (above or b"/") if slash else b".", flags), name
