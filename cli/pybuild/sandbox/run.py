"""RUN: a process in a world of its own, from first clone to last reaping.

The job process is the parent. It clones `init`, pid 1 of new namespaces, which builds the root, forks the
payload and reaps whatever ends up as its child. When init ends the kernel kills all that is left in its
pid namespace, so nothing a RUN starts outlives it. What init has to say travels as records over a pipe;
silence is an error, never success.
"""

import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from functools import cache
from typing import Any, NoReturn

import msgspec

from pybuild.errors import PybuildError
from pybuild.sandbox import overlay, payload, syscalls
from pybuild.sandbox.idmap import IdMode
from pybuild.sandbox.machine import this_machine
from pybuild.sandbox.mounts import Root
from pybuild.sandbox.seccomp import build_filter
from pybuild.sandbox.spec import RunEnd, SandboxSpec
from pybuild.sandbox.stubs import Made, remove_stubs
from pybuild.sandbox.users import Identity, resolve_user

_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWCGROUP
)
_RESOLV_LIMIT = 64 << 10
_PIPE_RECORD = 1 << 20
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


@cache
def seccomp_program() -> bytes:
    """Return the filter for this machine; building it takes a while, so a worker asks before it forks."""
    return build_filter(this_machine())


def run(spec: SandboxSpec, mode: IdMode, stdout: int, stderr: int) -> RunEnd:
    """Run a process to its end; its changes are in the directory `fs` of the staging directory afterwards.

    SIGTERM to this process cancels: it reaches the payload's process group and, after the grace period, everything
    is killed. What keeps the sandbox from being made is the `problem` of the result; raises OSError when
    not even the staging directory can be used.
    """
    resolv_conf = _resolv_conf(spec)
    staging = overlay.prepare(spec)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    wake_reader, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    flags = _NAMESPACES | (syscalls.CLONE_NEWNET if spec.network == "none" else 0)
    # Init takes its signals one by one and must miss none; this process hears them by its pipe
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    pid = syscalls.clone(flags)
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            _init(spec, mode, writer, stdout, stderr, resolv_conf)
        finally:
            os._exit(1)
    signal.signal(signal.SIGTERM, _note)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    os.close(writer)
    try:
        records, cancelled = _watch(pid, reader, wake_reader, spec.grace)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for fd in (reader, wake_reader, wake_writer):
            os.close(fd)
    end, made = _judge(records, cancelled)
    upper = os.open(overlay.UPPER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging)
    try:
        remove_stubs(upper, made)
        overlay.clear(staging)
    finally:
        os.close(upper)
        os.close(staging)
    return end


def _note(*_: object) -> None:
    """Being called at all makes the wake-up pipe readable."""


def _watch(pid: int, reader: int, wake: int, grace: float) -> tuple[bytes, bool]:
    """Collect init's records until it ends; return them, and whether it was cancelled."""
    records = bytearray()
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(wake, select.POLLIN)
    deadline: float | None = None
    try:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            events = dict(poll.poll(left))
            if wake in events:
                os.read(wake, 64)
                if deadline is None:
                    deadline = time.monotonic() + grace
                    os.kill(pid, signal.SIGTERM)
            if reader in events:
                data = os.read(reader, 65536)
                if not data:
                    break
                if len(records) < _PIPE_RECORD:
                    records += data
            if deadline is not None and time.monotonic() >= deadline:
                break
    finally:
        # Does no harm to one that has ended, it is not reaped yet
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return bytes(records), deadline is not None


def _judge(records: bytes, cancelled: bool) -> tuple[RunEnd, Made]:
    made = Made()
    message = ""
    status: int | None = None
    problem: tuple[str, str] | None = None
    for kind, value in _read_records(records):
        match kind:
            case "made":
                made = msgspec.convert(value, Made)
            case "problem":
                problem = problem or (value[0], value[1])
            case "bug":
                raise RuntimeError(f"the sandbox failed inside:\n{value}")
            case "exec":
                message = value
            case "status":
                status = value
    if cancelled:
        return RunEnd(128 + signal.SIGTERM, cancelled=True), made
    if problem is not None:
        return RunEnd(-1, problem=problem[0], hint=problem[1]), made
    if status is None:
        return RunEnd(
            -1, problem="the sandbox's first process was killed", hint="the machine may be out of memory"
        ), made
    code = os.waitstatus_to_exitcode(status)
    return RunEnd(code if code >= 0 else 128 - code, message=message), made


