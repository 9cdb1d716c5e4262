"""A network namespace that several sandboxes share, and the process that keeps it: the worker's side.

The holder outlives the job that made it and ends, with the helper it knows of, when the other end of its
socket is closed, for whatever reason. It sends the namespace over that socket, and takes one message: the
process id of a helper that runs outside of the worker.
"""

import fcntl
import os
import select
import signal
import socket
import struct
from contextlib import suppress
from typing import Any, NoReturn

from pybuild.sandbox import syscalls, wire
from pybuild.sandbox.errors import NetworkError

INTERFACE = "eth0"
START_SECONDS = 20.0
READY = b"ready"

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_SAID = 2000


def bring_loopback_up() -> None:
    """Bring up the loopback interface of this process's network namespace."""
    name = struct.pack("16sH22x", b"lo", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        (flags,) = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, name), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


def join(namespace: int) -> None:
    """Move this process, and what it will start, into the network namespace of a holder."""
    syscalls.setns(namespace, syscalls.CLONE_NEWNET)
    os.close(namespace)


def hold(params: Any, fds: list[int]) -> int:
    """Job: [path of slirp4netns, b"" for a helper outside]; descriptor: the holder's socket. Return the holder's pid.

    Raises NetworkError when the helper does not start.
    """
    (slirp,) = params
    (channel,) = fds
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            _be_holder(channel, writer, slirp)
        finally:
            os._exit(1)
    os.close(writer)
    said = b""
    while more := os.read(reader, _SAID):
        said += more
    if said != READY:
        os.waitpid(pid, 0)
        raise NetworkError(f"cannot make a private network: {said.decode(errors='replace') or 'its holder was killed'}")
    # It comes to the worker, which adopts orphans and buries them
    return pid


def _be_holder(channel: int, report: int, slirp: bytes) -> NoReturn:
    helper = -1
    try:
        # A group of its own: the job's end is none of its business
        os.setsid()
        syscalls.close_all_but(channel, report)
        # Before this process leaves the network over which the helper is to connect
        starting = _Slirp(slirp) if slirp else None
        syscalls.unshare(syscalls.CLONE_NEWNET)
        bring_loopback_up()
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if starting is not None:
            helper = starting.connect(namespace)
        else:
            # A helper outside comes by /proc/PID/ns, which is closed to it otherwise
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        with socket.socket(fileno=channel) as control:
            wire.send_with_fds(control, READY, [namespace])
            os.close(namespace)
            os.write(report, READY)
            os.close(report)
            told = control.recv(64)
            if told.isdigit():
                with suppress(OSError):
                    helper = os.pidfd_open(int(told))
                syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
                control.recv(64)
    except NetworkError as error:
        os.write(report, error.message.encode())
    except OSError as error:
        with suppress(OSError):
            os.write(report, f"{error.filename or ''}: {error.strerror}".strip(": ").encode())
    finally:
        if helper >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(helper, signal.SIGKILL)
        os._exit(0)


class _Slirp:
    """slirp4netns, which stays in the network of its start and waits for a namespace to connect."""

    def __init__(self, program: bytes) -> None:
        self._ready, done = os.pipe2(os.O_CLOEXEC)
        self._errors = os.memfd_create("slirp4netns")
        self._orders, orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
                self._orders.close()
                _, fds = wire.receive_with_fds(orders, 16)
                if fds:
                    self._execute(program, fds[0], done)
            finally:
                os._exit(127)
        self._process = os.pidfd_open(self._pid)
        os.close(done)
        orders.close()

    def _execute(self, program: bytes, namespace: int, done: int) -> None:
        os.dup2(os.open("/dev/null", os.O_RDWR), 0)
        os.dup2(self._errors, 1)
        os.dup2(self._errors, 2)
        os.set_inheritable(namespace, True)
        os.set_inheritable(done, True)
        words = ["slirp4netns", "--configure", "--disable-host-loopback", "--mtu=65520", f"--ready-fd={done}"]
        words += ["--netns-type=path", f"/proc/self/fd/{namespace}", INTERFACE]
        try:
            os.execve(program, words, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        except OSError as error:
            os.write(2, f"{error.strerror}\n".encode())

    def connect(self, namespace: int) -> int:
        """Have it connect the namespace; return a descriptor of the process when it is ready. Raises NetworkError."""
        with self._orders:
            wire.send_with_fds(self._orders, b"go", [namespace])
        if select.select([self._ready], [], [], START_SECONDS)[0] and os.read(self._ready, 1):
            os.close(self._ready)
            os.close(self._errors)
            return self._process
        signal.pidfd_send_signal(self._process, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        said = os.pread(self._errors, _SAID, 0).decode(errors="replace")
        raise NetworkError(f"slirp4netns failed: {' '.join(said.split()) or 'it said nothing'}")
