"""Untrusted tar streams, member by member: ustar, GNU long names, PAX; everything has a limit."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pybuild.layer.errors import LayerError
from pybuild.tree.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry

_BLOCK = 512
_KINDS = {
    b"0": FILE,
    b"\0": FILE,
    b"7": FILE,
    b"1": HARDLINK,
    b"2": SYMLINK,
    b"3": CHAR,
    b"4": BLOCK,
    b"5": DIR,
    b"6": FIFO,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a stranger's archive may cost, in bytes and counts."""

    total: int = 1 << 36
    entries: int = 1_000_000
    extension: int = 1 << 20
    name: int = 4096
    component: int = 255
    depth: int = 1024
    xattr: int = 64 << 10


DEFAULT_LIMITS = Limits()


class Readable(Protocol):
    """A stream of bytes; `read` may return fewer than asked for, and b"" at the end."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes."""


class Counting:
    """A stream that knows its position and refuses to run short."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.position = 0

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes; raise LayerError when the stream ends before."""
        data = self._stream.read(size)
        if len(data) < size:
            parts = [data]
            have = len(data)
            while have < size:
                more = self._stream.read(size - have)
                if not more:
                    raise LayerError("archive is cut short")
                parts.append(more)
                have += len(more)
            data = b"".join(parts)
        self.position += size
        return data

    def skip(self, size: int) -> None:
        """Pass over `size` bytes."""
        while size:
            size -= len(self.exactly(min(size, 1 << 20)))

    def some(self, size: int) -> bytes:
        """Return up to `size` bytes, b"" only at the end."""
        data = self._stream.read(size)
        self.position += len(data)
        return data


