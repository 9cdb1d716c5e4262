"""The last steps of a RUN's process, between its fork and its exec, in the order the kernel demands.

Nothing may be imported in these functions: the root directory is the image's, and so would be the code.
"""

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from pybuild.sandbox import advice, caps, syscalls, terminal
from pybuild.sandbox.emulate import install
from pybuild.sandbox.errors import ImageUserError, SandboxError
from pybuild.sandbox.idmap import IdMode
from pybuild.sandbox.spec import DEFAULT_PATH, Emulation, SandboxSpec
from pybuild.sandbox.users import Identity

T = TypeVar("T")

NOT_FOUND = 127
NOT_EXECUTABLE = 126

ULIMITS = {
    "cpu": 0,
    "fsize": 1,
    "data": 2,
    "stack": 3,
    "core": 4,
    "rss": 5,
    "nproc": 6,
    "nofile": 7,
    "memlock": 8,
    "as": 9,
    "locks": 10,
    "sigpending": 11,
    "msgqueue": 12,
    "nice": 13,
    "rtprio": 14,
    "rttime": 15,
}
"""Names as Docker has them, numbers as <asm-generic/resource.h>."""


_FINDERS = sys.meta_path
"""Kept alive for `forbid_imports`."""

_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM)
"""Python ignores some, and exec keeps what is ignored; the last is to end this process before its exec too."""


def forbid_imports() -> None:
    """Inside of the image's root an import would run the image's code, with more rights than it is to have."""
    # Rebound and not cleared: to free what finders remember would write to memory shared with the parent
    sys.meta_path = []


def prepare(mode: IdMode, program: bytes | None) -> None:
    """Do what needs no root directory yet. `program` is the seccomp filter, None for a process without bounds."""
    os.setsid()
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _confine(mode, program)


def _confine(mode: IdMode, program: bytes | None) -> None:
    if mode == "single":
        # Set-uid programs have no other user to become; without this privilege the filter needs no rights
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if program is None:
        return
    # Before the capabilities go: they allow a filter without no_new_privs, which would break `sudo`
    syscalls.seccomp_filter(program)
    caps.limit_bounding_set()


def can_be_spawned(spec: SandboxSpec, who: Identity, mode: IdMode) -> bool:
    """Can init start this without a process that prepares itself? Then its own user and limits are the program's."""
    usual = not spec.ulimits and not spec.insecure and spec.stdin == "null"
    return usual and mode != "single" and (who.uid, who.gid) == (0, 0)


def become_like(spec: SandboxSpec, who: Identity, mode: IdMode, program: bytes) -> None:
    """Confine this process, init, as the program it is to `spawn`. `program` is the seccomp filter.

    Raises SandboxError.
    """
    _enter_directory(spec.cwd)
    _limit(spec)
    os.setgroups(who.groups)
    _confine(mode, program)
    caps.limit_own()
    os.umask(0o022)


def spawn(spec: SandboxSpec, who: Identity, out: int, err: int) -> int:
    """Start the program from a process that is confined as it is to be; return its pid. Raises OSError.

    A forked process would copy much memory only to give it up at once; this one shares init's until its exec.
    """
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.close_range(3, on_exec=True)
    streams = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((null, out, err))]

    def start(path: bytes, words: list[bytes], env: dict[bytes, bytes]) -> int:
        return os.posix_spawn(path, words, env, file_actions=streams, setsid=True, setsigmask=(), setsigdef=_SIGNALS)

    return _search(spec.argv, environment(spec, who), start)


def become(spec: SandboxSpec, who: Identity, mode: IdMode, *others: int) -> dict[bytes, bytes]:
    """Turn this process, inside the new root, into the one that is to run; return its environment.

    Only the exec is left then. `others` are the descriptor of standard input if the spec says that it is given,
    and the socket of the supervisor if there is one. Raises SandboxError.
    """
    given, handover = others[:1], others[1:]
    if spec.stdin != "given":
        given, handover = (), others
    if spec.stdin != "terminal":
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(given[0] if given else null, 0, inheritable=True)
    _enter_directory(spec.cwd)
    _limit(spec)
    if spec.stdin == "terminal":
        # Late, as somebody comes to use it, but as root: it has to be given to the user
        terminal.take(1, None if mode == "single" else who.uid)
    _become_user(who, mode, spec.emulation)
    if not spec.insecure:
        caps.limit_own()
    os.umask(0o022)
    syscalls.close_range(3, on_exec=True)
    env = environment(spec, who)
    if spec.emulation == "fake":
        install.install_fake()
    elif handover:
        install.install_full(handover[0], who, watched=spec.set_gid is not None)
    return env


