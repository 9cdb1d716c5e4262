"""What the kernel says of a file, as bytes in its own layout, to be handed on."""

import ctypes
import os

from pybuild.sandbox.machine import this_machine

_EMPTY_PATH = 0x1000
_STATX_SIZE = 256
_fstat = ctypes.CDLL(None, use_errno=True).syscall
_fstat.restype = ctypes.c_long
_fstat.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p]
_statx = ctypes.CDLL(None, use_errno=True).syscall
_statx.restype = ctypes.c_long
_statx.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_long, ctypes.c_ulong, ctypes.c_void_p]


# Always the same one: to make it anew would take longer than the call
_buffer = bytearray(_STATX_SIZE)
_there = (ctypes.c_char * _STATX_SIZE).from_buffer(_buffer)
_address = ctypes.addressof(_there)


def raw_stat(fd: int) -> bytearray:
    """Return a `struct stat` of a descriptor; raise OSError."""
    machine = this_machine()
    _check(_fstat(machine.numbers["fstat"], fd, _address))
    return _buffer[: machine.stat.size]


def raw_statx(fd: int, flags: int, mask: int) -> bytearray:
    """Return a `struct statx` of a descriptor; raise OSError."""
    _check(_statx(this_machine().numbers["statx"], fd, b"", flags | _EMPTY_PATH, mask, _address))
    return _buffer[:]


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