class Member:
    """One member: its entry (path cleaned) and its content, read before the next member is asked for."""

    def __init__(self, entry: Entry, stream: Counting) -> None:
        self.entry = entry
        self._stream = stream
        self.left = entry.size if entry.type == FILE else 0

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes of the content, b"" at its end."""
        data = self._stream.exactly(min(size, self.left)) if self.left else b""
        self.left -= len(data)
        return data


def members(stream: Counting, limits: Limits = DEFAULT_LIMITS) -> Iterator[Member]:
    """Yield the members of an untrusted tar.

    Raises LayerError for anything malformed or over a limit. Content that was not read is skipped.
    """
    pax: dict[bytes, bytes] = {}
    common: dict[bytes, bytes] = {}
    long_name = long_link = b""
    count = 0
    total = 0
    while True:
        block = stream.some(_BLOCK)
        if not block:
            return
        if len(block) < _BLOCK:
            block += stream.exactly(_BLOCK - len(block))
        if not any(block):
            return
        kind, size = block[156:157], _checked_size(block)
        if kind in (b"x", b"g", b"L", b"K"):
            if size > limits.extension:
                raise LayerError(f"archive has an extended header of {size} bytes")
            data = stream.exactly(size)
            stream.skip(-size % _BLOCK)
            if kind == b"x":
                pax = _pax(data)
            elif kind == b"g":
                common |= _pax(data)
            elif kind == b"L":
                long_name = data.rstrip(b"\0")
            else:
                long_link = data.rstrip(b"\0")
            continue
        records = {**common, **pax}
        if any(key.startswith(b"GNU.sparse") for key in records) or kind == b"S":
            raise LayerError("archive has a sparse file", "pack it without `--sparse`")
        entry = _entry(block, kind, size, records, long_name, long_link, limits)
        pax, long_name, long_link = {}, b"", b""
        count += 1
        if count > limits.entries:
            raise LayerError(f"archive has more than {limits.entries} members")
        if entry is None:
            stream.skip(size + -size % _BLOCK)
            continue
        padding = -entry.size % _BLOCK if entry.type == FILE else 0
        total += entry.size
        if total > limits.total:
            raise LayerError(f"archive holds more than {limits.total} bytes")
        member = Member(entry, stream)
        yield member
        stream.skip(member.left + padding)


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        if field[0] == 0xFF:
            return int.from_bytes(field, "big", signed=True)
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    text = field.strip(b" \0").split(b"\0")[0].strip()
    if text.strip(b"01234567"):
        raise LayerError("archive header has a malformed number")
    return int(text or b"0", 8)


def _checked_size(block: bytes) -> int:
    expected = _number(block[148:156])
    total = sum(block[:148]) + 256 + sum(block[156:])
    if total != expected:
        raise LayerError("not a tar archive, or a damaged one: header checksum is wrong")
    size = _number(block[124:136])
    if size < 0:
        raise LayerError("archive header has a negative size")
    return size


def _pax(data: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 12)
        digits = data[at:space] if space > at else b""
        if not digits.isdigit():
            if not data[at:].strip(b"\0"):
                break
            raise LayerError("archive has a malformed extended header")
        end = at + int(digits)
        record = data[space + 1 : end - 1]
        if end > len(data) or end <= space or b"=" not in record:
            raise LayerError("archive has a malformed extended header")
        key, _, value = record.partition(b"=")
        records[key] = value
        at = end
    return records


def _entry(
    block: bytes, kind: bytes, size: int, pax: dict[bytes, bytes], long_name: bytes, long_link: bytes, limits: Limits
) -> Entry | None:
    name = block[:100].split(b"\0")[0]
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].split(b"\0")[0]
        name = prefix + b"/" + name if prefix else name
    name = pax.get(b"path") or long_name or name
    link = pax.get(b"linkpath") or long_link or block[157:257].split(b"\0")[0]
    type_ = _KINDS.get(kind)
    if type_ is None:
        return None
    if type_ == FILE and name.endswith(b"/"):
        type_ = DIR
    path = clean_name(name, limits)
    if type_ == HARDLINK:
        link = clean_name(link, limits)
    elif len(link) > limits.name:
        raise LayerError("archive has a link target that is too long")
    if type_ != FILE:
        size = 0
    elif b"size" in pax:
        size = _decimal(pax[b"size"])
    mtime = _number(block[136:148]) * 1_000_000_000
    if b"mtime" in pax:
        mtime = _time(pax[b"mtime"])
    uid = _decimal(pax[b"uid"]) if b"uid" in pax else _number(block[108:116])
    gid = _decimal(pax[b"gid"]) if b"gid" in pax else _number(block[116:124])
    if not (0 <= uid < 1 << 32 and 0 <= gid < 1 << 32):
        raise LayerError(f"archive has an owner out of range: {shown(path)}")
    xattrs = _xattrs(pax, limits)
    rdev = (0, 0)
    if type_ in (CHAR, BLOCK):
        rdev = (_number(block[329:337]), _number(block[337:345]))
    return Entry(
        path=path,
        type=type_,
        mode=_number(block[100:108]) & 0o7777,
        uid=uid,
        gid=gid,
        size=size,
        mtime=mtime,
        link=link if type_ in (SYMLINK, HARDLINK) else b"",
        rdev=rdev,
        xattrs=xattrs,
    )


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise LayerError("archive has a malformed number in an extended header")
    return int(text)


def _time(text: bytes) -> int:
    whole, _, part = text.partition(b".")
    negative = whole.startswith(b"-")
    digits = whole.lstrip(b"-")
    if not digits.isdigit() or len(digits) > 12 or (part and not part.isdigit()):
        raise LayerError("archive has a malformed time")
    value = int(digits) * 1_000_000_000 + int(part[:9].ljust(9, b"0"))
    return -value if negative else value


def _xattrs(pax: dict[bytes, bytes], limits: Limits) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for key, value in pax.items():
        if not key.startswith(b"SCHILY.xattr."):
            continue
        name = key[13:]
        reserved = name.startswith((b"user.overlay.", b"user.pybuild."))
        if len(value) > limits.xattr:
            raise LayerError("archive has an extended attribute that is too long")
        if name == b"security.capability" or (name.startswith(b"user.") and not reserved):
            found[name] = value
    return found


def clean_name(name: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return a member's name relative to the root; raise LayerError for one that leads out or is too long."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts or b"\0" in name:
        raise LayerError(f"archive has a name that leads out of it: {shown(name)}")
    if len(name) > limits.name or len(parts) > limits.depth or any(len(part) > limits.component for part in parts):
        raise LayerError(f"archive has a name that is too long: {shown(name[:80])}")
    return b"/".join(parts)


def shown(path: bytes) -> str:
    """Return a path for a message."""
    return ascii(os.fsdecode(path))[1:-1] if not path.isascii() or any(c < 32 for c in path) else path.decode()
