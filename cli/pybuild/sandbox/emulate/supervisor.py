"""The process that answers a RUN's calls: forked by the job's process, inside the namespace, outside of the image."""

import errno
import os
import resource
import select
import signal
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NoReturn

from pybuild.sandbox import syscalls
from pybuild.sandbox.emulate import attributes, filecalls
from pybuild.sandbox.emulate.access import access
from pybuild.sandbox.emulate.caller import Caller
from pybuild.sandbox.emulate.credentials import initial
from pybuild.sandbox.emulate.filter import ACCESS, CHANGE, CHMOD, GET, LINK, LIST, OWN, SET, STAT
from pybuild.sandbox.emulate.idcalls import IdCalls
from pybuild.sandbox.emulate.identity import Identities, UnpreparedError
from pybuild.sandbox.emulate.notify import Asked, GoneError, Listener
from pybuild.sandbox.emulate.quick import LONG, quick_answers
from pybuild.sandbox.emulate.shared import LostError, open_events
from pybuild.sandbox.emulate.tracing import Tracer
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.machine import this_machine
from pybuild.sandbox.wire import receive_with_fds

Handler = Callable[[Caller], int | None]
_MEMORY = 1 << 30
_FILES = 128
_WATCHED = 1 << 16
_LOST = 3
"""Exit status: see LostError."""
_LONGEST = 1 << 20
_AGAIN = 100
"""Milliseconds."""


class Supervisor:
    """The parent's handle. `handover` is where the payload sends its listener; to be closed once it is forked.

    `set_gid` are the paths of all set-gid directories of the image, None when they are not known.
    """

    def __init__(self, set_gid: Sequence[bytes] | None = None) -> None:
        events = -1 if set_gid is None or len(set_gid) > _most_watched() else open_events()
        self.watching = events >= 0
        """Are set-gid directories watched?"""
        ours, self.handover = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        # One that comes while it is still handled as the parent handles it would be lost
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._pid = os.fork()
        if self._pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                _serve(ours.fileno(), parent, events, set_gid or ())
            finally:
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        ours.close()
        if events >= 0:
            os.close(events)

    def end(self) -> None:
        """End it; nothing of what it does for the RUN goes on after that.

        If it was not there to the end, the RUN's files are not what they ought to be: raises SandboxError when it was
        killed, RuntimeError when it had failed.
        """
        self.handover.close()
        # The kernel closes the descriptors of who dies before it says so: the RUN may have ended sooner. But nobody
        # ends twice, and this is not the signal that others use
        os.kill(self._pid, signal.SIGTERM)
        status = self._wait()
        if os.WIFSIGNALED(status):
            if os.WTERMSIG(status) != signal.SIGTERM:
                name = signal.Signals(os.WTERMSIG(status)).name
                hint = "the machine may be out of memory"
                raise SandboxError(f"the process that emulates root was ended by {name}", hint)
        elif os.WEXITSTATUS(status) == _LOST:
            why = "the groups of files made in set-gid directories could not be kept"
            raise SandboxError(why, "is the disk full, or `ulimit -Hn` or one of /proc/sys/fs/inotify/max_* too low?")
        elif status != 0:
            raise RuntimeError(f"the process that emulates root failed with wait status {status}")

    def _wait(self) -> int:
        """Return the wait status that it ends with."""
        if self.watching:
            # It has to do something at the end, and a signal just before it waits for a question would go unheard
            poll = select.poll()
            ended = os.pidfd_open(self._pid)
            poll.register(ended, select.POLLIN)
            while not poll.poll(_AGAIN):
                os.kill(self._pid, signal.SIGTERM)
            os.close(ended)
        return os.waitpid(self._pid, 0)[1]


def _most_watched() -> int:
    """Return how many directories may be watched from the start, as each stays open; others will be made."""
    return min(_WATCHED, resource.getrlimit(resource.RLIMIT_NOFILE)[1]) // 2


class _EndError(BaseException):
    """The RUN is over."""


def _end(*_: object) -> NoReturn:
    # It is said until it is heard
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _EndError


