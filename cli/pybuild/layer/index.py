"""Reading an untrusted layer for its table, without unpacking it."""

import hashlib
import os

import msgspec

from pybuild.layer.errors import LayerError
from pybuild.layer.tarreader import DEFAULT_LIMITS, Counting, Limits, Readable, members, shown
from pybuild.layer.tarwriter import OPAQUE_MARKER, WHITEOUT_PREFIX, Packed
from pybuild.oci.digest import Digest
from pybuild.tree.entry import DIR, FILE, HARDLINK, WHITEOUT, Entry


class _Tee:
    """Hashes, and copies to a descriptor if there is one, all that is read."""

    def __init__(self, stream: Readable, out_fd: int | None, limit: int) -> None:
        self._stream = stream
        self._out = out_fd
        self._limit = limit
        self.state = hashlib.sha256()
        self.size = 0

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self.state.update(data)
        self.size += len(data)
        if self.size > self._limit:
            raise LayerError(f"archive holds more than {self._limit} bytes")
        if self._out is not None:
            view = memoryview(data)
            while view:
                view = view[os.write(self._out, view) :]
        return data


def index_layer(stream: Readable, limits: Limits = DEFAULT_LIMITS, *, out_fd: int | None = None) -> Packed:
    """Return digest, size and table of an uncompressed layer; its bytes go to `out_fd` too if given.

    Raises LayerError for what no layer may hold (see `tarreader`).
    """
    tee = _Tee(stream, out_fd, limits.total)
    counting = Counting(tee)
    table: dict[bytes, Entry] = {}
    opaque: set[bytes] = set()
    for member in members(counting, limits):
        entry = member.entry
        parent, _, name = entry.path.rpartition(b"/")
        if name.startswith(WHITEOUT_PREFIX):
            _whiteout(parent, name, table, opaque)
            continue
        if entry.type == FILE:
            offset = counting.position
            state = hashlib.sha256()
            while data := member.read(1 << 20):
                state.update(data)
            entry = msgspec.structs.replace(entry, offset=offset, digest=state.digest())
        elif entry.type == HARDLINK:
            target = table.get(entry.link)
            if target is None or target.type not in (FILE, HARDLINK):
                raise LayerError(f"archive has a hard link to nothing: {shown(entry.path)}")
            entry = msgspec.structs.replace(
                target, path=entry.path, type=HARDLINK, link=target.link if target.type == HARDLINK else target.path
            )
        table.pop(entry.path, None)
        table[entry.path] = entry
    while tee.read(1 << 20):
        continue
    for path in opaque:
        known = table.get(path)
        directory = known if known is not None and known.type == DIR else Entry(path=path, type=DIR, mode=0o755)
        table[path] = msgspec.structs.replace(directory, opaque=True)
    return Packed(Digest("sha256:" + tee.state.hexdigest()), tee.size, list(table.values()))


def _whiteout(parent: bytes, name: bytes, table: dict[bytes, Entry], opaque: set[bytes]) -> None:
    if name == OPAQUE_MARKER:
        opaque.add(parent)
        return
    hidden = name[len(WHITEOUT_PREFIX) :]
    if hidden.startswith(WHITEOUT_PREFIX):
        # Other bookkeeping of aufs
        return
    if hidden in (b"", b".", b".."):
        raise LayerError(f"layer removes an impossible name: {shown(name)}")
    path = parent + b"/" + hidden if parent else hidden
    # Added in the same layer: a whiteout only concerns the layers below
    table.setdefault(path, Entry(path=path, type=WHITEOUT))
