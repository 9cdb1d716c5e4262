"""Local archives that ADD unpacks: an untrusted tar becomes entries of a layer."""

import os
from collections.abc import Sequence

import msgspec

from pybuild.layer.index import index_layer
from pybuild.layer.limits import DEFAULT_LIMITS, Limits
from pybuild.layer.tarreader import Readable
from pybuild.layer.tarwriter import TarWriter
from pybuild.tree.entry import DIR, FILE, HARDLINK, Entry


def repack_archive(
    stream: Readable,
    spool_fd: int,
    writer: TarWriter,
    dest: bytes,
    *,
    parents: Sequence[Entry] = (),
    chown: tuple[int, int] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Add the members of an uncompressed archive below `dest` (b"" is the root), sorted, the last of each name.

    Owners, modes and times are the archive's, owners only without `chown`. Directories it leaves out, `dest`
    itself too, look like the entry of that path in `parents`, or are 0755 and root's (or `chown`'s). The
    bytes go to `spool_fd` first, an empty file, for a later member may replace an earlier one. Raises
    LayerError as `index_layer`, also for names that would mean deletions.
    """
    toc = index_layer(stream, limits, out_fd=spool_fd, markers=False).toc
    prefix = dest + b"/" if dest else b""
    rows: dict[bytes, Entry] = {}
    offsets: dict[bytes, int] = {}
    for row in toc:
        if not row.path:
            continue  # the place itself is as it is
        path = prefix + row.path
        moved = msgspec.structs.replace(row, path=path)
        if row.type == HARDLINK:
            moved.link = prefix + row.link
        if chown is not None:
            moved.uid, moved.gid = chown
        rows[path] = moved
        if row.type in (FILE, HARDLINK):
            offsets[path] = row.offset
    existing = {entry.path: entry for entry in parents if entry.type == DIR}
    uid, gid = chown or (0, 0)
    for path in {above for row in [*rows, prefix + b"x"] for above in _above(row)} - rows.keys():
        rows[path] = existing.get(path) or Entry(path=path, type=DIR, mode=0o755, uid=uid, gid=gid)
    # In sorted order another name of a file may come first: that one is the file then
    first: dict[int, bytes] = {}
    for path in sorted(rows, key=lambda path: path.split(b"/")):
        row = rows[path]
        if path not in offsets:
            writer.add(row)
            continue
        name = first.setdefault(offsets[path], path)
        if name is not path:
            writer.add(msgspec.structs.replace(row, type=HARDLINK, link=name))
            continue
        os.lseek(spool_fd, offsets[path], os.SEEK_SET)
        writer.add(msgspec.structs.replace(row, type=FILE, link=b""), spool_fd)


def _above(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts))]
