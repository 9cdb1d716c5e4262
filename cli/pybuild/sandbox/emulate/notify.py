"""How the kernel asks about a call and is answered (seccomp_unotify(2))."""

import errno
import fcntl
import os
import select
import struct
from collections.abc import Callable
from typing import NamedTuple

_RECV = 0xC0502100
_SEND = 0xC0182101
_ID_VALID = 0x40082102
_ADDFD = 0x40182103
_SET_FLAGS = 0x40082104
_SYNC_WAKE_UP = 1
_CONTINUE = 1
_ADDFD_SEND = 2

_NOTIFICATION = struct.Struct("QIIiIQ6Q")
_RESPONSE = struct.Struct("QqiI")
_ADD = struct.Struct("QIIII")
_EMPTY = bytes(_NOTIFICATION.size)

Asked = tuple[int, ...]
"""A Notification before its fields have names, which takes a while."""


class Notification(NamedTuple):
    """A call that waits for its answer; `pid` is the calling thread as this process sees it."""

    id: int
    pid: int
    flags: int
    number: int
    arch: int
    pointer: int
    arg0: int
    arg1: int
    arg2: int
    arg3: int
    arg4: int
    arg5: int


class GoneError(Exception):
    """The caller was killed meanwhile: there is nobody to answer, and its pid may be another's."""


class Listener:
    """The descriptor that a filter's installer was given."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._buffer = bytearray(_EMPTY)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        # Caller and supervisor take turns anyway: to stay on one processor is a good deal faster (Linux 6.6)
        try:
            fcntl.ioctl(fd, _SET_FLAGS, _SYNC_WAKE_UP)
        except OSError:
            return

    def receiver(self, interrupted: Callable[[], None] | None = None) -> Callable[[], Asked | None]:
        """Return what waits for the next call and returns it; None when no process is left that could make one.

        `interrupted` is called when a signal came instead.
        """
        ioctl, unpack, fd, buffer, over = fcntl.ioctl, _NOTIFICATION.unpack, self.fd, self._buffer, self._is_over

        def receive() -> Asked | None:
            while True:
                buffer[:] = _EMPTY
                try:
                    ioctl(fd, _RECV, buffer)
                    return unpack(buffer)
                except OSError as error:
                    if error.errno == errno.EINTR:
                        if interrupted:
                            interrupted()
                    elif error.errno != errno.ENOENT:
                        raise
                    elif over():
                        return None

        return receive

    def _is_over(self) -> bool:
        return any(event & select.POLLHUP for _, event in self._poll.poll(0))

    def receive_now(self) -> Asked | None:
        """Return the call that is there, as the descriptor is readable; None if its caller is gone already."""
        self._buffer[:] = _EMPTY
        try:
            fcntl.ioctl(self.fd, _RECV, self._buffer)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINTR):
                raise
            return None
        return _NOTIFICATION.unpack(self._buffer)

    def _send(self, request: int, data: bytes) -> None:
        try:
            fcntl.ioctl(self.fd, request, data)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            raise GoneError from error

    def refuse(self, asked: Asked, error: int) -> None:
        """Let the call fail with errno `error`; raise GoneError."""
        self._send(_SEND, _RESPONSE.pack(asked[0], 0, -error, 0))

    def sender(self) -> Callable[[Asked, int | None], None]:
        """Return what lets a call return a value, or the kernel carry it out if there is none; it raises GoneError."""
        ioctl, pack, fd = fcntl.ioctl, _RESPONSE.pack, self.fd

        def send(asked: Asked, value: int | None) -> None:
            try:
                if value is None:
                    ioctl(fd, _SEND, pack(asked[0], 0, 0, _CONTINUE))
                else:
                    ioctl(fd, _SEND, pack(asked[0], value, 0, 0))
            except FileNotFoundError as error:
                raise GoneError from error

        return send

    def give(self, asked: Asked, fd: int, *, close_on_exec: bool) -> None:
        """Let the call return a copy of a descriptor; raise GoneError, or OSError when it can hold no more."""
        flags = os.O_CLOEXEC if close_on_exec else 0
        self._send(_ADDFD, _ADD.pack(asked[0], _ADDFD_SEND, fd, 0, flags))

    def check(self, asked: Asked) -> None:
        """Raise GoneError if the caller is no more: then what was opened by its pid may be another's."""
        self._send(_ID_VALID, struct.pack("Q", asked[0]))
