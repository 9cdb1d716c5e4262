"""The worker's side after `enter`: forks a process for each job it is asked for.

One thread, one poll loop. It ends, and with it all jobs and sandboxes, when its parent closes the control
socket or is gone; a job dies with the worker because it asked the kernel for that.
"""

import gc
import os
import select
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

import msgspec

from pybuild.errors import PybuildError
from pybuild.sandbox import syscalls, wire
from pybuild.sandbox.emulate.install import build_programs
from pybuild.sandbox.idmap import IdMode
from pybuild.sandbox.run import make_ready, seccomp_program

Job = Callable[[Any, list[int]], object]
"""Parameters in plain types and descriptors in; out comes what msgpack can carry. PybuildErrors travel back."""


def serve(number: int, mode: IdMode, jobs: Mapping[str, Job]) -> int:
    """Take on the mapped ids after `enter`, then serve jobs until the parent goes; return the exit status.

    `number` is the control socket's descriptor.
    """
    with socket.socket(fileno=number) as control:
        return _serve(control, mode, jobs)


def _serve(control: socket.socket, mode: IdMode, jobs: Mapping[str, Job]) -> int:
    if control.recv(16) != b"mapped":
        return 1
    step = "become root of the user namespace"
    try:
        if mode != "single":
            os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        step = "separate the mount namespace"
        syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_SLAVE)
        # From here on its memory and descriptors are closed to processes of the same user
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    except OSError as error:
        control.send(f"refused {error.errno} {step}".encode())
        return 1
    os.umask(0o022)
    os.chdir("/")
    # Python's own handler would let a RUN end its pid 1, which no signal without a handler can
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    seccomp_program()
    if mode == "single":
        build_programs()
    # Forks share memory until it is written to, and a collection writes to all of it
    gc.collect()
    gc.disable()
    gc.freeze()
    _Server(control, mode, jobs).loop()
    return 0


class _Server:
    """The poll loop. One process more than needed waits for the next job, so that none waits for a fork."""

    def __init__(self, control: socket.socket, mode: IdMode, jobs: Mapping[str, Job]) -> None:
        self._control = control
        self._mode = mode
        self._jobs = jobs
        self._running: dict[int, int] = {}
        self._pid = os.getpid()
        self._wake_reader, self._wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._spare_pid = 0
        self._spare: socket.socket | None = None

    def loop(self) -> None:
        # Inits whose job process dies come to this one, which waits for them
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _note)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_reader, select.POLLIN)
        try:
            while True:
                if self._spare is None:
                    self._make_spare()
                ready = {fd for fd, _ in poll.poll()}
                if self._wake_reader in ready:
                    os.read(self._wake_reader, 4096)
                    self._bury()
                if self._control.fileno() in ready and not self._take():
                    return
        finally:
            self._end()

    def _make_spare(self) -> None:
        self._spare, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            self._be_job(theirs)
        theirs.close()
        self._spare_pid = pid
        self._prepare_spare()

    def _prepare_spare(self) -> None:
        """Let the spare process make a sandbox ready while none is at work: they would hinder each other."""
        if self._spare is not None and not self._running:
            with suppress(ConnectionError):
                self._spare.send(b"prepare")

    def _bury(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                self._running = {number: pid for number, pid in self._running.items() if pid != ended}
                if ended == self._spare_pid and self._spare is not None:
                    self._spare.close()
                    self._spare = None
        self._prepare_spare()

    def _take(self) -> bool:
        """Do what one control message says; tell whether the parent is still there."""
        try:
            data, fds = wire.receive_with_fds(self._control, wire.CONTROL.size)
        except ConnectionError:
            return False
        if len(data) != wire.CONTROL.size:
            return False
        kind, number = wire.CONTROL.unpack(data)
        if kind == wire.START and fds:
            if self._spare is None:
                self._make_spare()
            assert self._spare is not None
            # If the spare has just been killed, the parent sees its channel closed
            with suppress(ConnectionError):
                wire.send_with_fds(self._spare, b"go", fds)
            self._spare.close()
            self._spare = None
            self._running[number] = self._spare_pid
        elif kind == wire.CANCEL and number in self._running:
            # Not reaped yet, so the number is still its own
            os.kill(self._running[number], signal.SIGTERM)
        for fd in fds:
            os.close(fd)
        return True

    def _end(self) -> None:
        """End all that runs; returns when it is gone, as whoever waits for this process's end expects."""
        for pid in {self._spare_pid, *self._running.values()} - {0}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    def _be_job(self, orders: socket.socket) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == self._pid:
                self._control.close()
                if self._spare is not None:
                    self._spare.close()
                os.close(self._wake_reader)
                os.close(self._wake_writer)
                word, fds = wire.receive_with_fds(orders, 16)
                while word == b"prepare":
                    make_ready(self._mode)
                    word, fds = wire.receive_with_fds(orders, 16)
                orders.close()
                if fds:
                    perform(socket.socket(fileno=fds[0]), self._jobs)
                status = 0
        finally:
            # Never back into the loop, whatever happens
            os._exit(status)


def _note(*_: object) -> None:
    """Being called at all makes the wake-up pipe readable."""


def perform(channel: socket.socket, jobs: Mapping[str, Job]) -> None:
    """Read a request from `channel`, do it and answer."""
    request = wire.receive(channel)
    if request is None:
        return
    data, fds = request
    name = "job"
    try:
        name, parameters = msgspec.msgpack.decode(data)
        answer = ["done", jobs[name](parameters, fds)]
    except PybuildError as error:
        answer = wire.describe_error(error)
    except OSError as error:
        where = f": {os.fsdecode(error.filename)}" if error.filename else ""
        hint = "free some space, or name another store with PYBUILD_STORE" if error.errno == 28 else ""
        answer = ["error", "SandboxError", f"cannot {name}: {error.strerror or error}{where}", hint, {}]
    except Exception as error:
        import traceback

        answer = ["bug", "".join(traceback.format_exception(error))]
    try:
        wire.send(channel, msgspec.msgpack.encode(answer))
    except OSError:
        # Nobody waits for it any more
        return
