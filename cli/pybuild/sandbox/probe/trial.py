"""Trying something in a process that is thrown away, and learning which step of it failed.

To be used by a process with one thread: it forks.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NoReturn, Union

import msgspec

from pybuild.errors import PybuildError
from pybuild.sandbox import idmap, syscalls
from pybuild.sandbox.idmap import IdMap
from pybuild.sandbox.worker import run_helper

SECONDS = 20.0
"""How long an attempt may take, and everything tried inside a namespace together."""


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt went: `step` is the one that failed, "" if none did; `detail` what was learnt."""

    step: str = ""
    number: int = 0
    problem: str = ""
    hint: str = ""
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Did every step work?"""
        return not self.step


class Steps:
    """Told of each step before it is done."""

    def __init__(self) -> None:
        self.now = "begin"

    def __call__(self, step: str) -> None:
        self.now = step


Body = Callable[[Steps], Union[str, "Outcome", None]]
"""What is tried. It may return what was learnt, or the outcome of an attempt of its own."""


def attempt(body: Body) -> Outcome:
    """Do `body` in a child process and return how far it came."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _be_child(lambda: _write(writer, msgspec.msgpack.encode(_tried(body))))
    os.close(writer)
    try:
        said = _read_all(reader, SECONDS)
    finally:
        os.close(reader)
        status = _end(pid)
    return _outcome(said, status)


def _be_child(action: Callable[[], None]) -> NoReturn:
    status = 1
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        action()
        status = 0
    finally:
        # Never back into the caller's code, whatever happens
        os._exit(status)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _tried(body: Body) -> Outcome:
    steps = Steps()
    try:
        learnt = body(steps)
    except OSError as error:
        return Outcome(steps.now, error.errno or 0, _sentence(steps.now, error))
    except PybuildError as error:
        cause = error.__cause__
        return Outcome(steps.now, (isinstance(cause, OSError) and cause.errno) or 0, error.message, error.hint)
    return learnt if isinstance(learnt, Outcome) else Outcome(detail=learnt or "")


def _sentence(step: str, error: OSError) -> str:
    return f"cannot {step}: {error.strerror or error}"


def _outcome(said: bytes, status: int) -> Outcome:
    if said:
        with suppress(msgspec.DecodeError):
            return msgspec.msgpack.decode(said, type=Outcome)
    code = os.waitstatus_to_exitcode(status)
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return Outcome("run at all", 0, f"the process that tried it {how}")


def _read_all(fd: int, seconds: float) -> bytes:
    """Return all that comes; what came until then when it takes too long."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    data = b""
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        more = os.read(fd, 65536)
        if not more:
            break
        data += more
    return data


def _end(pid: int) -> int:
    """Bury a child, which has said all it had to or is too late; return its wait status."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def inside(ids: IdMap, bodies: Mapping[str, Body]) -> tuple[Outcome, dict[str, Outcome]]:
    """Make a user namespace with `ids`, and try each of `bodies` in there, separately.

    The first value tells how the namespace was made; without it nothing was tried.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _be_child(lambda: _try_inside(theirs, ids, bodies))
    theirs.close()
    status: int | None = None
    try:
        with ours:
            ours.settimeout(SECONDS)
            said = _receive(ours)
            if said == b"entered":
                refused = _tried(lambda steps: _map(steps, ids, pid))
                if not refused.ok:
                    return refused, {}
                ours.sendall(b"mapped")
                said = _read_all(ours.fileno(), SECONDS)
    finally:
        status = _end(pid)
    if not said:
        return _outcome(b"", status), {}
    return msgspec.msgpack.decode(said, type=tuple[Outcome, dict[str, Outcome]])


def _receive(channel: socket.socket) -> bytes:
    try:
        return channel.recv(65536)
    except (TimeoutError, ConnectionError):
        return b""


def _map(steps: Steps, ids: IdMap, pid: int) -> None:
    steps("map ids")
    idmap.write_maps(ids, pid, run_helper)


def _try_inside(channel: socket.socket, ids: IdMap, bodies: Mapping[str, Body]) -> None:
    made = _tried(lambda steps: _enter(steps, channel, ids))
    found = {name: attempt(body) for name, body in bodies.items()} if made.ok else {}
    channel.sendall(msgspec.msgpack.encode([made, found]))


def _enter(steps: Steps, channel: socket.socket, ids: IdMap) -> None:
    """Do what a worker does, in its order."""
    steps("make a user namespace")
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    channel.sendall(b"entered")
    if channel.recv(16) != b"mapped":
        os._exit(1)
    steps("become root of the user namespace")
    if ids.mode != "single":
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
