"""Descriptors of other processes (pidfd_getfd(2))."""

import ctypes
from collections.abc import Callable

from pybuild.sandbox.machine import this_machine

_syscall = ctypes.CDLL(None).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long] * 4


def getfd() -> Callable[[int, int], int]:
    """Return what copies a descriptor of another process: of a descriptor of that one and a number in it.

    What it returns is close-on-exec; a negative number when there is none, or it cannot be had.
    """
    number, syscall = this_machine().numbers["pidfd_getfd"], _syscall

    def copy(process: int, descriptor: int) -> int:
        return int(syscall(number, process, descriptor, 0))

    return copy
