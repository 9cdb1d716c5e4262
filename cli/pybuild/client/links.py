"""Ways to a daemon: its unix socket, or that of another machine through ssh or TLS.

Whatever the way, there is one local socket to read from and to write to.
"""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pybuild.client.errors import DaemonError

if TYPE_CHECKING:
    from pybuild.client.hosts import Host

_MAX_PATH = 107
"""Longest path of a unix socket (unix(7), sun_path)."""


class Link(Protocol):
    """An open way to a daemon."""

    @property
    def socket(self) -> socket.socket:
        """Where bytes go in and come out."""
        ...

    def why(self) -> DaemonError | None:
        """Tell why it has ended, as far as that is known."""
        ...

    def close(self) -> None:
        """Close it; safe to call twice."""
        ...


class Plain:
    """A socket and nothing else."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected

    def why(self) -> DaemonError | None:
        return None

    def close(self) -> None:
        self.socket.close()


def connect(path: Path) -> socket.socket:
    """Return a connected socket; raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if len(os.fsencode(path)) <= _MAX_PATH:
            connection.connect(str(path))
        else:
            # A long directory is reached through a descriptor of it
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.close(directory)
    except BaseException:
        connection.close()
        raise
    return connection


def dial(host: "Host") -> Link:
    """Return a way to the daemon of a host; raise DaemonError."""
    if host.scheme == "ssh":
        from pybuild.client.ssh import Ssh

        return Ssh(host)
    try:
        if host.scheme == "unix":
            return Plain(connect(Path(host.path)))
        connected = socket.create_connection((host.machine, host.port), timeout=30)
        connected.settimeout(None)
    except OSError as error:
        told = error.strerror or str(error)
        raise DaemonError(f"cannot reach the daemon: {host.url}: {told}", "does it run there?") from error
    if not host.ca:
        return Plain(connected)
    from pybuild.client.tls import Tls

    return Tls(host, connected)
