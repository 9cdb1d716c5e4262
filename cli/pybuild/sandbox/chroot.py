"""RUN where no mounts can be made: a process whose root directory is the tree, by chroot, and little else around it.

For root in a container that is refused namespaces, and for users who may make a user namespace but mount nothing.
The job process prepares the tree (`standins.py`) and clones `init`, into such namespaces as it is allowed; init forks
the payload and, as a subreaper, ends all that is left of it. What keeps the payload in its place: no capability to
change its root again or to make devices, the filter of system calls and, where the kernel has it, Landlock.
"""

import errno
import os
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NoReturn, TypeVar, assert_never

import msgspec

from pybuild.errors import PybuildError
from pybuild.sandbox import confine, ground, payload, resolv, syscalls, terminal
from pybuild.sandbox.attach import check_target
from pybuild.sandbox.descendants import end_children
from pybuild.sandbox.emulate.install import build_programs
from pybuild.sandbox.emulate.supervisor import Supervisor
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.holder import bring_loopback_up
from pybuild.sandbox.idmap import IdMode
from pybuild.sandbox.mounts import Parts, hosts_file
from pybuild.sandbox.overlay import UPPER
from pybuild.sandbox.ownership import give
from pybuild.sandbox.reports import cannot_execute, judge, note, reader_is_gone, tell, tell_error, watch
from pybuild.sandbox.run import seccomp_program
from pybuild.sandbox.spec import Emulation, RunEnd, SandboxSpec
from pybuild.sandbox.standins import Standins, Tools, write_file
from pybuild.sandbox.stubs import Stubs
from pybuild.sandbox.users import Identity, resolve_user
from pybuild.sandbox.volumes import Directory, File, HostDevice, HostPath, Layers, Memory, Socket, Volume

T = TypeVar("T")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN = (b"proc", b"sys", b"dev")
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_PROC_FILES = ("cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime", "version")
"""What programs look for in /proc and is the same for every process; it is copied."""
_NAMESPACES = (
    syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS,
    syscalls.CLONE_NEWPID,
    0,
)
"""Tried in this order: the first set that is allowed is taken."""
_ORPHANED = signal.SIGHUP
"""What init gets when its parent is gone."""
_REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EINVAL, errno.ENOSYS, errno.EUSERS)


def run(
    spec: SandboxSpec,
    mode: IdMode,
    stdout: int,
    stderr: int,
    pack: Callable[[int], T],
    tools: Tools,
    groups: Sequence[int] = (),
    stdin: Sequence[int] = (),
) -> tuple[RunEnd, T | None]:
    """Run a process to its end, as `sandbox.run.run` does, in a tree that is changed in place.

    Signals, results and errors are the same. `tools` are for what stands in for mounts.
    """
    if spec.emulation != "off":
        build_programs()
    wake_reader, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, note)
    # Should init be killed, what it leaves comes here
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    staging = ground.prepare(spec)
    tree = os.open(UPPER, _DIRECTORY, dir_fd=staging)
    packed = None
    try:
        _check(spec)
        with _prepared(spec, staging, tree, tools):
            records, cancelled = _run_in(spec, mode, tree, [stdout, stderr, *stdin], groups, wake_reader)
        end, _ = judge(records, cancelled)
    except PybuildError as error:
        end = RunEnd(-1, problem=error.message, hint=error.hint)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
    if end.status == 0 and not end.cancelled:
        packed = pack(tree)
    for fd in (wake_reader, wake_writer, tree, staging):
        os.close(fd)
    return end, packed


def _check(spec: SandboxSpec) -> None:
    if spec.insecure:
        raise SandboxError("a RUN with `--security=insecure` needs namespaces, which are refused here")


