"""The worker's own loop, without a worker around it."""

import os
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from pybuild.errors import UsageError
from pybuild.sandbox import wire
from pybuild.sandbox.child import Job, _Server


def _fail(parameters: Any, fds: list[int]) -> object:
    raise UsageError("this fails")


JOBS: dict[str, Job] = {
    "echo": lambda parameters, fds: parameters,
    "fail": _fail,
    # What is asked of the sandbox's job here is what its process has open
    "run": lambda parameters, fds: [os.getpid(), len(os.listdir("/proc/self/fd")), len(fds)],
}


class Helper:
    """A process that waits for jobs."""

    def __init__(self, jobs: dict[str, Job]) -> None:
        self._unused = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server = _Server(self._unused[1], "root", jobs)
        self._server._make_process()
        (process,) = self._server._idle
        self.pid, self.orders = process

    def prepare(self) -> None:
        self._server._prepare()

    def ask(self, name: str, parameters: object, fds: list[int] | None = None) -> Any:
        asking, answering = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with asking:
            wire.send(asking, msgspec.msgpack.encode([name, parameters]), fds or [])
            with answering:
                wire.send_with_fds(self.orders, b"go", [answering.fileno()])
            answer = wire.receive(asking)
        assert answer is not None
        return msgspec.msgpack.decode(answer[0])

    def is_free(self) -> bool:
        """Has it said that it takes another job? Otherwise it has ended."""
        return self.orders.recv(16) == b"free"

    def close(self) -> int:
        self.orders.close()
        for unused in self._unused:
            unused.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def helper() -> Iterator[Helper]:
    helper = Helper(JOBS)
    yield helper
    assert helper.close() == 0


def test_a_process_that_waits_may_be_told_any_number_of_times_to_get_ready(helper: Helper) -> None:
    for _ in range(3):
        helper.prepare()
    assert helper.ask("echo", [1, 2]) == ["done", [1, 2]]


def test_a_process_that_worked_on_what_strangers_made_takes_no_other_job(helper: Helper) -> None:
    assert helper.ask("echo", 1) == ["done", 1]
    assert not helper.is_free()


def test_a_process_that_failed_takes_no_other_job(helper: Helper) -> None:
    assert helper.ask("fail", 1)[:3] == ["error", "UsageError", "this fails"]
    assert not helper.is_free()


def test_a_process_that_ran_a_sandbox_runs_more_and_keeps_none_of_their_descriptors(helper: Helper) -> None:
    reader, writer = os.pipe()
    answers = []
    # The first job's process still has what the test had open when it forked
    for count in (0, 0, 2, 0, 2):
        _, answer = helper.ask("run", None, [reader, writer][:count])
        assert helper.is_free()
        answers.append(answer)
    os.close(writer)
    # The end of the pipe is there: nobody else has it open
    assert os.read(reader, 1) == b""
    os.close(reader)
    pid, opened, _ = answers[1]
    assert answers[1:] == [[pid, opened, 0], [pid, opened + 2, 2], [pid, opened, 0], [pid, opened + 2, 2]]
    assert pid == helper.pid


def test_a_process_does_not_go_on_for_ever_and_does_every_job_that_it_said_it_was_free_for(helper: Helper) -> None:
    count = 1
    helper.ask("run", None)
    while helper.is_free():
        count += 1
        helper.ask("run", None)
    assert count == 100
