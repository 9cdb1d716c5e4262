"""Untrusted tar streams, member by member: ustar, GNU long names and numbers, PAX; everything has a limit.

Follows POSIX.1 pax ("ustar Interchange Format", "pax Extended Header") and tar.texi ("Standard Headers").
Where readers differ, the stricter way is taken: what two of them would unpack differently is an error.
"""

import struct
from collections.abc import Iterator
from typing import Protocol
from zlib import adler32

from pybuild.layer.errors import LayerError, LimitError, shown
from pybuild.layer.limits import DEFAULT_LIMITS, Limits
from pybuild.layer.names import CAPABILITY, clean_path, keeps_xattr, plain_capability
from pybuild.tree.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Entry

BLOCK_SIZE = 512
CHUNK = 1 << 20
_SECOND = 1_000_000_000
_MAX_TIME = (1 << 63) - 1  # nanoseconds; the year 2262
_MAX_ID = (1 << 32) - 2  # the last one means "unchanged" to the kernel
_MAX_EXTENDED = 16
"""Extended headers in a row; writers use one or two."""

_ZERO_BLOCK = bytes(BLOCK_SIZE)
_KINDS = {
    b"0": FILE,
    b"\0": FILE,
    b"7": FILE,  # contiguous: a file like any other
    b"1": HARDLINK,
    b"2": SYMLINK,
    b"3": CHAR,
    b"4": BLOCK,
    b"5": DIR,
    b"6": FIFO,
}
_XATTR = b"SCHILY.xattr."
_fields = struct.Struct("100s8s8s8s12s12s8sc100s8s32x32x8s8s155s12x").unpack


class Readable(Protocol):
    """A stream of bytes; `read` may return fewer than asked for, and b"" only at the end."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes."""


class TarStream:
    """A stream that knows its position, reads ahead and refuses to run short."""

    def __init__(self, stream: Readable, limit: int = DEFAULT_LIMITS.total) -> None:
        self._stream = stream
        self._limit = limit
        self._buffer = b""
        self._view = memoryview(b"")
        self._at = 0
        self._base = 0

    @property
    def position(self) -> int:
        """Return how many bytes were taken, counted from the stream's beginning."""
        return self._base + self._at

    def _refill(self) -> bool:
        self._base += len(self._buffer)
        self._at = 0
        self._buffer = self._stream.read(CHUNK)
        self._view = memoryview(self._buffer)
        if self._base + len(self._buffer) > self._limit:
            raise LimitError(f"archive holds more than {self._limit} bytes", limit="total")
        return bool(self._buffer)

    def some(self, size: int) -> memoryview:
        """Return from one byte up to `size`; raise LayerError at the end."""
        if self._at == len(self._buffer) and not self._refill():
            raise LayerError("archive is cut short")
        at = self._at
        data = self._view[at : at + size]
        self._at = at + len(data)
        return data

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes; raise LayerError when the stream ends before."""
        at = self._at
        if at + size <= len(self._buffer):
            self._at = at + size
            return self._buffer[at : at + size]
        parts: list[memoryview] = []
        while size:
            parts.append(self.some(size))
            size -= len(parts[-1])
        return b"".join(parts)

    def block(self) -> bytes:
        """Return the next block; b"" when the stream ends before it."""
        if self._at == len(self._buffer) and not self._refill():
            return b""
        return self.exactly(BLOCK_SIZE)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes."""
        at = self._at + size
        if at <= len(self._buffer):
            self._at = at
            return
        while size:
            size -= len(self.some(size))

    def drain(self) -> None:
        """Pass over all the rest."""
        while self._refill():
            continue


