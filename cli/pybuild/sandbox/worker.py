"""The parent's side: starts a worker and asks it to do jobs. Safe to be used by several threads."""

import itertools
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from pybuild.errors import CancelledError
from pybuild.sandbox import idmap, wire
from pybuild.sandbox.errors import JobFailedError as JobFailedError
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.idmap import Footing, IdMap, IdMode

if TYPE_CHECKING:
    from subprocess import Popen

START_SECONDS = 20.0
END_SECONDS = 5.0
_MESSAGE = 256
_KEPT_VARIABLES = ("LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "PYTHONHOME")


class Job:
    """A job on its way; `result` waits for it, `cancel` may be called from any thread, any number of times."""

    def __init__(self, worker: "Worker", number: int, channel: socket.socket) -> None:
        self._worker = worker
        self._number = number
        self._channel = channel
        self._cancelled = False
        self.timed_out = False

    def cancel(self) -> None:
        """Ask for its end: a RUN gets SIGTERM and its grace period, anything else just stops."""
        self._cancelled = True
        self._worker._cancel(self._number)

    def result(
        self,
        kind: Any,
        cancel_fd: int | None = None,
        seconds: float = 0,
        readers: Mapping[int, Callable[[], bool]] = MappingProxyType({}),
    ) -> Any:
        """Wait for the answer and return it as `kind` (a type msgspec can decode to). To be called once.

        When `cancel_fd` becomes readable the job is cancelled; nothing is read from it. The same happens, and
        `timed_out` tells of it, when that many `seconds` have passed and are not 0. Meanwhile each of `readers`
        is called when its descriptor is readable, until it says that nothing more comes. Raises what the job
        raised, CancelledError for one that had nothing more to say, JobFailedError.
        """
        try:
            if cancel_fd is not None:
                self._watch_or_cancel(cancel_fd, seconds, readers)
            answer = wire.receive(self._channel)
        except ConnectionError:
            answer = None
        finally:
            self._channel.close()
            self._worker._forget(self._number)
        if answer is None:
            if self._cancelled:
                raise CancelledError("the build was cancelled")
            raise self._worker._cause_of_death()
        return _open_answer(answer[0], kind)

    def _watch_or_cancel(self, cancel_fd: int, seconds: float, readers: Mapping[int, Callable[[], bool]]) -> None:
        try:
            self._watch(cancel_fd, seconds, readers)
        except BaseException:
            # Whoever hears of it may take away what the job works on
            self.cancel()
            wire.receive(self._channel)
            raise

    def _watch(self, cancel_fd: int, seconds: float, readers: Mapping[int, Callable[[], bool]]) -> None:
        """Return when the answer comes."""
        poll = select.poll()
        for fd in (self._channel.fileno(), cancel_fd, *readers):
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + seconds if seconds else None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = {fd for fd, _ in poll.poll(None if left is None else left * 1000)}
            for fd in ready & readers.keys():
                if not readers[fd]():
                    poll.unregister(fd)
            if self._channel.fileno() in ready:
                return
            if cancel_fd in ready or left == 0:
                self.timed_out = cancel_fd not in ready
                self.cancel()
                # Once is enough: from here on its end is waited for
                poll.unregister(cancel_fd)
                cancel_fd, deadline = -1, None


def _open_answer(data: bytes, kind: Any) -> Any:
    head, *parts = msgspec.msgpack.decode(data, type=list[msgspec.Raw])
    match msgspec.msgpack.decode(head):
        case "done":
            return msgspec.msgpack.decode(parts[0], type=kind)
        case "error":
            name, message, hint, fields = map(msgspec.msgpack.decode, parts)
            raise wire.revive_error(name, message, hint, fields)
        case _:
            raise RuntimeError(f"a job of the worker failed:\n{msgspec.msgpack.decode(parts[0])}")


class Worker:
    """A running worker. `mode` tells how its ids are mapped."""

    def __init__(self, process: "Popen[bytes]", control: socket.socket, mode: IdMode) -> None:
        self.mode: IdMode = mode
        self._process = process
        self._socket = control
        self._lock = Lock()
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._closed = False

    @staticmethod
    def start(ids: IdMap | None = None, footing: Footing = "namespaces") -> "Worker":
        """Start a worker with its ids mapped so (`idmap.choose` by default), in the namespaces of a footing.

        Returns when they are; the worker goes on to load its code meanwhile. Raises UserNamespaceError and
        IdMapError with advice.
        """
        return _start(ids or idmap.choose(), footing)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def close(self) -> None:
        """End the worker and everything in it; returns when all is gone."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._socket.close()
        self._await_end()

    def _await_end(self) -> None:
        # Popen.wait with a limit would sleep between looks
        fd = os.pidfd_open(self._process.pid)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            if not poll.poll(END_SECONDS * 1000):
                self._process.kill()
        finally:
            os.close(fd)
        self._process.wait()

    def submit(self, name: str, parameters: object, fds: Sequence[int] = ()) -> Job:
        """Start a job of the table the worker serves; the descriptors stay the caller's.

        `parameters` are plain types, or a list of such and of values with `to_wire`. Raises JobFailedError.
        """
        data = msgspec.msgpack.encode([name, _plain(parameters)])
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        number = next(self._numbers)
        job = Job(self, number, ours)
        try:
            with theirs, self._lock:
                if self._closed:
                    raise JobFailedError("the worker has been ended")
                # Known before it is sent, so that it can be cancelled as soon as it runs
                self._jobs[number] = job
                wire.send_with_fds(self._socket, wire.CONTROL.pack(wire.START, number), [theirs.fileno()])
            wire.send(ours, data, fds)
        except BaseException as error:
            ours.close()
            self._forget(number)
            if isinstance(error, ConnectionError):
                raise self._cause_of_death() from error
            raise
        return job

    def call(
        self,
        name: str,
        parameters: object,
        fds: Sequence[int] = (),
        *,
        result: Any = None,
        cancel_fd: int | None = None,
    ) -> Any:
        """Do a job and return its answer as the type `result`; see `submit` and `Job.result`."""
        return self.submit(name, parameters, fds).result(result, cancel_fd)

    def _cancel(self, number: int) -> None:
        with self._lock:
            if not self._closed and number in self._jobs:
                with suppress(ConnectionError):
                    wire.send_with_fds(self._socket, wire.CONTROL.pack(wire.CANCEL, number), [])

    def _cause_of_death(self) -> SandboxError:
        """Return the error for a job that was not answered: the worker may have said why it gave up."""
        with self._lock:
            if not self._closed:
                with suppress(OSError):
                    refused = _refusal(self._socket.recv(_MESSAGE, socket.MSG_DONTWAIT))
                    if refused is not None:
                        return refused
        return JobFailedError(
            "the worker process ended without an answer", "it was killed, or the machine is out of memory"
        )

    def _forget(self, number: int) -> None:
        with self._lock:
            self._jobs.pop(number, None)


def _plain(parameters: object) -> object:
    if isinstance(parameters, list | tuple):
        return [item.to_wire() if hasattr(item, "to_wire") else item for item in parameters]
    return parameters


def worker_command(control: int, mode: IdMode, footing: Footing = "namespaces") -> list[str]:
    """Return the command that runs this same program as a worker."""
    words = ["_child", "worker", str(control), mode, footing]
    if getattr(sys, "frozen", False):
        return [sys.executable, *words]
    # Without `site` it starts in half the time; nothing is looked for in the working directory
    return [sys.executable, "-S", "-s", "-P", "-m", "pybuild", *words]


def worker_environment() -> dict[str, str]:
    """Return the worker's environment: nothing of the caller's but what Python needs to find itself.

    A RUN could not read it anyway; what is not there cannot leak.
    """
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    if getattr(sys, "frozen", False):
        # It finds all that it needs beside itself
        return environment
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found = [path for path in sys.path if os.path.isabs(path) and os.path.isdir(path)]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([source, *found]))
    return environment


def _start(ids: IdMap, footing: Footing) -> Worker:
    import subprocess

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        process = subprocess.Popen(
            worker_command(theirs.fileno(), ids.mode, footing),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None,
            env=worker_environment(),
            cwd="/",
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise SandboxError(f"cannot start a worker: {error.strerror}") from error
    finally:
        theirs.close()
    try:
        _expect_entered(ours, process)
        if footing != "bare":
            idmap.write_maps(ids, process.pid, run_helper)
        ours.send(b"mapped", socket.MSG_NOSIGNAL)
    except BaseException as error:
        ours.close()
        process.kill()
        process.wait()
        if isinstance(error, OSError):
            raise JobFailedError(f"the worker ended at its start: {error.strerror}") from error
        raise
    return Worker(process, ours, ids.mode)


def _expect_entered(control: socket.socket, process: "Popen[bytes]") -> None:
    """Wait for the worker's word that it is in its namespace; raise what it was refused."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    if not poll.poll(START_SECONDS * 1000):
        raise JobFailedError(f"the worker was not ready within {START_SECONDS:.0f} seconds")
    said = control.recv(_MESSAGE)
    if said == b"entered":
        return
    refused = _refusal(said)
    if refused is not None:
        raise refused
    raise JobFailedError(f"the worker ended at its start with status {process.wait()}")


def _refusal(said: bytes) -> SandboxError | None:
    """Return the error for a worker's `refused ERRNO STEP`, None for anything else."""
    word, _, rest = said.decode(errors="replace").partition(" ")
    number, _, step = rest.partition(" ")
    return idmap.refused(step, int(number)) if word == "refused" and number.isdigit() else None


def run_helper(command: Sequence[str]) -> tuple[int, str]:
    """Run a program that writes a map; return its status and what it wrote to standard error."""
    import subprocess

    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            timeout=idmap.HELPER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"no end within {idmap.HELPER_SECONDS} seconds"
    except OSError as error:
        return 1, str(error.strerror)
    return done.returncode, done.stderr.decode(errors="replace")
