"""Which calls of a RUN go to the supervisor, or merely seem to succeed (seccomp(2), linux/filter.h)."""

import errno
import os
import stat
import struct

from pybuild.sandbox.machine import Machine

_LOAD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_ANY_BIT = 0x45
_RETURN = 0x06
_AND = 0x54

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NOTIFY = 0x7FC00000

_NR = 0
_ARCH = 4
_ARGS = 16

PR_SET_KEEPCAPS = 8
CREATES = os.O_CREAT | (os.O_TMPFILE & ~os.O_DIRECTORY)
"""Flags of open(2) that make a file."""

OWN = ("chown", "lchown", "fchown", "fchownat")
SET = ("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups")
GET = ("getuid", "getgid", "geteuid", "getegid", "getresuid", "getresgid", "getgroups")
STAT = ("newfstatat", "stat", "lstat", "fstat", "statx")
MAKE = ("mkdir", "mkdirat", "symlink", "symlinkat", "creat", "mknod", "mknodat")
ALWAYS = (*STAT, *GET, *OWN, *SET, *MAKE, "capset", "chroot", "execve", "execveat", "openat2")
"""Asked about whatever their arguments are; those an architecture lacks are passed over."""

BY_FLAG = (("open", 1), ("openat", 2))
"""Calls that are asked about only when an argument has a bit of CREATES."""

_UNKNOWN = (463, 464, 465, 466)
"""The *xattrat family: programs know how to do without."""


def full_filter(machine: Machine) -> bytes:
    """Return the program that hands calls to a listener. Another filter deals with foreign architectures."""
    body: list[bytes] = []
    for call, argument in BY_FLAG:
        load = _op(_LOAD, _ARGS + 8 * argument)
        body += _when(machine, call, [load, _op(_JUMP_ANY_BIT, CREATES, 0, 1), _op(_RETURN, _NOTIFY), _allow()])
    for call in ALWAYS:
        body += _when(machine, call, [_op(_RETURN, _NOTIFY)])
    keep = [_op(_LOAD, _ARGS), _op(_JUMP_EQUAL, PR_SET_KEEPCAPS, 0, 1), _op(_RETURN, _NOTIFY), _allow()]
    body += _when(machine, "prctl", keep)
    for number in _UNKNOWN:
        body += [_op(_JUMP_EQUAL, number, 0, 1), _op(_RETURN, _ERRNO | errno.ENOSYS)]
    return _program(machine, body)


def fake_filter(machine: Machine) -> bytes:
    """Return the program that lets changes of owner and identity, and devices, succeed without a trace."""
    done = [_op(_RETURN, _ERRNO)]
    body: list[bytes] = []
    for call in (*OWN, *SET):
        body += _when(machine, call, done)
    for call, argument in (("mknod", 1), ("mknodat", 2)):
        body += _when(
            machine,
            call,
            [
                _op(_LOAD, _ARGS + 8 * argument),
                _op(_AND, 0o170000),
                _op(_JUMP_EQUAL, stat.S_IFCHR, 1, 0),
                _op(_JUMP_EQUAL, stat.S_IFBLK, 0, 1),
                *done,
                _allow(),
            ],
        )
    return _program(machine, body)


def _program(machine: Machine, body: list[bytes]) -> bytes:
    head = [_op(_LOAD, _ARCH), _op(_JUMP_EQUAL, machine.audit, 1, 0), _allow(), _op(_LOAD, _NR)]
    return b"".join([*head, *body, _allow()])


def _when(machine: Machine, call: str, then: list[bytes]) -> list[bytes]:
    number = machine.numbers.get(call)
    return [] if number is None else [_op(_JUMP_EQUAL, number, 0, len(then)), *then]


def _allow() -> bytes:
    return _op(_RETURN, _ALLOW)


def _op(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, when_true, when_false, value)
