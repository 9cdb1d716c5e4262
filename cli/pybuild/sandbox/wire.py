"""What parent and child say to each other.

The control socket keeps messages apart (SOCK_SEQPACKET): START with a job's number and, as a descriptor, the
socket its request and answer go over; CANCEL with a number. On a job's socket (SOCK_STREAM) a request is
msgpack of [name, parameters], an answer of ["done", value], ["error", class, message, hint, fields] or
["bug", traceback]; each behind its length in bytes as eight bytes. Descriptors travel with the first byte.
"""

import socket
import struct
from collections.abc import Sequence
from typing import Any

from pybuild.errors import PybuildError
from pybuild.sandbox.errors import JobFailedError

START = 1
CANCEL = 2
CONTROL = struct.Struct("=BQ")
_LENGTH = struct.Struct("=Q")
MAX_FDS = 64
MAX_MESSAGE = 1 << 31
_SMALL = 64 << 10


def send_with_fds(channel: socket.socket, data: bytes, fds: Sequence[int]) -> int:
    """Send bytes with descriptors attached; return how many bytes went."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    return channel.sendmsg([data], rights, socket.MSG_NOSIGNAL)


def receive_with_fds(channel: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Return up to `size` bytes and the descriptors that came with them, not inheritable."""
    # socket.recv_fds of Python 3.11 drops its flags
    data, rights, _, _ = channel.recvmsg(size, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, packed in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += struct.unpack(f"{len(packed) // 4}i", packed)
    return data, fds


def send(channel: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send one message with descriptors; raise OSError when the other side is gone."""
    head = _LENGTH.pack(len(data))
    first = head + data if len(data) <= _SMALL else head
    sent = send_with_fds(channel, first, fds)
    # Sending nothing would fail too when the other side has read all, done its work and gone
    if sent < len(first):
        channel.sendall(first[sent:], socket.MSG_NOSIGNAL)
    if first is head and data:
        channel.sendall(data, socket.MSG_NOSIGNAL)


def receive(channel: socket.socket) -> tuple[bytes, list[int]] | None:
    """Return the next message and its descriptors; None when the other side is gone before its end."""
    head, fds = receive_with_fds(channel, _LENGTH.size)
    while 0 < len(head) < _LENGTH.size:
        more = channel.recv(_LENGTH.size - len(head))
        if not more:
            break
        head += more
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    if size > MAX_MESSAGE:
        return None
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = channel.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return bytes(data), fds


def describe_error(error: PybuildError) -> list[Any]:
    """Return an answer that carries an error across."""
    fields = {
        name: value
        for name, value in vars(error).items()
        if name not in ("message", "hint") and isinstance(value, str | int | bytes | None)
    }
    return ["error", type(error).__name__, error.message, error.hint, fields]


def revive_error(kind: str, message: str, hint: str, fields: dict[str, Any]) -> PybuildError:
    """Return an error of the class named, or JobFailedError when this process has not loaded it."""
    known: dict[str, type[PybuildError]] = {}
    pending: list[type[PybuildError]] = [PybuildError]
    while pending:
        found = pending.pop()
        known.setdefault(found.__name__, found)
        pending.extend(found.__subclasses__())
    cls = known.get(kind)
    if cls is None:
        return JobFailedError(message, hint, kind=kind)
    # Around the class's own constructor, whose parameters are unknown here
    error = cls.__new__(cls, message)
    PybuildError.__init__(error, message, hint)
    vars(error).update(fields)
    return error
