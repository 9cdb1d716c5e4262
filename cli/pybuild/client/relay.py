"""Between the descriptors of a shell and those of this process: its terminal, or its standard streams."""

import errno
import fcntl
import os
import select
import signal
import socket
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from pybuild.sandbox import terminal

_CHUNK = 1 << 16
_AHEAD = 1 << 16
"""Most bytes that are held for a program that does not read."""


def visit_terminal(fds: Sequence[int], source: int, out: int) -> None:
    """Use the terminal that comes over the socket in `fds` by this process's own, `source` and `out`, to its end.

    Keys go to the other one as they are, Ctrl-C too; the size of the window follows. Nothing happens when no
    terminal comes. Closes `fds`.
    """
    [number] = fds
    with socket.socket(fileno=number) as console:
        master = terminal.receive(console)
        if master is None:
            return
        try:
            with _handing_over(source, out, master):
                # Now that it knows its size it may begin
                console.close()
                _copy(source, _Pending(master), {master: out}, is_terminal=True)
        finally:
            os.close(master)


def visit_pipes(fds: Sequence[int], source: int, out: int, err: int) -> None:
    """Copy between the pipes in `fds` and this process's own streams to the end of the program; closes `fds`."""
    write, inner_out, inner_err = fds
    to = _Pending(write)
    try:
        _copy(source, to, {inner_out: out, inner_err: err}, is_terminal=False)
    finally:
        to.close()
        os.close(inner_out)
        os.close(inner_err)


class _Pending:
    """Bytes on their way to a descriptor that may take them late or never."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.data = bytearray()
        self.open = True

    def send(self) -> bool:
        """Write what can be written; tell whether somebody is still there to read it."""
        try:
            del self.data[: os.write(self.fd, self.data)]
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            self.data.clear()
            return False
        return True

    def close(self) -> None:
        if self.open:
            self.open = False
            os.close(self.fd)


def _copy(source: int, to: _Pending, outputs: dict[int, int], *, is_terminal: bool) -> None:
    """Copy `source` to `to`, and each key of `outputs` to its value until all of them have ended.

    `to` is closed when `source` ends or nobody reads it; a terminal is both, and the end of `source` that of all.
    """
    left, typing = dict(outputs), True
    while left:
        wanted = dict.fromkeys(left, select.POLLIN)
        if typing and len(to.data) < _AHEAD:
            wanted[source] = select.POLLIN
        if to.open and to.data:
            wanted[to.fd] = wanted.get(to.fd, 0) | select.POLLOUT
        ready = dict(_poll(wanted))
        if source in ready and source in wanted:
            data = _read(source)
            if not data and is_terminal:
                return
            to.data += data
            typing = bool(data)
        if ready.get(to.fd, 0) & (select.POLLOUT | select.POLLERR) and to.data:
            typing = to.send() and typing
        if not typing and not to.data and not is_terminal:
            to.close()
        for fd in ready.keys() & left.keys():
            if ready[fd] & ~select.POLLOUT:
                data = _read(fd)
                if data:
                    _write(left[fd], data)
                else:
                    del left[fd]


def _poll(wanted: dict[int, int]) -> list[tuple[int, int]]:
    poll = select.poll()
    for fd, what in wanted.items():
        poll.register(fd, what)
    return poll.poll()


def _read(fd: int) -> bytes:
    """Return what there is, b"" at the end; the end of a terminal is an error to the kernel."""
    try:
        return os.read(fd, _CHUNK)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EBADF):
            raise
        return b""


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            # Somebody who shares it does not want to wait; we have to
            select.select([], [fd], [])


@contextmanager
def _handing_over(source: int, out: int, master: int) -> Iterator[None]:
    """Let every key through meanwhile, and keep the size of `master` that of the window."""
    before = termios.tcgetattr(source)

    def resize(*_: object) -> None:
        with suppress(OSError):
            fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(out, termios.TIOCGWINSZ, bytes(8)))

    def go_on(*_: object) -> None:
        # Whoever had stopped us may have made it his own terminal meanwhile
        tty.setraw(source, termios.TCSADRAIN)
        resize()

    handlers = {signal.SIGWINCH: resize, signal.SIGCONT: go_on}
    earlier = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        go_on()
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        termios.tcsetattr(source, termios.TCSADRAIN, before)