def environment(spec: SandboxSpec, who: Identity) -> dict[bytes, bytes]:
    """Return the environment, completed by PATH and HOME."""
    values = {"PATH": DEFAULT_PATH, "HOME": who.home, **dict(spec.env)}
    return {os.fsencode(key): os.fsencode(value) for key, value in values.items()}


def execute(argv: tuple[str, ...], env: dict[bytes, bytes]) -> NoReturn:
    """Replace this process by the program; raise OSError when that fails."""
    _search(argv, env, os.execve)
    raise AssertionError("exec returned")


def _search(
    argv: tuple[str, ...], env: dict[bytes, bytes], start: Callable[[bytes, list[bytes], dict[bytes, bytes]], T]
) -> T:
    """Start a program that may have to be looked for; raise the most telling one of all errors met."""
    words = [os.fsencode(word) for word in argv]
    name = words[0]
    paths = [name] if b"/" in name else [(path or b".") + b"/" + name for path in env.get(b"PATH", b"").split(b":")]
    best = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in paths:
        try:
            # A link of /proc such as /proc/self/exe would run a file from outside of the image
            os.close(syscalls.openat2(-100, path, os.O_PATH, syscalls.RESOLVE_NO_MAGICLINKS))
            return start(path, words, env)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                best = error
                if error.errno != errno.EACCES:
                    break
    raise best


def exit_code(error: OSError) -> int:
    """Return the exit code shells use for a program that could not be executed."""
    return NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else NOT_EXECUTABLE


def _limit(spec: SandboxSpec) -> None:
    limits = {"core": (0, resource.getrlimit(4)[1]), **{name: (soft, hard) for name, soft, hard in spec.ulimits}}
    for name, (soft, hard) in limits.items():
        number = ULIMITS.get(name)
        if number is None:
            raise SandboxError(f"unknown ulimit: {name}", f"known: {', '.join(ULIMITS)}")
        try:
            resource.setrlimit(number, (soft, hard))
        except (OSError, ValueError) as error:
            most = resource.getrlimit(number)[1]
            raise SandboxError(
                f"cannot set the ulimit `{name}` to {soft}:{hard}: {error}",
                "" if most == -1 else f"the most this user may have is {most}",
            ) from error


def _enter_directory(path: str) -> None:
    absolute = b"/" + os.fsencode(path).lstrip(b"/")
    try:
        try:
            fd = _open_directory(-100, absolute)
        except FileNotFoundError:
            # An image may name a directory that it does not have; runtimes make it
            fd = _make_directory(absolute)
    except OSError as error:
        raise SandboxError(f"cannot enter the working directory: {path}: {error.strerror}") from error
    os.fchdir(fd)
    os.close(fd)
    # Outside of the root getcwd says so: then a descriptor of the host has leaked in somewhere
    if not os.getcwdb().startswith(b"/"):
        raise SandboxError(f"working directory is outside of the image: {path}")


def _open_directory(place: int, path: bytes) -> int:
    return syscalls.openat2(place, path, os.O_PATH | os.O_DIRECTORY, syscalls.RESOLVE_NO_MAGICLINKS)


def _make_directory(path: bytes) -> int:
    """Make what is missing of a directory and return a descriptor of it; raise OSError."""
    fd = _open_directory(-100, b"/")
    for part in path.split(b"/"):
        if not part:
            continue
        try:
            try:
                os.mkdir(part, dir_fd=fd)
            except FileExistsError:
                pass
            else:
                os.chmod(part, 0o755, dir_fd=fd)
            below = _open_directory(fd, part)
        finally:
            os.close(fd)
        fd = below
    return fd


def _become_user(who: Identity, mode: IdMode, emulation: Emulation) -> None:
    if mode == "single":
        if emulation == "off" and (who.uid, who.gid) != (0, 0):
            raise ImageUserError(
                f"cannot run as user {who.uid}:{who.gid}: it needs subordinate ids",
                f"{advice.INSTALL_HELPERS}; {advice.add_ranges('USER')}",
            )
        return
    try:
        os.setgroups(who.groups)
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise ImageUserError(
            f"user {who.uid}:{who.gid} is beyond the ids that are mapped here",
            "larger ranges in /etc/subuid and /etc/subgid would reach it",
        ) from error
