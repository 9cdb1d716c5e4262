"""Messages between the worker and its parent."""

import os
import socket
from collections.abc import Iterable
from typing import Any

import pytest

from pybuild.sandbox import wire


class Quick(socket.socket):
    """A socket whose other side reads what it was sent and leaves before the sender goes on."""

    peer: socket.socket
    received: tuple[bytes, list[int]] | None = None

    def sendmsg(self, buffers: Iterable[Any], *args: Any) -> int:  # type: ignore[override]
        sent = super().sendmsg(buffers, *args)
        self.received = wire.receive(self.peer)
        self.peer.close()
        return sent


def quick() -> Quick:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = Quick(fileno=ours.detach())
    channel.peer = theirs
    return channel


@pytest.mark.parametrize("data", [b"", b"x", bytes(wire._SMALL)])
def test_receiver_may_be_gone_once_it_has_everything(data: bytes) -> None:
    with quick() as channel:
        wire.send(channel, data)
        assert channel.received == (data, [])


def test_large_messages_and_descriptors_arrive() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    data = os.urandom(wire._SMALL + 1)
    with ours, theirs, open(os.devnull, "rb") as file:
        wire.send(ours, data, [file.fileno()])
        received = wire.receive(theirs)
        assert received is not None
        assert received[0] == data
        [fd] = received[1]
        assert os.path.sameopenfile(fd, file.fileno())
        os.close(fd)


def test_receiver_that_is_gone_before_is_an_error() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    theirs.close()
    with ours, pytest.raises(OSError):
        wire.send(ours, b"x")