def _run_in(
    spec: SandboxSpec, mode: IdMode, tree: int, streams: Sequence[int], groups: Sequence[int], wake: int
) -> tuple[dict[str, object], bool]:
    """Run the process in the tree as it is; return the records of its end, and whether it was cancelled."""
    who = resolve_user(tree, spec.user)
    # What a RUN leaves running here may make files when nobody looks any more
    spec = msgspec.structs.replace(spec, set_gid=None)
    supervisor = Supervisor() if spec.emulation == "full" else None
    pid = -1
    try:
        handover = [supervisor.handover.fileno()] if supervisor else []
        pid, reader = _begin(spec, mode, tree, [*streams, *handover], groups, who)
        if supervisor:
            supervisor.handover.close()
        # Whoever reads the output waits for the last one who could write
        for fd in set(streams):
            os.close(fd)
        records, cancelled = watch(pid, reader, wake, spec.grace, None)
        os.close(reader)
        return records, cancelled
    finally:
        if pid > 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if supervisor:
            supervisor.end()
        end_children()


# The tree


@contextmanager
def _prepared(spec: SandboxSpec, staging: int, tree: int, tools: Tools) -> Iterator[None]:
    """Put what stands for mounts into the tree, and take it out again. Raises SandboxError."""
    aside = ground.open_aside(spec, staging)
    assert aside is not None
    stubs = Stubs(tree, tree, aside)
    standins = Standins(tree, aside, tools, ground.Lent(staging).add)
    try:
        try:
            _fill(spec, stubs, standins)
        except OSError as error:
            what = f": {os.fsdecode(error.filename)}" if error.filename else ""
            raise SandboxError(f"cannot prepare the tree of a RUN: {error.strerror}{what}") from error
        yield
    finally:
        standins.take_back()
        os.close(aside)
        ground.finish(spec, staging, tree, stubs.made, standins.touched)


def _fill(spec: SandboxSpec, stubs: Stubs, standins: Standins) -> None:
    for name in _OWN:
        stubs.keep_directory(name)
    # Before anything is put into the tree by names that lead through these
    _fill_proc(standins.directory(b"proc", 0o555))
    standins.directory(b"sys", 0o555)
    _fill_dev(spec, standins.directory(b"dev"))
    for item in spec.mounts:
        if item.lent and (not item.optional or _has(stubs, item.target)):
            stubs.lend(os.fsencode(item.target), item.content, item.mode)
    stubs.settle()
    files = [("/etc/resolv.conf", resolv.for_spec(spec), 0o644), ("/etc/hosts", hosts_file(spec), 0o644)]
    files.append(("/etc/hostname", spec.hostname.encode() + b"\n", 0o644))
    files += [(item.target, item.content, item.mode) for item in spec.mounts if not item.lent]
    optional = {item.target for item in spec.mounts if item.optional}
    for target, content, mode in files:
        if target.startswith("/dev/") or target not in optional or _has(stubs, target):
            standins.file(os.fsencode(target), content, mode, follow=False)
    standins.guard(check_target)
    for volume in sorted(spec.volumes, key=lambda volume: volume.target):
        _put(volume, standins, spec.emulation)


def _has(stubs: Stubs, target: str) -> bool:
    return stubs.has(os.fsencode(target))


def _fill_proc(proc: int) -> None:
    for name in _PROC_FILES:
        with suppress(OSError), open(f"/proc/{name}", "rb") as file:
            write_file(proc, name.encode(), file.read(1 << 20), 0o444)
    write_file(proc, b"mounts", b"none / none rw 0 0\n", 0o444)


def _fill_dev(spec: SandboxSpec, dev: int) -> None:
    for name, (major, minor) in _DEVICES.items():
        if not _make_device(dev, name, os.makedev(major, minor)) and name == "null":
            # What is written to it is kept until the end; what is read is what was written
            write_file(dev, b"null", b"", 0o666)
    _make_shm(dev)
    if spec.scripts:
        os.mkdir("pipes", 0o755, dir_fd=dev)
        pipes = os.open("pipes", _DIRECTORY, dir_fd=dev)
        _write_scripts(spec, pipes)
        os.close(pipes)


def _make_shm(dev: int) -> None:
    os.mkdir("shm", 0o700, dir_fd=dev)
    os.chmod("shm", 0o1777, dir_fd=dev)


def _write_scripts(spec: SandboxSpec, directory: int) -> None:
    for name, content in spec.scripts:
        write_file(directory, os.fsencode(name), content, 0o755)


