"""The system calls a RUN may not make: a deny list in classic BPF (seccomp(2), linux/filter.h).

What is left out would be refused by missing capabilities in most cases; the list keeps the kernel's lesser
used doors shut all the same. ENOSYS where programs know how to do without, EPERM elsewhere.
"""

import errno
from typing import NamedTuple

from pybuild.sandbox.bpf import ALLOW, AND, ARCH, ARGS, ERRNO, JUMP_ANY_BIT, JUMP_EQUAL, LOAD, NR, RETURN, op
from pybuild.sandbox.machine import Machine

_NAMESPACES = 0x7E020000
_AF_ALG = 38
_AF_VSOCK = 40
_TIOCSTI = 0x5412
_TIOCLINUX = 0x541C

DENIED = (
    *("mount", "umount2", "pivot_root", "fsopen", "fsconfig", "fsmount", "fspick"),
    *("move_mount", "open_tree", "open_tree_attr", "mount_setattr"),
    *("unshare", "setns"),
    *("add_key", "request_key", "keyctl"),
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("open_by_handle_at", "lookup_dcookie", "uselib"),
    *("process_vm_readv", "process_vm_writev"),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module"),
    *("reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd"),
    *("iopl", "ioperm", "settimeofday", "clock_settime"),
)
"""Answered with EPERM; those an architecture lacks are passed over."""


class ArgumentRule(NamedTuple):
    """Refuse `call` with `error` when argument number `argument`, taken as 32 bits and masked, is `value`.

    With `value` None any bit of the mask is enough.
    """

    call: str
    argument: int
    mask: int
    value: int | None
    error: int


BY_ARGUMENT = (
    ArgumentRule("clone", 0, _NAMESPACES, None, errno.EPERM),
    ArgumentRule("socket", 0, 0xFFFFFFFF, _AF_ALG, errno.EAFNOSUPPORT),
    ArgumentRule("socket", 0, 0xFFFFFFFF, _AF_VSOCK, errno.EAFNOSUPPORT),
    ArgumentRule("ioctl", 1, 0xFFFFFFFF, _TIOCSTI, errno.EPERM),
    ArgumentRule("ioctl", 1, 0xFFFFFFFF, _TIOCLINUX, errno.EPERM),
)


def build_filter(machine: Machine) -> bytes:
    """Return the filter's instructions for a machine.

    Calls of another architecture (a 32-bit program's) get ENOSYS: the numbers would mean other things.
    """
    program = [
        op(LOAD, ARCH),
        op(JUMP_EQUAL, machine.audit, 1, 0),
        _refuse(errno.ENOSYS),
        op(LOAD, NR),
    ]
    if machine.foreign_bit:
        program += [op(JUMP_ANY_BIT, machine.foreign_bit, 0, 1), _refuse(errno.ENOSYS)]
    # The flags of clone3 lie behind a pointer, out of a filter's sight; libcs fall back to clone
    program += _when(machine, "clone3", [_refuse(errno.ENOSYS)])
    for rule in BY_ARGUMENT:
        program += _when(machine, rule.call, _check_argument(rule))
    for name in DENIED:
        program += _when(machine, name, [_refuse(errno.EPERM)])
    program.append(op(RETURN, ALLOW))
    return b"".join(program)


def _when(machine: Machine, call: str, then: list[bytes]) -> list[bytes]:
    number = machine.numbers.get(call)
    return [] if number is None else [op(JUMP_EQUAL, number, 0, len(then)), *then]


def _check_argument(rule: ArgumentRule) -> list[bytes]:
    load = op(LOAD, ARGS + 8 * rule.argument)
    if rule.value is None:
        test = [op(JUMP_ANY_BIT, rule.mask, 0, 1)]
    else:
        test = [op(AND, rule.mask), op(JUMP_EQUAL, rule.value, 0, 1)]
    # The number is loaded again for the rules that follow
    return [load, *test, _refuse(rule.error), op(LOAD, NR)]


def _refuse(error: int) -> bytes:
    return op(RETURN, ERRNO | error)