def _serve(channel: int, parent: int, events: int, set_gid: Sequence[bytes]) -> NoReturn:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    syscalls.close_all_but(*(fd for fd in (channel, events) if fd >= 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Each directory that is watched stays open
    files = min(_WATCHED, resource.getrlimit(resource.RLIMIT_NOFILE)[1]) if events >= 0 else _FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    with socket.socket(fileno=channel) as control:
        data, fds = receive_with_fds(control, _LONGEST)
    # No payload ever came to its exec
    if not fds:
        os._exit(0)
    loose, uid, gid, *groups = struct.unpack(f"{len(data) // 4}I", data)
    identities = Identities(initial(uid, gid, tuple(sorted(groups))))
    caller = Caller(Listener(fds[0]), identities, events)
    tracer = Tracer(caller.listener, identities, caller.memory, events) if loose else None
    try:
        _serve_to_the_end(caller, identities, tracer, set_gid)
    except LostError:
        os._exit(_LOST)
    os._exit(0)


def _serve_to_the_end(caller: Caller, identities: Identities, tracer: Tracer | None, set_gid: Sequence[bytes]) -> None:
    """Answer until no process is left, or this one is to end; raises LostError."""
    if not caller.shared.watching:
        _loop(caller, identities, tracer, ())
        return
    try:
        signal.signal(signal.SIGTERM, _end)
        _loop(caller, identities, tracer, set_gid)
        # Without an end that was asked for, none must come in between
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except _EndError:
        # The same, whenever it comes
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    caller.shared.settle_all()


def _handlers(identities: Identities) -> dict[int, Handler]:
    ids = IdCalls(identities)
    by_name: dict[str, Handler] = {
        **{name: partial(filecalls.look, name=name) for name in STAT},
        **{name: partial(ids.get, name=name) for name in GET},
        **{name: partial(ids.set, name=name) for name in SET},
        **{name: partial(filecalls.chown, name=name) for name in OWN},
        **{name: partial(attributes.list_attributes, name=name) for name in LIST},
        **{name: partial(attributes.change_attribute, name=name) for name in CHANGE},
        **{name: partial(access, name=name) for name, _ in ACCESS},
        "getgroups": ids.getgroups,
        "setgroups": ids.setgroups,
        "prctl": ids.prctl,
        "capset": ids.capset,
        "capget": ids.capget,
        "chroot": ids.chroot,
    }
    by_name.update({name: partial(filecalls.link, name=name) for name in LINK})
    by_name.update({name: partial(filecalls.chmod, name=name) for name, _ in CHMOD})
    for name in ("mkdir", "mkdirat", "symlink", "symlinkat", "mknod", "mknodat"):
        by_name[name] = partial(filecalls.make, name=name)
    for name in ("open", "openat", "openat2", "creat"):
        by_name[name] = partial(filecalls.create, name=name)
    for name in ("execve", "execveat"):
        by_name[name] = partial(filecalls.execute, name=name, identities=identities)
    numbers = this_machine().numbers
    return {numbers[name]: handler for name, handler in by_name.items() if name in numbers}


def _loop(caller: Caller, identities: Identities, tracer: Tracer | None, set_gid: Sequence[bytes]) -> None:
    listener, settle = caller.listener, caller.settle if caller.shared.watching else None
    numbers = this_machine().numbers
    short = {numbers[name]: quick for name, quick in quick_answers(caller).items() if name in numbers}
    handlers = _handlers(identities)
    receive, send, quick_of = listener.receiver(settle), listener.sender(), short.get
    begun = settle is None
    threads = tracer.threads if tracer else ()
    while (asked := tracer.receive(settle) if threads and tracer else receive()) is not None:
        try:
            if not begun:
                caller.turn_to(asked)
                caller.watch(set_gid)
                begun = True
            if settle:
                settle()
            quick = quick_of(asked[3])
            value = LONG if quick is None else quick(asked)
            if value == LONG:
                caller.turn_to(asked)
                value = handlers[asked[3]](caller)
            if value != filecalls.GIVEN:
                send(asked, value)
        except GoneError:
            continue
        except LostError:
            raise
        except UnpreparedError:
            _prepare(tracer, listener, asked)
        except OSError as error:
            _refuse(listener, asked, error.errno or errno.EPERM)
        except Exception:
            # Whatever the caller did to get here, it does not get what it asked for
            _refuse(listener, asked, errno.EPERM)


def _prepare(tracer: Tracer | None, listener: Listener, asked: Asked) -> None:
    assert tracer is not None
    try:
        tracer.prepare(asked)
    except GoneError:
        return
    except OSError:
        # It is not to make files that would be taken for root's
        _refuse(listener, asked, errno.EPERM)


def _refuse(listener: Listener, asked: Asked, error: int) -> None:
    with suppress(GoneError):
        listener.refuse(asked, error)