def _make_device(dev: int, name: str, rdev: int) -> bool:
    """Make a device and tell whether it can be used: on some mounts it is there and cannot be opened."""
    try:
        os.mknod(name, stat.S_IFCHR | 0o600, rdev, dir_fd=dev)
    except PermissionError:
        return False
    os.chmod(name, 0o666, dir_fd=dev)
    if name != "tty":
        try:
            os.close(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dev))
        except OSError:
            os.unlink(name, dir_fd=dev)
            return False
    return True


def _put(volume: Volume, standins: Standins, emulation: Emulation) -> None:
    match volume:
        case Directory():
            root = os.open(volume.path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _put_part(volume, root, standins)
            finally:
                os.close(root)
        case Memory():
            standins.directory(volume.target, 0o1777)
        case File():
            owned = partial(give, uid=volume.uid, gid=volume.gid, emulation=emulation)
            standins.file(volume.target, volume.content, volume.mode, owned)
        case Socket():
            give(volume.path, volume.uid, volume.gid, emulation)
            standins.linked(volume.target, volume.path)
        case HostDevice():
            standins.device(volume.target, os.stat(volume.path))
        case HostPath():
            if "ro" not in volume.attributes:
                raise SandboxError(
                    f"what is written to a device's files needs mounts: {os.fsdecode(volume.path)}",
                    "without namespaces a device has copies of files that are mounted read-only",
                )
            directory, _, name = os.path.realpath(volume.path).rpartition(b"/")
            parent = os.open(directory or b"/", _DIRECTORY)
            standins.copied(volume.target, parent, name or b".")
        case Layers():
            raise SandboxError("layers cannot be stacked without mounts")
        case _ as unreachable:
            assert_never(unreachable)


def _put_part(volume: Directory, root: int, standins: Standins) -> None:
    """Put a part of a directory into the tree: a copy of it, or itself, if what is written to it is to stay."""
    above, _, name = volume.source.strip(b"/").rpartition(b"/")
    target = os.fsdecode(volume.target)
    if not name:
        above, name = b"", b"."
    try:
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        parent = syscalls.openat2(root, above or b".", os.O_RDONLY | os.O_DIRECTORY, resolve)
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError) as error:
        source = os.fsdecode(volume.source)
        raise SandboxError(f"source of the mount {target} does not exist: /{source}") from error
    if volume.read_only:
        standins.copied(volume.target, parent, name)
        return
    if name == b".":
        os.close(parent)
        directory, _, name = volume.path.rstrip(b"/").rpartition(b"/")
        parent = os.open(directory or b"/", _DIRECTORY)
    standins.moved(volume.target, parent, name)


# The processes


def _begin(
    spec: SandboxSpec, mode: IdMode, tree: int, streams: Sequence[int], groups: Sequence[int], who: Identity
) -> tuple[int, int]:
    """Clone init; return its pid and where its records come from. Raises SandboxError, OSError."""
    needed = syscalls.CLONE_NEWNET if spec.network == "none" else 0
    reader, writer = os.pipe2(os.O_CLOEXEC)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM, _ORPHANED})
    try:
        pid, flags = _clone(needed)
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                _init(spec, mode, tree, writer, list(streams), groups, who, flags)
            finally:
                os._exit(1)
    except OSError as error:
        os.close(reader)
        if needed and error.errno in _REFUSED:
            raise SandboxError(
                f"cannot cut RUN off from the network here: {error.strerror}", "`--network=none` needs namespaces"
            ) from error
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(writer)
    return pid, reader


def _clone(needed: int) -> tuple[int, int]:
    """Fork into the most namespaces that are allowed, and those `needed`; return the pid and the flags."""
    for flags in _NAMESPACES:
        try:
            return syscalls.clone(flags | needed), flags | needed
        except OSError as error:
            if error.errno not in _REFUSED or not flags:
                raise
    raise AssertionError("the last set is empty")


