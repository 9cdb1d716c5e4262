"""Sees which files are opened or read, by inotify."""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IN_ACCESS, _IN_OPEN, _IN_ISDIR = 0x1, 0x20, 0x40000000
_EVENT = struct.Struct("iIII")


@contextmanager
def opened_files(root: Path) -> Iterator[list[str]]:
    """Give a list that holds, at the end of the block, the names of files below `root` opened or read in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    seen: list[str] = []
    try:
        for directory, _, _ in os.walk(root):
            if libc.inotify_add_watch(fd, os.fsencode(directory), _IN_ACCESS | _IN_OPEN) < 0:
                raise OSError(ctypes.get_errno(), "cannot watch", directory)
        yield seen
        while True:
            try:
                data = os.read(fd, 1 << 16)
            except BlockingIOError:
                break
            while data:
                _, mask, _, length = _EVENT.unpack_from(data)
                name = data[_EVENT.size : _EVENT.size + length].rstrip(b"\0")
                if not mask & _IN_ISDIR and name:
                    seen.append(os.fsdecode(name))
                data = data[_EVENT.size + length :]
    finally:
        os.close(fd)
