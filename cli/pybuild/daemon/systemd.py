"""Sockets from systemd or whoever speaks as it does, and word of how it goes (sd_listen_fds(3), sd_notify(3))."""

import os
import socket

from pybuild.errors import UsageError

_FIRST = 3
_MAX = 64


def inherited() -> list[socket.socket]:
    """Return the sockets that were handed over to this process, none as a rule; a second call returns none.

    Raises UsageError for descriptors that are no sockets.
    """
    pid, count = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS"))
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for fd in range(_FIRST, _FIRST + min(int(count), _MAX)):
        try:
            # They come without close-on-exec
            os.set_inheritable(fd, False)
            sockets.append(socket.socket(fileno=fd))
        except OSError as error:
            raise UsageError(f"what was handed over is no socket: descriptor {fd}: {error.strerror}") from error
    return sockets


class Notifier:
    """Says to the manager of services, if one wants to know, how it goes."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")

    def tell(self, text: str) -> None:
        """Send lines such as READY=1; raise OSError when the manager is gone."""
        if not self._address:
            return
        # An abstract socket is written with @
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.sendto(text.encode(), address)