def _init(spec: SandboxSpec, mode: IdMode, report: int, stdout: int, stderr: int, resolv_conf: bytes) -> NoReturn:
    """Be pid 1: make the root, start the payload, reap until it ends."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if _reader_is_gone(report):
            # The parent died before that took effect
            os._exit(1)
        # /proc/1 is closed to the payload: its exe is the interpreter, outside of the image
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        _close_all_but(report, stdout, stderr)
        os.umask(0)
        syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.sethostname(os.fsencode(spec.hostname))
        if spec.network == "none":
            _bring_loopback_up()
        root = Root(spec, resolv_conf)
        root.mount_all()
        _tell(report, "made", root.stubs.made)
        who = resolve_user(root.fd, spec.user)
        _forbid_imports()
        root.enter()
        child = os.fork()
        if child == 0:
            _payload(spec, who, mode, report, stdout, stderr)
        for fd in {stdout, stderr}:
            os.close(fd)
        _tell(report, "status", _reap(child))
        os._exit(0)
    except BaseException as error:
        _tell_error(report, error)
        os._exit(1)


def _payload(spec: SandboxSpec, who: Identity, mode: IdMode, report: int, stdout: int, stderr: int) -> NoReturn:
    try:
        # Both may be one pipe, or have the number of the other
        out, err = os.dup(stdout), os.dup(stderr)
        os.dup2(out, 1)
        os.dup2(err, 2)
        env = payload.become(spec, who, mode, seccomp_program())
        error = payload.execute(spec.argv, env)
        message = f"cannot execute `{spec.argv[0]}`: {error.strerror}"
        _tell(report, "exec", message)
        os.write(2, os.fsencode(f"{message}\n"))
        os._exit(payload.exit_code(error))
    except BaseException as error:
        _tell_error(report, error)
        os._exit(1)


def _reap(child: int) -> int:
    """Wait for the payload, bury orphans meanwhile; return its wait status. SIGTERM from outside is passed on."""
    while True:
        info = signal.sigwaitinfo({signal.SIGCHLD, signal.SIGTERM})
        if info.si_signo == signal.SIGTERM:
            # Senders inside this pid namespace have a number here, the parent has none
            if info.si_pid == 0:
                try:
                    os.killpg(child, signal.SIGTERM)
                except ProcessLookupError:
                    # It has not come to make its group yet, or is gone
                    os.kill(child, signal.SIGTERM)
            continue
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
                return status
            if pid == 0:
                break


def _reader_is_gone(writer: int) -> bool:
    poll = select.poll()
    poll.register(writer, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _close_all_but(*kept: int) -> None:
    first = 3
    for fd in sorted(set(kept)):
        if fd > first:
            syscalls.close_range(first, fd - 1)
        first = max(first, fd + 1)
    syscalls.close_range(first)


def _bring_loopback_up() -> None:
    name = struct.pack("16sH22x", b"lo", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        (flags,) = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, name), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


def _tell(report: int, kind: str, value: object) -> None:
    data = msgspec.msgpack.encode([kind, value])
    view = memoryview(struct.pack("I", len(data)) + data)
    while view:
        view = view[os.write(report, view) :]


def _tell_error(report: int, error: BaseException) -> None:
    if isinstance(error, PybuildError):
        _tell(report, "problem", [error.message, error.hint])
    elif isinstance(error, OSError):
        what = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else str(error.strerror)
        _tell(report, "problem", [f"cannot make the sandbox: {what}", ""])
    else:
        _tell(report, "bug", _trace(error))


def _forbid_imports() -> None:
    """Inside of the image's root an import would run the image's code, with more rights than it is to have."""
    for places in (sys.meta_path, sys.path_hooks, sys.path):
        places.clear()
    sys.path_importer_cache.clear()


def _trace(error: BaseException) -> str:
    """Return where an error came from. The library's traceback would look for source files in the image."""
    lines = []
    step = error.__traceback__
    while step is not None:
        lines.append(f"  {step.tb_frame.f_code.co_filename}:{step.tb_lineno} in {step.tb_frame.f_code.co_name}")
        step = step.tb_next
    return "\n".join([*lines, f"{type(error).__name__}: {error}"])


def _read_records(data: bytes) -> Iterator[tuple[str, Any]]:
    """Yield the whole records; one cut short by a sudden death counts as never written."""
    position = 0
    while position + 4 <= len(data):
        (size,) = struct.unpack_from("I", data, position)
        position += 4
        if position + size > len(data):
            return
        kind, value = msgspec.msgpack.decode(data[position : position + size])
        yield kind, value
        position += size


def _resolv_conf(spec: SandboxSpec) -> bytes:
    """Return what the host says about name servers; nothing where there is no network to ask over."""
    if spec.network == "none":
        return b""
    try:
        fd = os.open("/etc/resolv.conf", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _RESOLV_LIMIT)
    finally:
        os.close(fd)
