"""A terminal for what runs in a sandbox: a pseudo terminal of the sandbox's own, never one of the user's.

Processes of a RUN are strangers. With a descriptor of the user's terminal they could read what is typed into
other programs or change its settings; so what runs gets the slave of a pair made in the sandbox's own devpts,
which becomes the controlling terminal of its session. The master goes, as a descriptor, over the socket it was
started with to whoever shows it to the user. That side sets the size of the window first; the closing of its end
of the socket is the word to begin.
"""

import errno
import fcntl
import os
import socket
import termios

from pybuild.sandbox.wire import receive_with_fds, send_with_fds

_UNLOCK = 0x40045431
"""TIOCSPTLCK of <asm-generic/ioctls.h>, the same on x86_64 and aarch64."""
_OPEN_PEER = 0x5441
"""TIOCGPTPEER: the slave of this very master, whatever lies at its name."""


def take(console: int, uid: int | None, ptmx: str = "/dev/pts/ptmx") -> None:
    """Make a terminal the controlling one of this process, a session's leader, and its descriptors 0 to 2.

    The socket `console` gets its master. The terminal will belong to user `uid` if that is not None. Returns when
    the other side lets it. Terminals come from `ptmx`, in a /dev of our own in the image's root or outside of that;
    nothing of the image may run yet.
    """
    master = os.open(ptmx, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _UNLOCK, b"\0\0\0\0")
    slave = fcntl.ioctl(master, _OPEN_PEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if uid:
        try:
            os.fchown(slave, uid, -1)
        except OSError as error:
            # An id that is not mapped: becoming that user fails next, and says why
            if error.errno != errno.EINVAL:
                raise
    with socket.socket(fileno=os.dup(console)) as channel:
        # Should the other side be gone, the master is closed with it, and the terminal hangs up
        try:
            send_with_fds(channel, b"t", [master])
            channel.recv(1)
        except ConnectionError:
            pass
    os.close(master)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(slave, number)


def receive(console: socket.socket) -> int | None:
    """Return the master that comes over the other end of `console`; None when there will be none."""
    try:
        _, fds = receive_with_fds(console, 1)
    except ConnectionError:
        return None
    return fds[0] if fds else None
