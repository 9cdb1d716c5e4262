"""Lays out a context and archives in it, with every time fixed."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path

from backports import zstd

from conformance.rows import Row, parse_row

MTIME = 1_000_000_000
"""The time of what a case gives none, in seconds: long before any build, so that a kept time is told from a new one."""

_COMPRESSIONS = {
    "gz": lambda data: gzip.compress(data, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd.compress,
}
_TYPES = {
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
}


def lay_out(text: str, place: Path) -> None:
    """Make the context that `text` describes in the empty directory `place`.

    `archive PATH [COMPRESSION]` is a tar whose members are the lines below it, indented.
    """
    rows: list[Row] = []
    archives: list[tuple[str, str, list[Row]]] = []
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        if line.startswith(" "):
            archives[-1][2].append(parse_row(line))
        elif words[0] == "archive":
            archives.append((words[1], words[2] if len(words) > 2 else "", []))
        else:
            rows.append(parse_row(line))
    for name, compression, members in archives:
        data = tar(members)
        _write(place, Row("file", name, content=_COMPRESSIONS[compression](data) if compression else data))
    for row in rows:
        _write(place, row)
    # Directories last, the deepest first: what is made inside of one changes its time
    for directory, names, files in os.walk(place, topdown=False):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            row = next((row for row in rows if row.path == os.path.relpath(path, place)), Row("dir", ""))
            if row.kind == "dir" and row.mode is not None:
                os.chmod(path, row.mode)
            time = MTIME if row.mtime is None else row.mtime
            os.utime(path, (time, time), follow_symlinks=False)
    os.utime(place, (MTIME, MTIME))


def _write(place: Path, row: Row) -> None:
    path = place / row.path
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    match row.kind:
        case "dir":
            path.mkdir(exist_ok=True)
        case "symlink":
            path.symlink_to(row.link or "")
        case "hardlink":
            path.hardlink_to(place / (row.link or ""))
        case "fifo":
            os.mkfifo(path)
        case "file":
            path.write_bytes(_content(row))
        case _:
            raise ValueError(f"a context of a case cannot hold: {row.line()}")
    if row.kind in ("file", "fifo"):
        path.chmod(0o644 if row.mode is None else row.mode)
    if row.kind == "dir":
        path.chmod(0o755)


def _content(row: Row) -> bytes:
    """Return the content, which is the path in a line where none is given."""
    return row.content if isinstance(row.content, bytes) else f"{row.path}\n".encode()


def tar(rows: list[Row]) -> bytes:
    """Return a tar of the rows, in their order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for row in rows:
            member = tarfile.TarInfo(row.path)
            member.type = _TYPES.get(row.kind, tarfile.REGTYPE)
            member.mode = row.mode if row.mode is not None else 0o755 if row.kind == "dir" else 0o644
            member.uid, member.gid = row.owner or (0, 0)
            member.mtime = MTIME if row.mtime is None else row.mtime
            member.linkname = row.link or ""
            member.devmajor, member.devminor = row.device or (0, 0)
            member.pax_headers = {
                f"SCHILY.xattr.{name}": bytes.fromhex(value).decode(errors="surrogateescape")
                for name, value in row.xattrs.items()
            }
            data = _content(row) if row.kind == "file" else b""
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()
