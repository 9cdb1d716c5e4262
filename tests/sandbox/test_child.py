"""The worker's own loop, without a worker around it."""

import os
import socket

import msgspec

from pybuild.sandbox import wire
from pybuild.sandbox.child import _Server


def test_a_process_that_waits_may_be_told_any_number_of_times_to_get_ready() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = _Server(theirs, "root", {"echo": lambda parameters, fds: parameters})
    server._make_spare()
    pid, spare = server._spare_pid, server._spare
    assert spare is not None
    for _ in range(3):
        server._prepare_spare()
    asking, answering = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs, spare, asking:
        wire.send(asking, msgspec.msgpack.encode(["echo", [1, 2]]))
        wire.send_with_fds(spare, b"go", [answering.fileno()])
        answering.close()
        answer = wire.receive(asking)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert answer is not None
    assert msgspec.msgpack.decode(answer[0]) == ["done", [1, 2]]
