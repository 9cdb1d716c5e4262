"""RUN: a process in a world of its own, from first clone to last reaping.

The job process is the parent. It clones `init`, pid 1 of new namespaces, which builds the root, forks the
payload and reaps whatever ends up as its child. When init ends the kernel kills all that is left in its
pid namespace, so nothing a RUN starts outlives it. What init has to say travels as records over a pipe;
silence is an error, never success.
"""

import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import msgspec

from pybuild.sandbox import ground, overlay, payload, resolv, syscalls, wire
from pybuild.sandbox.emulate.install import build_programs
from pybuild.sandbox.holder import bring_loopback_up, join
from pybuild.sandbox.idmap import IdMode
from pybuild.sandbox.machine import this_machine
from pybuild.sandbox.mounts import Parts, Root
from pybuild.sandbox.reports import cannot_execute, judge, note, reader_is_gone, tell, tell_error, watch
from pybuild.sandbox.seccomp import build_filter
from pybuild.sandbox.spec import Network, RunEnd, SandboxSpec
from pybuild.sandbox.users import Identity, resolve_user

if TYPE_CHECKING:
    from pybuild.sandbox.emulate.supervisor import Supervisor

T = TypeVar("T")

_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWCGROUP
)

# What msgspec has to know of the type it finds out once: here, before anything is forked
_SOMEBODY = msgspec.convert([0, 0, [0], "/"], Identity)


@cache
def seccomp_program() -> bytes:
    """Return the filter for this machine; building it takes a while, so a worker asks before it forks."""
    return build_filter(this_machine())


class _Ready(NamedTuple):
    """A sandbox that waits for its orders: init and the payload's process are there, and what needs no image.

    `report` is where init's records come from, `orders` the way to it.
    """

    pid: int
    report: int
    orders: socket.socket


_ready: list[_Ready] = []
"""What `make_ready` made: at most one."""


def make_ready(mode: IdMode) -> None:
    """Make what the next RUN needs and can be had without knowing it; what fails will fail again in `run`, and be told.

    It ends with this process.
    """
    if _ready:
        return
    with suppress(OSError):
        _ready.append(_begin(mode, "host"))


def ready_descriptors() -> list[int]:
    """Return the descriptors of what `make_ready` made."""
    return [fd for ready in _ready for fd in (ready.report, ready.orders.fileno())]


def run(
    spec: SandboxSpec,
    mode: IdMode,
    stdout: int,
    stderr: int,
    pack: Callable[[int], T],
    namespace: int | None = None,
    groups: Sequence[int] = (),
    stdin: Sequence[int] = (),
) -> tuple[RunEnd, T | None]:
    """Run a process to its end; its changes are in the directory `fs` of the staging directory afterwards.

    After status 0 they go through `pack`, which is given a descriptor of that directory; its result is the
    second value. `namespace` is a descriptor of the private network that the sandbox joins if it has one, `groups`
    are descriptors by which it enters control groups, `stdin` is the one that the spec says is given. SIGTERM to this
    process cancels: it reaches the payload's process group and, after the grace period, everything is killed. What
    keeps the sandbox from being made is the `problem` of the result; raises OSError when not even the staging directory
    can be used, and what `pack` raises.
    """
    if spec.emulation != "off":
        build_programs()
    wake_reader, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, note)
    resolv_conf = resolv.for_spec(spec)
    staging = ground.prepare(spec)
    usual = spec.network == "host" and not groups and not spec.insecure
    if _ready and usual:
        pid, reader, orders = _ready.pop()
    else:
        pid, reader, orders = _begin(mode, spec.network, namespace, groups, insecure=spec.insecure)
    supervisor: Supervisor | None = None
    try:
        if spec.emulation == "full":
            supervisor = _make_supervisor(spec)
        streams = [stdout, stderr, *stdin, *([supervisor.handover.fileno()] if supervisor else [])]
        with orders, suppress(ConnectionError):
            # Should it be gone, its report says why
            wire.send(orders, msgspec.msgpack.encode([_told(spec, supervisor), resolv_conf]), streams)
        if supervisor:
            supervisor.handover.close()
        # Whoever reads the output waits for the last one who could write
        for fd in {stdout, stderr, *stdin}:
            os.close(fd)
        # For the next one, while this one is busy with its command
        meanwhile = partial(make_ready, mode) if usual else None
        records, cancelled = watch(pid, reader, wake_reader, spec.grace, meanwhile)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        if supervisor:
            # Not a change more from here on
            ending, supervisor = supervisor, None
            ending.end()
        end, made = judge(records, cancelled)
        upper = os.open(overlay.UPPER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging)
        ground.finish(spec, staging, upper, made)
        # The kernel takes the namespaces down meanwhile; only init itself is left in them
        packed = pack(upper) if end.status == 0 and not end.cancelled else None
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if supervisor:
            supervisor.end()
    for fd in (reader, wake_reader, wake_writer, upper, staging):
        os.close(fd)
    return end, packed


def _make_supervisor(spec: SandboxSpec) -> "Supervisor":
    # Who has more than one id does without all that it imports
    from pybuild.sandbox.emulate.supervisor import Supervisor

    return Supervisor(spec.set_gid)


