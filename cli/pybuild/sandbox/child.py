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
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

import msgspec

from pybuild.errors import PybuildError
from pybuild.sandbox import descendants, syscalls, wire
from pybuild.sandbox.emulate.install import build_programs
from pybuild.sandbox.idmap import Footing, IdMode
from pybuild.sandbox.run import make_ready, ready_descriptors, seccomp_program

LASTING = frozenset({"run", "try_store"})
"""Jobs that leave their process as they found it: no archive of a stranger is read in it."""

_MOST_JOBS = 100
"""How many of them one process does: what is not freed without a garbage collection must not add up."""

_PREPARE, _GO, _FREE = b"prepare", b"go", b"free"

Job = Callable[[Any, list[int]], object]
"""Parameters in plain types and descriptors in; out comes what msgpack can carry. PybuildErrors travel back."""


def serve(number: int, mode: IdMode, jobs: Mapping[str, Job], footing: Footing = "namespaces") -> int:
    """Take on the mapped ids after `enter`, then serve jobs until the parent goes; return the exit status.

    `number` is the control socket's descriptor.
    """
    with socket.socket(fileno=number) as control:
        return _serve(control, mode, jobs, footing)


def _serve(control: socket.socket, mode: IdMode, jobs: Mapping[str, Job], footing: Footing) -> int:
    if control.recv(16) != b"mapped":
        return 1
    step = "become root of the user namespace"
    try:
        if mode != "single":
            os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
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
        # Nearly every RUN will need it; where there are more ids, only who asks
        import_module("pybuild.sandbox.emulate.supervisor")
        build_programs()
    # Forks share memory until it is written to, and a collection writes to all of it
    gc.collect()
    gc.disable()
    gc.freeze()
    _Server(control, mode, jobs, footing).loop()
    return 0


class _Process(NamedTuple):
    """A process for jobs; `orders` is where it hears of them, and says when it is free again."""

    pid: int
    orders: socket.socket


class _Server:
    """The poll loop. One process more than needed waits for the next job, so that none waits for a fork.

    A process that has done a job of `LASTING` takes another: what it wrote to is its own memory by then, which
    in a new one is copied page by page.
    """

    def __init__(
        self, control: socket.socket, mode: IdMode, jobs: Mapping[str, Job], footing: Footing = "namespaces"
    ) -> None:
        self._control = control
        self._footing = footing
        self._mode = mode
        self._jobs = jobs
        self._idle: list[_Process] = []
        self._running: dict[int, _Process] = {}
        self._pid = os.getpid()
        self._wake_reader, self._wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()

    def loop(self) -> None:
        # Inits whose job process dies come to this one, which waits for them
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _note)
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(self._wake_reader, select.POLLIN)
        try:
            while True:
                if not self._idle:
                    self._make_process()
                ready = {fd for fd, _ in self._poll.poll()}
                if self._wake_reader in ready:
                    os.read(self._wake_reader, 4096)
                    self._bury()
                # Before the next control message, which may cancel the job: its process is at work on no other yet
                for number in [number for number, process in self._running.items() if process.orders.fileno() in ready]:
                    self._take_back(number)
                if self._control.fileno() in ready and not self._take():
                    return
        finally:
            self._end()

    def _make_process(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._be_process(theirs)
        theirs.close()
        self._idle.append(_Process(pid, ours))
        self._prepare()

    def _prepare(self) -> None:
        """Let the next process make a sandbox ready while none is at work: they would hinder each other."""
        if self._footing == "namespaces" and self._idle and not self._running:
            with suppress(ConnectionError):
                self._idle[-1].orders.send(_PREPARE)

    def _bury(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                for number in [number for number, process in self._running.items() if process.pid == ended]:
                    self._unwatch(self._running.pop(number)).close()
                for process in [process for process in self._idle if process.pid == ended]:
                    self._idle.remove(process)
                    process.orders.close()
        if self._footing != "namespaces":
            # What a job leaves that is killed: no namespace ends with it
            descendants.kill_children({process.pid for process in (*self._idle, *self._running.values())})
        self._prepare()

    def _unwatch(self, process: _Process) -> socket.socket:
        with suppress(KeyError):
            self._poll.unregister(process.orders)
        return process.orders

    def _take_back(self, number: int) -> None:
        """Hear a process at work: it is free for another job, or has ended."""
        process = self._running[number]
        orders = self._unwatch(process)
        with suppress(ConnectionError):
            if orders.recv(16) == _FREE:
                del self._running[number]
                self._idle.append(process)

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
            if not self._idle:
                self._make_process()
            # The one that worked last has the most memory of its own
            process = self._idle.pop()
            # If it has just been killed, the parent sees its channel closed
            with suppress(ConnectionError):
                wire.send_with_fds(process.orders, _GO, fds)
            self._running[number] = process
            self._poll.register(process.orders, select.POLLIN)
        elif kind == wire.CANCEL and number in self._running:
            # Not reaped yet, so the number is still its own
            os.kill(self._running[number].pid, signal.SIGTERM)
        for fd in fds:
            os.close(fd)
        return True

    def _end(self) -> None:
        """End all that runs; returns when it is gone, as whoever waits for this process's end expects."""
        for process in (*self._idle, *self._running.values()):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        if self._footing != "namespaces":
            descendants.end_children()
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    def _be_process(self, orders: socket.socket) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == self._pid:
                self._control.close()
                for process in (*self._idle, *self._running.values()):
                    process.orders.close()
                os.close(self._wake_reader)
                os.close(self._wake_writer)
                _work(orders, self._mode, self._jobs)
                status = 0
        finally:
            # Never back into the loop, whatever happens
            os._exit(status)


def _work(orders: socket.socket, mode: IdMode, jobs: Mapping[str, Job]) -> None:
    """Do what is ordered until nothing more comes, or a job leaves this process other than it was."""
    for left in reversed(range(_MOST_JOBS)):
        word, fds = wire.receive_with_fds(orders, 16)
        while word == _PREPARE:
            make_ready(mode)
            word, fds = wire.receive_with_fds(orders, 16)
        if not fds:
            return

        def free(more: int = left) -> None:
            # Said before the answer, after which the next job may come at once; not by who is about to end
            if more:
                orders.send(_FREE)

        if not perform(socket.socket(fileno=fds[0]), jobs, free):
            return
        syscalls.close_all_but(orders.fileno(), *ready_descriptors())


def _note(*_: object) -> None:
    """Being called at all makes the wake-up pipe readable."""


def perform(channel: socket.socket, jobs: Mapping[str, Job], free: Callable[[], None] = lambda: None) -> bool:
    """Read a request from `channel`, do it and answer; tell whether this process can do another.

    If so, it calls `free` before it answers.
    """
    with channel:
        request = wire.receive(channel)
        if request is None:
            return False
        data, fds = request
        name = "job"
        lasting = False
        try:
            name, parameters = msgspec.msgpack.decode(data)
            answer = ["done", jobs[name](parameters, fds)]
            lasting = name in LASTING
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
            if lasting:
                free()
            wire.send(channel, msgspec.msgpack.encode(answer))
        except OSError:
            # Nobody waits for it any more
            return False
        return lasting
