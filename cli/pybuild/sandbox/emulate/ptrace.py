"""ptrace(2) as the supervisor uses it, on threads that were seized.

All functions raise OSError; ProcessLookupError when a thread is gone or, where it has to stand still, does not.
"""

import ctypes
import os
import signal
import struct
from functools import cache

from pybuild.sandbox.machine import this_machine

CONT = 7
SYSCALL = 24
LISTEN = 0x4208

EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_SECCOMP = 1, 2, 3, 4, 7
EVENT_STOP = 128
CALL_STOP = signal.SIGTRAP | 0x80
"""What a thread stops with at a system call."""

_GETREGS, _SETREGS, _POKEUSER = 12, 13, 6
_GETEVENTMSG, _SEIZE, _INTERRUPT = 0x4201, 0x4206, 0x4207
_GETSIGMASK, _SETSIGMASK = 0x420A, 0x420B
_O_TRACESYSGOOD, _O_TRACESECCOMP, _O_EXITKILL = 1, 1 << EVENT_SECCOMP, 1 << 20
_OPTIONS = (
    _O_TRACESYSGOOD
    | _O_TRACESECCOMP
    | _O_EXITKILL
    | 1 << EVENT_FORK
    | 1 << EVENT_VFORK
    | 1 << EVENT_CLONE
    | 1 << EVENT_EXEC
)
_MASK = struct.Struct("Q")

_word = ctypes.c_ulong
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_long, _word, _word]
_buffer = ctypes.create_string_buffer(512)
_there = ctypes.addressof(_buffer)


def _ptrace(request: int, pid: int, address: int, data: int) -> None:
    if _syscall(this_machine().numbers["ptrace"], request, pid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "ptrace")


def seize(pid: int) -> None:
    """Trace a thread and all that it will start, and let them die with this process; it goes on meanwhile."""
    _ptrace(_SEIZE, pid, 0, _OPTIONS)


def interrupt(pid: int) -> None:
    """Let a thread stop where it is next on its way to user mode."""
    _ptrace(_INTERRUPT, pid, 0, 0)


def resume(request: int, pid: int, number: int = 0) -> None:
    """Let a thread go on (CONT), up to its next call's begin or end (SYSCALL), or stay stopped (LISTEN).

    `number` is the signal that it is given.
    """
    _ptrace(request, pid, 0, number)


def event_message(pid: int) -> int:
    """Return what an event is about: the new process, or which thread executed a program."""
    _ptrace(_GETEVENTMSG, pid, 0, _there)
    return int(_MASK.unpack_from(_buffer)[0])


@cache
def _layout() -> struct.Struct:
    return struct.Struct(f"{this_machine().registers.words}Q")


def registers(pid: int) -> tuple[int, ...]:
    """Return the registers in the order of `struct user_regs_struct`."""
    _ptrace(_GETREGS, pid, 0, _there)
    return _layout().unpack_from(_buffer)


def set_registers(pid: int, values: list[int]) -> None:
    """Set all registers."""
    _layout().pack_into(_buffer, 0, *values)
    _ptrace(_SETREGS, pid, 0, _there)


def set_register(pid: int, place: int, value: int) -> None:
    """Set one register, given by its place among all."""
    _ptrace(_POKEUSER, pid, 8 * place, value)


def signal_mask(pid: int) -> int:
    """Return which signals are blocked."""
    _ptrace(_GETSIGMASK, pid, _MASK.size, _there)
    return int(_MASK.unpack_from(_buffer)[0])


def set_signal_mask(pid: int, mask: int) -> None:
    """Say which signals are blocked."""
    _MASK.pack_into(_buffer, 0, mask)
    _ptrace(_SETSIGMASK, pid, _MASK.size, _there)
