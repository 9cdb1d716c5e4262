"""Which calls of a RUN go to the supervisor, or merely seem to succeed (seccomp(2), linux/filter.h)."""

import errno
import os
import stat

from pybuild.sandbox.bpf import (
    ALLOW,
    AND,
    ARCH,
    ARGS,
    ERRNO,
    JUMP_ANY_BIT,
    JUMP_EQUAL,
    LOAD,
    NOTIFY,
    NR,
    RETURN,
    TRACE,
    op,
)
from pybuild.sandbox.machine import Machine

PR_SET_KEEPCAPS = 8
UNNAMED = os.O_TMPFILE & ~os.O_DIRECTORY
"""The flag of open(2) that makes a file without a name."""
CREATES = os.O_CREAT | UNNAMED
"""Flags of open(2) that make a file."""

OWN = ("chown", "lchown", "fchown", "fchownat")
SET = ("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups")
GET = ("getuid", "getgid", "geteuid", "getegid", "getresuid", "getresgid", "getgroups")
STAT = ("newfstatat", "stat", "lstat", "fstat", "statx")
LIST = ("listxattr", "llistxattr", "flistxattr")
CHANGE = ("setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr")
MAKE = ("mkdir", "mkdirat", "symlink", "symlinkat", "creat")
"""These and, with O_CREAT, open(2) make files; none of them has a sixth argument."""
ALWAYS = (
    *STAT,
    *GET,
    *OWN,
    *SET,
    *MAKE,
    "mknod",
    "mknodat",
    *LIST,
    *CHANGE,
    "capset",
    "capget",
    "chroot",
    "execve",
    "execveat",
    "openat2",
)
"""Asked about whatever their arguments are; those an architecture lacks are passed over.

Reading attributes is not: what a note tells stat(2) tells as well, and a filter does not see which one is read."""

ACCESS = (("access", 1), ("faccessat", 2), ("faccessat2", 2))
"""With the number of the argument that tells what is to be allowed; without a bit in it a file is only to be there."""

OPEN = (("open", 1), ("openat", 2))
BY_FLAG = (*((*call, CREATES) for call in OPEN), *((*call, os.R_OK | os.W_OK | os.X_OK) for call in ACCESS))
"""Calls that are asked about only when an argument has one of some bits."""

RENAME = ("rename", "renameat", "renameat2")
LINK = ("link", "linkat")
CHMOD = (("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("fchmodat2", 2))
"""With the number of the argument that is the mode. These and the two before are asked about, the latter only for a
set-gid bit, where set-gid directories are watched (`shared`)."""

MARK = 0x6B72616D
"""In the place of the sixth argument, what makes a file is asked about by the loose filter too."""
_MARKED = 5

_UNKNOWN = (463, 464, 465, 466)
"""The *xattrat family: programs know how to do without."""


def full_filter(machine: Machine, *, watched: bool = False, loose: bool = False) -> bytes:
    """Return the program that hands calls to a listener. Another filter deals with foreign architectures.

    `watched`: it is for a RUN whose set-gid directories are watched. A `loose` one hands over what makes files only
    when it is marked, for a RUN where those who have left root are traced as well (`tracing`).
    """
    body: list[bytes] = _marked(machine) if loose else []
    by_flag = (*BY_FLAG, *((*call, stat.S_ISGID) for call in CHMOD)) if watched else BY_FLAG
    for call, argument, bits in by_flag:
        load = op(LOAD, ARGS + 8 * argument)
        body += _when(machine, call, [load, op(JUMP_ANY_BIT, bits, 0, 1), op(RETURN, NOTIFY), _allow()])
    for call in (*ALWAYS, *RENAME, *LINK) if watched else ALWAYS:
        body += _when(machine, call, [op(RETURN, NOTIFY)])
    keep = [op(LOAD, ARGS), op(JUMP_EQUAL, PR_SET_KEEPCAPS, 0, 1), op(RETURN, NOTIFY), _allow()]
    body += _when(machine, "prctl", keep)
    for number in _UNKNOWN:
        body += [op(JUMP_EQUAL, number, 0, 1), op(RETURN, ERRNO | errno.ENOSYS)]
    return _program(machine, body)


def _marked(machine: Machine) -> list[bytes]:
    """Return what decides about the calls that make files, but for files without a name."""
    decide = [op(LOAD, ARGS + 8 * _MARKED), op(JUMP_EQUAL, MARK, 0, 1), op(RETURN, NOTIFY), _allow()]
    body: list[bytes] = []
    for call, argument in OPEN:
        flags = [
            op(LOAD, ARGS + 8 * argument),
            op(JUMP_ANY_BIT, UNNAMED, 0, 1),
            op(RETURN, NOTIFY),
            op(JUMP_ANY_BIT, os.O_CREAT, 1, 0),
            _allow(),
        ]
        body += _when(machine, call, [*flags, *decide])
    for call in MAKE:
        body += _when(machine, call, decide)
    return body


def trace_filter(machine: Machine) -> bytes:
    """Return the program that lets a traced thread stop at the calls that the loose filter asks about when marked."""
    body: list[bytes] = []
    for call, argument in OPEN:
        load = op(LOAD, ARGS + 8 * argument)
        body += _when(machine, call, [load, op(JUMP_ANY_BIT, CREATES, 0, 1), op(RETURN, TRACE), _allow()])
    for call in MAKE:
        body += _when(machine, call, [op(RETURN, TRACE)])
    return _program(machine, body)


def fake_filter(machine: Machine) -> bytes:
    """Return the program that lets changes of owner and identity, and devices, succeed without a trace."""
    done = [op(RETURN, ERRNO)]
    body: list[bytes] = []
    for call in (*OWN, *SET):
        body += _when(machine, call, done)
    for call, argument in (("mknod", 1), ("mknodat", 2)):
        body += _when(
            machine,
            call,
            [
                op(LOAD, ARGS + 8 * argument),
                op(AND, 0o170000),
                op(JUMP_EQUAL, stat.S_IFCHR, 1, 0),
                op(JUMP_EQUAL, stat.S_IFBLK, 0, 1),
                *done,
                _allow(),
            ],
        )
    return _program(machine, body)


def _program(machine: Machine, body: list[bytes]) -> bytes:
    head = [op(LOAD, ARCH), op(JUMP_EQUAL, machine.audit, 1, 0), _allow(), op(LOAD, NR)]
    return b"".join([*head, *body, _allow()])


def _when(machine: Machine, call: str, then: list[bytes]) -> list[bytes]:
    number = machine.numbers.get(call)
    return [] if number is None else [op(JUMP_EQUAL, number, 0, len(then)), *then]


def _allow() -> bytes:
    return op(RETURN, ALLOW)