class Member:
    """One member: its entry and its content, which must be read before the next member is asked for.

    The entry's path is clean and relative, whiteouts are not told apart yet, `offset` is where the content of
    a file begins in the stream. `left` is what of the content was not read.
    """

    __slots__ = ("_stream", "entry", "left")

    def __init__(self, entry: Entry, stream: TarStream) -> None:
        self.entry = entry
        self._stream = stream
        self.left = entry.size

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes of the content, all the rest by default, b"" at its end."""
        if size < 0 or size > self.left:
            size = self.left
        self.left -= size
        return self._stream.exactly(size)

    def chunks(self) -> Iterator[memoryview]:
        """Yield the rest of the content piece by piece; each piece is good until the next is asked for."""
        while self.left:
            data = self._stream.some(self.left)
            self.left -= len(data)
            yield data


def members(stream: Readable | TarStream, limits: Limits = DEFAULT_LIMITS) -> Iterator[Member]:
    """Yield the members of an untrusted tar, up to its end mark.

    Raises LayerError for anything malformed, LimitError for anything over a limit. Content that was not read
    is skipped. A stream may end without the mark, but not within a member.
    """
    tar = stream if isinstance(stream, TarStream) else TarStream(stream, limits.total)
    count = 0
    records: dict[bytes, bytes] = {}
    extended = 0
    while block := tar.block():
        if block == _ZERO_BLOCK:
            if extended:
                raise LayerError("archive ends behind an extended header")
            second = tar.block()
            if second and second != _ZERO_BLOCK:
                raise LayerError("archive goes on behind its end")
            return
        header = _fields(block)
        _verify(block, header[6])
        kind = header[7]
        if kind in b"xXgLKVN":
            extended += 1
            if extended > _MAX_EXTENDED:
                raise LayerError("archive has too many extended headers in a row")
            _extend(records, kind, _size(header[4], {}), tar, limits)
            continue
        count += 1
        if count > limits.entries:
            raise LimitError(f"archive has more than {limits.entries} members", limit="entries")
        entry = _entry(block, header, records, limits)
        if records:
            records = {}
        extended = 0
        if entry.type != FILE:
            yield Member(entry, tar)
            continue
        entry.offset = tar.position
        size = entry.size
        if entry.offset + size > limits.total:
            raise LimitError(f"archive holds more than {limits.total} bytes", limit="total")
        member = Member(entry, tar)
        yield member
        tar.skip(member.left + -size % BLOCK_SIZE)
    if extended:
        raise LayerError("archive ends behind an extended header")


def _verify(block: bytes, field: bytes) -> None:
    # adler32's low half is 1 + the sum of up to 256 bytes: see tarwriter
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2
    total += 256 - sum(field)
    if _number(field) == total:
        return
    signed = 256 + sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:])
    if _number(field) != signed:  # as some old writers added it up
        raise LayerError("not a tar archive, or a damaged one: a header's checksum is wrong")


def _number(field: bytes) -> int:
    """Return an octal field, or GNU's base-256 form marked by the first bit."""
    if field[0] >= 0x80:
        if field[0] == 0xFF:
            return int.from_bytes(field, "big", signed=True)
        return int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
    digits = field.rstrip(b"\0 ")
    if digits.isdigit():
        try:
            return int(digits, 8)
        except ValueError as error:
            raise LayerError("archive header has a malformed number") from error
    return _odd_number(field)


def _odd_number(field: bytes) -> int:
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise LayerError("archive header has a malformed number")
    return int(digits or b"0", 8)


def _size(field: bytes, records: dict[bytes, bytes]) -> int:
    text = records.get(b"size")
    size = _decimal(text) if text else _number(field)
    if size < 0:
        raise LayerError("archive header has a negative size")
    return size


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise LayerError(f"archive has a malformed number in an extended header: {shown(text[:40])}")
    return int(text)


def _time(text: bytes) -> int:
    digits = text[1:] if text[:1] == b"-" else text
    whole, _, fraction = digits.partition(b".")
    if len(text) > 64 or not whole.isdigit() or (fraction and not fraction.isdigit()):
        raise LayerError(f"archive has a malformed time: {shown(text[:40])}")
    value = int(whole) * _SECOND + int(fraction[:9].ljust(9, b"0"))
    return -value if digits is not text else value


def _extend(records: dict[bytes, bytes], kind: bytes, size: int, tar: TarStream, limits: Limits) -> None:
    """Read what an extended header says of the member that follows."""
    if size > limits.extended_header:
        raise LimitError(f"archive has an extended header of {size} bytes", limit="extended_header")
    data = tar.exactly(size)
    tar.skip(-size % BLOCK_SIZE)
    if kind in b"xX":
        _parse_records(data, records)
    elif kind == b"g":
        # Nothing that describes a whole archive changes an image (git's commit id, mostly), and readers do not
        # agree on whether the rest counts
        common: dict[bytes, bytes] = {}
        _parse_records(data, common)
        for key in common:
            if key in (b"path", b"linkpath", b"size") or key.startswith(b"GNU.sparse."):
                raise LayerError(f"archive has a global header that cannot be meant: {shown(key)}")
    elif kind == b"L":
        records[b"path"] = data.partition(b"\0")[0]
    elif kind == b"K":
        records[b"linkpath"] = data.partition(b"\0")[0]
    # V, N: a volume's label and an ancient form of long names, of which nobody unpacks anything