def _init(
    spec: SandboxSpec,
    mode: IdMode,
    tree: int,
    report: int,
    streams: list[int],
    groups: Sequence[int],
    who: Identity,
    flags: int,
) -> NoReturn:
    """Be the parent of the payload, and end what it leaves."""
    try:
        # With a pid namespace all in it ends with init; else it must live to end them
        own_pids = flags & syscalls.CLONE_NEWPID
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL if own_pids else _ORPHANED)
        if reader_is_gone(report):
            os._exit(1)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        for group in groups:
            os.write(group, b"0")
        syscalls.close_all_but(tree, report, *streams)
        if flags & syscalls.CLONE_NEWNET:
            bring_loopback_up()
        if flags & syscalls.CLONE_NEWUTS:
            syscalls.sethostname(os.fsencode(spec.hostname))
        if own_pids:
            tree = _mount_if_possible(spec, tree)
        child = syscalls.clone(0)
        if child == 0:
            _payload(spec, mode, tree, report, streams, who)
        for fd in (tree, *streams):
            os.close(fd)
        status = _wait(child, report)
        # Alone in a pid namespace all others are its own
        (_end_namespace if own_pids else end_children)()
        tell(report, "status", status)
        os._exit(0)
    except BaseException as error:
        tell_error(report, error)
        os._exit(1)


def _mount_if_possible(spec: SandboxSpec, tree: int) -> int:
    """Mount /proc, /sys and /dev over what stands for them, if that is allowed; return the tree to go into.

    Only with a pid namespace: a /proc of others would lead out of the tree, by their root directories.
    """
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE)
        # Opened anew: a descriptor from before belongs to the mounts of others
        fresh = os.open(spec.staging + b"/" + UPPER, _DIRECTORY)
        parts = Parts(own_network=spec.network == "none")
        for name, mount in ((b"sys", parts.sys), (b"dev", parts.dev), (b"proc", parts.proc)):
            place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fresh)
            syscalls.move_mount(mount, place)
            os.close(place)
    except (OSError, SandboxError):
        # What stands there has to do
        return tree
    _make_shm(parts.dev)
    if spec.scripts:
        # In /dev itself nothing can be executed
        parts.place("pipes", os.dup(parts.files))
        _write_scripts(spec, parts.files)
    return fresh


def _payload(spec: SandboxSpec, mode: IdMode, tree: int, report: int, streams: list[int], who: Identity) -> NoReturn:
    """Be the process that is to run."""
    try:
        os.setsid()
        out, err, *others = streams
        if spec.stdin == "terminal":
            # One of this system's: to make another takes a mount
            terminal.take(out, None if mode == "single" else who.uid, "/dev/ptmx")
            spec = msgspec.structs.replace(spec, stdin="given")
            others.insert(0, os.dup(0))
        else:
            os.dup2(out, 1)
            os.dup2(err, 2)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        # The interpreter reads nothing any more: from here on the tree is the root
        confine.prepare(tree)
        os.fchdir(tree)
        os.chroot(".")
        os.chdir("/")
        payload.forbid_imports()
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        confine.confine(mode, seccomp_program())
        env = payload.become(spec, who, mode, *others)
        if spec.stdin == "null":
            # The one of the tree may be a file
            os.dup2(null, 0)
        try:
            payload.execute(spec.argv, env)
        except OSError as error:
            os._exit(cannot_execute(report, 2, spec, error))
    except BaseException as error:
        tell_error(report, error)
        os._exit(1)


def _wait(child: int, report: int) -> int:
    """Wait for the payload and bury orphans; return its wait status. SIGTERM of this process's parent is passed on.

    Should the parent be gone, it returns at once: nobody is there to be told.
    """
    parent = os.getppid()
    while True:
        info = signal.sigwaitinfo({signal.SIGCHLD, signal.SIGTERM, _ORPHANED})
        if info.si_signo == _ORPHANED and reader_is_gone(report):
            return signal.SIGKILL
        if info.si_signo == signal.SIGTERM:
            # In a pid namespace of its own the parent has no number
            if info.si_pid == parent:
                try:
                    os.killpg(child, signal.SIGTERM)
                except ProcessLookupError:
                    os.kill(child, signal.SIGTERM)
            continue
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
                return status
            if pid == 0:
                break


def _end_namespace() -> None:
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
            os.waitpid(-1, 0)
        except (ProcessLookupError, ChildProcessError):
            return
