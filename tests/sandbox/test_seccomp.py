"""The filter, read as a program and tried on a process."""

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable

import pytest

from pybuild.sandbox import syscalls
from pybuild.sandbox.machine import MACHINES, this_machine
from pybuild.sandbox.seccomp import BY_ARGUMENT, DENIED, build_filter

ALLOW = 0x7FFF0000
ERRNO = 0x00050000


def verdict(program: bytes, number: int, audit: int, *args: int) -> int:
    """Return what the filter answers to a call: an interpreter of the few instructions it is made of."""
    data = struct.pack("IIQ6Q", number & 0xFFFFFFFF, audit, 0, *args, *[0] * (6 - len(args)))
    at = accumulator = 0
    while True:
        code, when_true, when_false, value = struct.unpack_from("HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x15:
            at += when_true if accumulator == value else when_false
        elif code == 0x45:
            at += when_true if accumulator & value else when_false
        else:
            assert code == 0x06
            return int(value)


@pytest.mark.parametrize("name", MACHINES)
def test_listed_calls_are_refused_and_others_allowed(name: str) -> None:
    machine = MACHINES[name]
    program = build_filter(machine)
    for call, number in machine.numbers.items():
        answer = verdict(program, number, machine.audit)
        if call == "clone3":
            assert answer == ERRNO | errno.ENOSYS
        elif call in DENIED:
            assert answer == ERRNO | errno.EPERM, call
        else:
            assert answer == ALLOW, call
    assert verdict(program, 9999, machine.audit) == ALLOW


@pytest.mark.parametrize("name", MACHINES)
def test_arguments_decide_where_a_call_is_needed(name: str) -> None:
    machine = MACHINES[name]
    program = build_filter(machine)
    for rule in BY_ARGUMENT:
        values = [1 << bit for bit in range(32) if rule.mask >> bit & 1] if rule.value is None else [rule.value]
        for value in values:
            args = [0] * rule.argument + [value | 0xABC << 32]
            assert verdict(program, machine.numbers[rule.call], machine.audit, *args) == ERRNO | rule.error
    assert verdict(program, machine.numbers["clone"], machine.audit, 17) == ALLOW
    assert verdict(program, machine.numbers["socket"], machine.audit, socket.AF_INET) == ALLOW


@pytest.mark.parametrize("name", MACHINES)
def test_calls_of_other_architectures_do_not_exist(name: str) -> None:
    machine = MACHINES[name]
    program = build_filter(machine)
    assert verdict(program, 0, 0x40000003) == ERRNO | errno.ENOSYS
    if machine.foreign_bit:
        assert verdict(program, machine.foreign_bit | 1, machine.audit) == ERRNO | errno.ENOSYS


def test_no_jump_is_longer_than_its_field() -> None:
    for machine in MACHINES.values():
        assert len(build_filter(machine)) % 8 == 0
        assert len(build_filter(machine)) // 8 < 4096


def filtered(attempt: Callable[[], object]) -> int:
    """Return the errno an attempt meets under the filter, 0 for none."""
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            syscalls.seccomp_filter(build_filter(this_machine()))
            attempt()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
        finally:
            os._exit(254)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (lambda: syscalls.unshare(syscalls.CLONE_NEWUSER), errno.EPERM),
        (lambda: syscalls.clone(syscalls.CLONE_NEWUSER), errno.EPERM),
        (lambda: syscalls.fsopen(b"tmpfs"), errno.EPERM),
        (lambda: syscalls.mount(b"none", b"/", b"tmpfs", 0), errno.EPERM),
        (lambda: syscalls.setns(0, 0), errno.EPERM),
        (lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET), errno.EAFNOSUPPORT),
        (lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM), errno.EAFNOSUPPORT),
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), 0),
        (os.fork, 0),
        (lambda: os.listdir("/"), 0),
    ],
)
def test_filter_on_a_process(attempt: Callable[[], object], expected: int) -> None:
    assert filtered(attempt) == expected


def test_terminal_cannot_be_typed_into() -> None:
    def push() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ioctl(0, 0x5412, b"x") < 0:
            raise OSError(ctypes.get_errno(), "ioctl")

    assert filtered(push) == errno.EPERM