def _told(spec: SandboxSpec, supervisor: "Supervisor | None") -> dict[str, Any]:
    """Return the spec in plain types, as init is to see it."""
    plain = spec.to_wire()
    if not (supervisor and supervisor.watching):
        plain["set_gid"] = None
    return plain


def _begin(
    mode: IdMode,
    network: Network,
    namespace: int | None = None,
    groups: Sequence[int] = (),
    *,
    insecure: bool = False,
) -> _Ready:
    """Clone init into its namespaces; it waits for orders then. Raises OSError."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    # Init takes its signals one by one and must miss none
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    try:
        # The namespace of control groups is to begin at those it enters
        flags = _NAMESPACES & ~(syscalls.CLONE_NEWCGROUP if groups else 0)
        pid = syscalls.clone(flags | (syscalls.CLONE_NEWNET if network == "none" else 0))
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                _init(mode, network, writer, theirs, namespace, groups, insecure)
            finally:
                os._exit(1)
    except OSError:
        os.close(reader)
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(writer)
        theirs.close()
    return _Ready(pid, reader, ours)


def _init(
    mode: IdMode,
    network: Network,
    report: int,
    orders: socket.socket,
    namespace: int | None,
    groups: Sequence[int],
    insecure: bool,
) -> NoReturn:
    """Be pid 1: prepare, wait for orders, make the root, start the payload, reap until it ends."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if reader_is_gone(report):
            # The parent died before that took effect
            os._exit(1)
        # /proc/1 is closed to the payload: its exe is the interpreter, outside of the image
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        if namespace is not None:
            join(namespace)
        for group in groups:
            os.write(group, b"0")
        if groups:
            syscalls.unshare(syscalls.CLONE_NEWCGROUP)
        syscalls.close_all_but(report, orders.fileno())
        # Forked now, the payload's process prepares itself while the root is made; pivot_root takes it along
        forked = _fork_payload(mode, report, insecure) if mode == "single" or insecure else None
        os.umask(0)
        syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE)
        if network == "none":
            bring_loopback_up()
        parts = Parts(own_network=network != "host", hide=not insecure)
        order = wire.receive(orders)
        if order is None:
            os._exit(1)
        data, streams = order
        plain, resolv_conf = msgspec.msgpack.decode(data)
        spec = SandboxSpec.from_wire(plain)
        syscalls.sethostname(os.fsencode(spec.hostname))
        root = Root(spec, parts, resolv_conf)
        root.mount_all()
        tell(report, "made", root.stubs.made)
        who = resolve_user(root.fd, spec.user)
        payload.forbid_imports()
        root.enter()
        os.close(orders.detach())
        # They are mounted; and secrets in them are not all meant for the user it becomes
        plain["volumes"] = []
        if payload.can_be_spawned(spec, who, mode):
            payload.become_like(spec, who, mode, seccomp_program())
            try:
                child = payload.spawn(spec, who, *streams)
            except OSError as error:
                tell(report, "status", cannot_execute(report, streams[1], spec, error) << 8)
                os._exit(0)
        else:
            child, starting = forked or _fork_payload(mode, report, insecure)
            wire.send(starting, msgspec.msgpack.encode([plain, who]), streams)
            os.close(starting.detach())
        for fd in streams:
            os.close(fd)
        tell(report, "status", _reap(child))
        os._exit(0)
    except BaseException as error:
        tell_error(report, error)
        os._exit(1)


def _fork_payload(mode: IdMode, report: int, insecure: bool) -> tuple[int, socket.socket]:
    """Start the process that is to run; return its pid and what it waits at for its orders."""
    waiting, starting = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pid = syscalls.clone(0)
    if pid == 0:
        syscalls.close_all_but(report, waiting.fileno())
        _payload(mode, report, waiting, insecure)
    waiting.close()
    return pid, starting


def _payload(mode: IdMode, report: int, waiting: socket.socket, insecure: bool) -> NoReturn:
    """Be the process that is to run: prepare, wait for the root and the identity, execute."""
    try:
        payload.forbid_imports()
        payload.prepare(mode, None if insecure else seccomp_program())
        go = wire.receive(waiting)
        if go is None:
            # There will be no root, and init says why
            os._exit(1)
        data, (out, err, *others) = go
        os.dup2(out, 1)
        os.dup2(err, 2)
        plain, who = msgspec.msgpack.decode(data)
        spec = SandboxSpec.from_wire(plain)
        env = payload.become(spec, msgspec.convert(who, Identity), mode, *others)
        try:
            payload.execute(spec.argv, env)
        except OSError as error:
            os._exit(cannot_execute(report, 2, spec, error))
    except BaseException as error:
        tell_error(report, error)
        os._exit(1)


def _reap(child: int) -> int:
    """Wait for the payload and end all that it leaves; return its wait status. SIGTERM from outside is passed on."""
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
                _end_all()
                return status
            if pid == 0:
                break


def _end_all() -> None:
    """Kill and bury every other process of the pid namespace."""
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
            os.waitpid(-1, 0)
        except (ProcessLookupError, ChildProcessError):
            return
