"""Reading an untrusted layer for its table, without unpacking it."""

import hashlib
from typing import TYPE_CHECKING

import msgspec

from pybuild.layer.errors import LayerError, shown
from pybuild.layer.limits import DEFAULT_LIMITS, Limits
from pybuild.layer.names import OPAQUE_MARKER, is_marker, marked_name
from pybuild.layer.tarreader import Readable, TarStream, members
from pybuild.layer.tarwriter import Packed, write_all
from pybuild.oci.digest import Digest
from pybuild.tree.entry import DIR, FILE, HARDLINK, WHITEOUT, Entry

if TYPE_CHECKING:
    from _hashlib import HASH


def index_layer(
    stream: Readable, limits: Limits = DEFAULT_LIMITS, *, out_fd: int | None = None, markers: bool = True
) -> Packed:
    """Return digest, size and table of an uncompressed layer; its bytes go to `out_fd` too if given.

    The table is what `apply_layer` makes of the same bytes: the last of several members of a name counts, a
    file above another member gives way to a directory (which the table lists only if the archive does),
    whiteouts are about the layers below wherever they stand. Without `markers` names that mean deletions are
    errors, as befits an archive that is no layer. Raises LayerError for what no layer may hold.
    """
    tee = _Tee(stream, out_fd)
    tar = TarStream(tee, limits.total)
    table = _Table()
    for member in members(tar, limits):
        entry = member.entry
        if not markers and is_marker(entry.path):
            raise LayerError(
                f"archive has a name that would delete files in the image: `{shown(entry.path)}`",
                "layers use names that begin with `.wh.` for deletions",
            )
        if entry.type == FILE:
            if member.left <= 1 << 16:
                entry.digest = hashlib.sha256(member.read()).digest()
            else:
                state = hashlib.sha256()
                for chunk in member.chunks():
                    state.update(chunk)
                entry.digest = state.digest()
        table.add(entry)
    tar.drain()  # the digest is over all bytes, also those behind the end mark
    return Packed(Digest("sha256:" + tee.state.hexdigest()), tee.size, table.rows())


class _Tee:
    """Hashes, and copies to a descriptor if there is one, all that is read."""

    def __init__(self, stream: Readable, out_fd: int | None) -> None:
        self._stream = stream
        self._out = out_fd
        self.state: HASH = hashlib.sha256()
        self.size = 0

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self.state.update(data)
        self.size += len(data)
        if self._out is not None:
            write_all(self._out, memoryview(data))
        return data


class _Table:
    """Rows in the order of the archive, without those that later ones replaced."""

    def __init__(self) -> None:
        self._rows: dict[bytes, Entry] = {}
        # Paths of what each directory was given, so that dropping a directory costs no search
        self._below: dict[bytes, list[bytes]] = {b"": []}
        # Dictionaries for their order: the same archive is to give the same table
        self._removed: dict[bytes, None] = {}
        self._opaque: dict[bytes, None] = {}

    def add(self, entry: Entry) -> None:
        path = entry.path
        marked = marked_name(path)
        if marked is None:
            self._add(entry)
        elif marked:
            parent, slash, _ = path.rpartition(b"/")
            self._make_parents(path)
            if marked == OPAQUE_MARKER:
                self._opaque[parent] = None
            else:
                hidden = parent + slash + marked
                self._removed[hidden] = None
                self._below[parent].append(hidden)

    def _add(self, entry: Entry) -> None:
        path = entry.path
        if entry.type == HARDLINK and entry.link == path:
            if path not in self._rows:
                raise LayerError(f"hard link to a file that is not in the layer: `{shown(path)}`")
            return
        if path:
            self._make_parents(path)
        if entry.type != DIR:
            self._drop_below(path)
        previous = self._rows.pop(path, None)
        if entry.type == HARDLINK:
            entry = self._linked(entry)
        elif entry.type == DIR and path not in self._below:
            self._below[path] = []
        if previous is None and path:
            self._below[path.rpartition(b"/")[0]].append(path)
        self._rows[path] = entry

    def _linked(self, entry: Entry) -> Entry:
        target = self._rows.get(entry.link)
        if target is None or target.type == DIR:
            raise LayerError(f"hard link to a file that is not in the layer: `{shown(entry.link)}`")
        if target.type == FILE:
            return msgspec.structs.replace(target, path=entry.path, type=HARDLINK, link=target.path)
        # Of a hard link the file itself, of anything else (a symlink, a fifo) simply another one
        return msgspec.structs.replace(target, path=entry.path)

    def _make_parents(self, path: bytes) -> None:
        """Make the directories above `path`; what is none gives way."""
        missing: list[bytes] = []
        above = path.rpartition(b"/")[0]
        while above not in self._below:
            missing.append(above)
            above = above.rpartition(b"/")[0]
        for directory in reversed(missing):
            self._below[directory] = []
            if self._rows.pop(directory, None) is None:
                self._below[directory.rpartition(b"/")[0]].append(directory)

    def _drop_below(self, path: bytes) -> None:
        pending = self._below.pop(path, [])
        self._opaque.pop(path, None)
        while pending:
            gone = pending.pop()
            self._rows.pop(gone, None)
            self._removed.pop(gone, None)
            self._opaque.pop(gone, None)
            pending.extend(self._below.pop(gone, ()))

    def rows(self) -> list[Entry]:
        rows = self._rows
        for path in self._removed:
            row = rows.get(path)
            if row is None and path not in self._below:
                rows[path] = Entry(path=path, type=WHITEOUT)
            elif row is None or row.type == DIR:
                # Removed and made anew: nothing of the old one shows through
                self._opaque[path] = None
        for path in self._opaque:
            row = rows.get(path)
            if row is None:
                row = rows[path] = Entry(path=path, type=DIR, mode=0o755)
            row.opaque = True
        for row in rows.values():
            if row.type == HARDLINK:
                target = rows.get(row.link)
                if target is None or target.type != FILE or target.offset != row.offset:
                    # The name it was linked to came again with other content, or went
                    row.type, row.link = FILE, b""
        return list(rows.values())
