"""The memory of the calling process (process_vm_readv(2)). Addresses are the caller's word and may be anything."""

import ctypes
import errno
import os

from pybuild.sandbox.machine import this_machine

_PAGE = 4096
SHORT = 256
"""More bytes than most paths have."""
PATH_MAX = 4096
_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_word, _pointer = ctypes.c_ulong, ctypes.c_void_p
_syscall.argtypes = [ctypes.c_long, ctypes.c_long, _pointer, _word, _pointer, _word, _word]
_TOP = 1 << 64


class _Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_uint64), ("size", ctypes.c_uint64)]


class Memory:
    """Reads and writes, one at a time, through a buffer of its own."""

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(1 << 18)
        self._view = memoryview(self._buffer).cast("B")
        self._here = _Vector(ctypes.addressof(self._buffer), 0)
        self._there = _Vector(0, 0)
        self._at = ctypes.addressof(self._here), ctypes.addressof(self._there)
        numbers = this_machine().numbers
        self._read, self._write = numbers["process_vm_readv"], numbers["process_vm_writev"]

    def _move(self, number: int, pid: int, address: int, size: int) -> int:
        if not 0 < address < _TOP - size:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        self._here.size = self._there.size = size
        self._there.base = address
        done = int(_syscall(number, pid, self._at[0], 1, self._at[1], 1, 0))
        if done < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return done

    def read(self, pid: int, address: int, size: int) -> bytes:
        """Return `size` bytes, at most 256 KiB; raise OSError(EFAULT) unless all are there."""
        if size > len(self._view):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if size == 0:
            return b""
        if self._move(self._read, pid, address, size) != size:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return bytes(self._view[:size])

    def text(self, pid: int, address: int) -> bytes:
        """Return a path, up to its NUL; raise OSError(EFAULT or ENAMETOOLONG)."""
        found = b""
        step = SHORT
        while len(found) < PATH_MAX:
            # Never beyond the page at once: the next one may not be there, nor be needed
            size = min(step, _PAGE - (address & (_PAGE - 1)))
            got = self._move(self._read, pid, address, size)
            part = bytes(self._view[:got])
            text, nul, _ = part.partition(b"\0")
            found += text
            if nul:
                break
            if got < size:
                raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
            address += size
            step = _PAGE
        if len(found) >= PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        return found

    def write(self, pid: int, address: int, data: bytes | bytearray) -> None:
        """Write all of `data`; raise OSError(EFAULT)."""
        if not data:
            return
        self._view[: len(data)] = data
        if self._move(self._write, pid, address, len(data)) != len(data):
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
