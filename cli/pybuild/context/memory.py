"""Digests of files that were read before, remembered by what the kernel says of the file.

A file is taken as unchanged when device, inode, size, mtime and ctime are the same; ctime cannot be set by
hand. A file touched within a clock tick of being read could change once more without any of them moving
("racily clean", as git calls it), so such files are not remembered.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec

from pybuild.context.errors import ContextError

_FORMAT = 1
_TICK = 50_000_000  # nanoseconds; the coarsest clock that stamps files ticks each 10 ms
_MAX_FILES = 1_000_000

Identity = tuple[int, int, int, int, int]  # device, inode, size, mtime ns, ctime ns


def identity(status: os.stat_result) -> Identity:
    """Return what tells whether a file is still the same."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


_Row = tuple[int, int, int, Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]]


class _Saved(msgspec.Struct, array_like=True, gc=False):
    format: int
    devices: dict[int, dict[int, _Row]]


class DigestMemory:
    """The remembered digests of one context; the newest of each inode is kept.

    With `path` None nothing is loaded or saved. A file that is damaged, foreign or of another version is
    like none at all: what it said is found out anew.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._changed = False
        # Everything read from here on is read later than this, so one look at the clock serves for all
        self._settled_before = time.time_ns() - _TICK
        self.devices: dict[int, dict[int, _Row]] = {}
        """device -> inode -> (size, mtime ns, ctime ns, raw sha256)"""
        if path is not None:
            try:
                saved = msgspec.msgpack.decode(path.read_bytes(), type=_Saved)
            except (OSError, msgspec.DecodeError):
                return
            if saved.format == _FORMAT:
                self.devices = saved.devices

    def get(self, key: Identity) -> bytes:
        """Return the digest of the file with this identity, b"" when not known."""
        device, inode, size, mtime, ctime = key
        row = self.devices.get(device, {}).get(inode)
        if row is not None and row[0] == size and row[1] == mtime and row[2] == ctime:
            return row[3]
        return b""

    def put(self, key: Identity, digest: bytes) -> None:
        """Remember the digest, unless the file is racily clean."""
        device, inode, size, mtime, ctime = key
        if ctime < self._settled_before:
            self.devices.setdefault(device, {})[inode] = (size, mtime, ctime, digest)
            self._changed = True

    def save(self, in_use: Iterable[Identity] = ()) -> None:
        """Write what was learnt, atomically, readable by the owner only. Nothing new: nothing written.

        Of two builds that save at once one wins; the other's digests are found out anew. When there are too
        many, only the files `in_use` are kept. Raises ContextError.
        """
        if self._path is None or not self._changed:
            return
        if sum(map(len, self.devices.values())) > _MAX_FILES:
            kept: dict[int, dict[int, _Row]] = {}
            for key in in_use:
                if digest := self.get(key):
                    kept.setdefault(key[0], {})[key[1]] = (*key[2:], digest)
            self.devices = kept
        data = msgspec.msgpack.encode(_Saved(_FORMAT, self.devices))
        import tempfile  # which costs more to import than all of this room

        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
            try:
                with open(fd, "wb") as file:
                    file.write(data)
                os.replace(name, self._path)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as error:
            raise ContextError(f"cannot save the file digests of the context: {error}") from error
        self._changed = False
