"""The process that answers a RUN's calls: forked by the job's process, inside the namespace, outside of the image."""

import errno
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn

from pybuild.sandbox import syscalls
from pybuild.sandbox.emulate import attributes, filecalls
from pybuild.sandbox.emulate.access import access
from pybuild.sandbox.emulate.caller import Caller
from pybuild.sandbox.emulate.credentials import initial
from pybuild.sandbox.emulate.filter import ACCESS, CHANGE, GET, LIST, OWN, SET, STAT
from pybuild.sandbox.emulate.idcalls import IdCalls
from pybuild.sandbox.emulate.identity import Identities
from pybuild.sandbox.emulate.notify import Asked, GoneError, Listener
from pybuild.sandbox.emulate.quick import LONG, quick_answers
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.machine import this_machine
from pybuild.sandbox.wire import receive_with_fds

Handler = Callable[[Caller], int | None]
_MEMORY = 1 << 30
_FILES = 128
_LONGEST = 1 << 20


class Supervisor:
    """The parent's handle. `handover` is where the payload sends its listener; to be closed once it is forked."""

    def __init__(self) -> None:
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
                _serve(ours.fileno(), parent)
            finally:
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        ours.close()

    def end(self) -> None:
        """End it; nothing of what it does for the RUN goes on after that.

        If it was not there to the end, the RUN's files are not what they ought to be: raises SandboxError when it was
        killed, RuntimeError when it had failed.
        """
        self.handover.close()
        # The kernel closes the descriptors of who dies before it says so: the RUN may have ended sooner. But nobody
        # ends twice, and this is not the signal that others use
        os.kill(self._pid, signal.SIGTERM)
        _, status = os.waitpid(self._pid, 0)
        if os.WIFSIGNALED(status):
            if os.WTERMSIG(status) != signal.SIGTERM:
                name = signal.Signals(os.WTERMSIG(status)).name
                hint = "the machine may be out of memory"
                raise SandboxError(f"the process that emulates root was ended by {name}", hint)
        elif status != 0:
            raise RuntimeError(f"the process that emulates root failed with wait status {status}")


def _serve(channel: int, parent: int) -> NoReturn:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    if channel > 3:
        syscalls.close_range(3, channel - 1)
    syscalls.close_range(channel + 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    with socket.socket(fileno=channel) as control:
        data, fds = receive_with_fds(control, _LONGEST)
    # No payload ever came to its exec
    if not fds:
        os._exit(0)
    uid, gid, *groups = struct.unpack(f"{len(data) // 4}I", data)
    _loop(Listener(fds[0]), Identities(initial(uid, gid, tuple(sorted(groups)))))
    os._exit(0)


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
    for name in ("mkdir", "mkdirat", "symlink", "symlinkat", "mknod", "mknodat"):
        by_name[name] = partial(filecalls.make, name=name)
    for name in ("open", "openat", "openat2", "creat"):
        by_name[name] = partial(filecalls.create, name=name)
    for name in ("execve", "execveat"):
        by_name[name] = partial(filecalls.execute, name=name, identities=identities)
    numbers = this_machine().numbers
    return {numbers[name]: handler for name, handler in by_name.items() if name in numbers}


def _loop(listener: Listener, identities: Identities) -> None:
    caller = Caller(listener, identities)
    numbers = this_machine().numbers
    short = {numbers[name]: quick for name, quick in quick_answers(caller).items() if name in numbers}
    handlers = _handlers(identities)
    receive, proceed, quick_of = listener.receive, listener.proceed, short.get
    while (asked := receive()) is not None:
        try:
            quick = quick_of(asked[3])
            value = LONG if quick is None else quick(asked)
            if value == LONG:
                caller.turn_to(asked)
                value = handlers[asked[3]](caller)
            if value is None:
                proceed(asked)
            elif value != filecalls.GIVEN:
                listener.answer(asked, value)
        except GoneError:
            continue
        except OSError as error:
            _refuse(listener, asked, error.errno or errno.EPERM)
        except Exception:
            # Whatever the caller did to get here, it does not get what it asked for
            _refuse(listener, asked, errno.EPERM)


def _refuse(listener: Listener, asked: Asked, error: int) -> None:
    with suppress(GoneError):
        listener.answer(asked, 0, error)