def _parse_records(data: bytes, records: dict[bytes, bytes]) -> None:
    """Add `LENGTH KEY=VALUE` lines to `records`; a later one wins, an empty value takes the record away."""
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 9)
        digits = data[at:space] if space > at else b""
        end = at + int(digits) if digits.isdigit() else 0
        if end <= space + 2 or end > len(data) or data[end - 1] != 0x0A:
            raise LayerError("archive has a malformed extended header")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not key or not equals:
            raise LayerError("archive has a malformed extended header")
        if value or key.startswith(_XATTR):
            records[key] = value
        else:
            records.pop(key, None)
        at = end


def _entry(block: bytes, header: tuple[bytes, ...], records: dict[bytes, bytes], limits: Limits) -> Entry:
    name, mode, uid_field, gid_field, size_field, time_field, _, kind, link, magic, major, minor, prefix = header
    name = name.partition(b"\0")[0]
    if prefix[0] and magic == b"ustar\x0000":
        name = prefix.partition(b"\0")[0] + b"/" + name
    link = link.partition(b"\0")[0]
    uid, gid, mtime = _number(uid_field), _number(gid_field), _number(time_field) * _SECOND
    xattrs: dict[bytes, bytes] = {}
    if records:
        name = records.get(b"path", name)
        link = records.get(b"linkpath", link)
        if b"\0" in name or b"\0" in link:
            raise LayerError(f"archive has a name with a zero byte: `{shown(name)}`")
        if b"uid" in records:
            uid = _decimal(records[b"uid"])
        if b"gid" in records:
            gid = _decimal(records[b"gid"])
        if b"mtime" in records:
            mtime = _time(records[b"mtime"])
        xattrs = _xattrs(records, name, limits)
    known = _KINDS.get(kind)
    if known is None:
        if kind == b"S":
            raise _sparse(name)
        raise LayerError(f"archive has a member of unknown type {shown(kind)}: `{shown(name)}`")
    if known == FILE and kind == b"\0" and name.endswith(b"/"):
        known = DIR  # as archives from before ustar wrote them
    path = clean_path(name, limits)
    if not path and known != DIR:
        raise LayerError(f"archive has a member without a name: `{shown(name)}`")
    if known == HARDLINK:
        link = clean_path(link, limits)
    elif known != SYMLINK:
        link = b""
    if known in (HARDLINK, SYMLINK) and not link:
        raise LayerError(f"archive has a link to nothing: `{shown(path)}`")
    if len(link) > limits.name:
        raise LimitError(f"archive has a link target of {len(link)} bytes: `{shown(path)}`", limit="name")
    if not (0 <= uid <= _MAX_ID and 0 <= gid <= _MAX_ID):
        raise LayerError(f"archive has an owner out of range, {uid}:{gid}: `{shown(path)}`")
    return Entry(
        path=path,
        type=known,
        mode=_number(mode) & 0o7777,
        uid=uid,
        gid=gid,
        # Others have no content, whatever their size field says: all common readers agree
        size=_size(size_field, records) if known == FILE else 0,
        mtime=min(max(mtime, -_MAX_TIME), _MAX_TIME),
        link=link,
        rdev=_device(major, minor, path) if known in (CHAR, BLOCK) else (0, 0),
        xattrs=xattrs,
    )


def _device(major_field: bytes, minor_field: bytes, path: bytes) -> tuple[int, int]:
    major, minor = _number(major_field), _number(minor_field)
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise LayerError(f"archive has a device that cannot be: `{shown(path)}`")
    return major, minor


def _xattrs(records: dict[bytes, bytes], path: bytes, limits: Limits) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for key, value in records.items():
        if key.startswith(b"GNU.sparse."):
            raise _sparse(path)
        if not key.startswith(_XATTR):
            continue
        name = key[len(_XATTR) :]
        if len(value) > limits.xattr or len(name) > limits.component:
            raise LimitError(f"archive has an extended attribute that is too long: `{shown(path)}`", limit="xattr")
        if b"\0" not in name and keeps_xattr(name):
            found[name] = plain_capability(value) if name == CAPABILITY else value
    return found


def _sparse(name: bytes) -> LayerError:
    return LayerError(f"archive has a sparse file: `{shown(name)}`", "make the archive without `--sparse`")
