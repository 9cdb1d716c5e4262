"""The far side of `--host ssh://`: standard input and output are a connection to the daemon of this machine."""

import os
import select
import socket
from pathlib import Path
from threading import Thread

from pybuild.client.errors import DaemonError
from pybuild.client.links import connect

_PIECE = 1 << 20


def relay(path: Path, *, given: int = 0, wanted: int = 1) -> None:
    """Copy between the descriptors and the daemon's socket until one of the three ends; raise DaemonError.

    The end of the input is the end of the client: ssh tells no difference between one that has been killed and one that
    sends no more. So is nobody being there to read, which shows though nothing is written (poll(2), POLLERR, POLLHUP).
    """
    try:
        daemon = connect(path)
    except OSError as error:
        raise DaemonError(f"cannot reach the daemon: {path}: {error.strerror}") from error
    with daemon:
        # Of its own: a daemon that answers early may read the rest of a request late, or never
        Thread(target=_send, args=(given, daemon), daemon=True, name="input").start()
        poll = select.poll()
        poll.register(daemon, select.POLLIN)
        poll.register(wanted, 0)
        try:
            while _receive(poll, daemon, wanted):
                pass
        except OSError as error:
            raise DaemonError(f"the connection broke: {error.strerror}") from error


def _send(given: int, daemon: socket.socket) -> None:
    try:
        while data := os.read(given, _PIECE):
            daemon.sendall(data)
        # Wakes who waits for the daemon
        daemon.shutdown(socket.SHUT_RDWR)
    except OSError:
        # The daemon has hung up, and its last words are still to be passed on
        pass


def _receive(poll: select.poll, daemon: socket.socket, wanted: int) -> bool:
    ready = dict(poll.poll())
    if daemon.fileno() in ready:
        data = daemon.recv(_PIECE)
        if not data:
            return False
        view = memoryview(data)
        while view:
            view = view[os.write(wanted, view) :]
    return ready.get(wanted, 0) & (select.POLLERR | select.POLLHUP) == 0
