"""Layer tars, the same bytes for the same entries: POSIX ustar, PAX records only where ustar cannot say it."""

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from mmap import mmap
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING
from weakref import finalize
from zlib import adler32

import msgspec

from pybuild.layer.errors import LayerError, from_os, shown
from pybuild.layer.names import OPAQUE_MARKER, WHITEOUT_PREFIX, is_marker
from pybuild.oci.digest import Digest
from pybuild.tree.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, WHITEOUT, Entry

if TYPE_CHECKING:
    from _hashlib import HASH

BLOCK_SIZE = 512
_BUFFER = 1 << 20
_BUFFERS = 6
_ZEROS = bytes(BLOCK_SIZE)
_TYPES = {FILE: b"0", HARDLINK: b"1", SYMLINK: b"2", CHAR: b"3", BLOCK: b"4", DIR: b"5", FIFO: b"6"}
_MAX_ID = 0o7777777
_MAX_SIZE = 0o77777777777
_SECOND = 1_000_000_000
_EMPTY_DIGEST = hashlib.sha256().digest()
# Written out: a formatter that joins adjacent literals would read NUL and digits as one octal escape
_NO_DEVICE = b"0000000\x00" * 2
# What follows the link name: magic and version, two empty names, two numbers
_TAIL = b"ustar\x00" + b"00" + bytes(64) + _NO_DEVICE
_EXTENDED_LIMIT = 1 << 20


class Packed(msgspec.Struct, frozen=True):
    """A finished layer: the digest and size in bytes of its uncompressed tar, and its table of contents."""

    diff_id: Digest
    size: int
    toc: list[Entry]


class TarWriter:
    """Writes a layer to a file from its current position on, and hashes it on the way.

    `fd` stays the caller's; nothing is to be read from it before `finish`. With `threads` a thread of its own
    hashes and writes, which pays for large files only and must not be asked for where threads are not allowed.
    """

    def __init__(self, fd: int, *, threads: bool = False) -> None:
        self.toc: list[Entry] = []
        self._files: dict[bytes, Entry] = {}
        self._sink = _ThreadSink(fd) if threads else _Sink(fd)
        self._buffer = self._sink.buffer()
        self._used = 0
        self._flushed = 0

    def add(self, entry: Entry, data: bytes | int | None = None, *, whole: bool = False) -> None:
        """Append one entry; directories come before what is in them, a file before its hard links.

        `data` is the content of a FILE: bytes, whose number then counts, or a descriptor of which `entry.size`
        bytes are read from its position on; with `whole` it must also end there. The row kept in `toc` has the
        content's digest (`entry.digest` is believed when given) and offset. Raises LayerError for a file that
        changed size, for a name that would mean a deletion and for a hard link to nothing.
        """
        kind = entry.type
        if WHITEOUT_PREFIX in entry.path and is_marker(entry.path):
            raise LayerError(
                f"a file's name would delete files in the image: `{shown(entry.path)}`",
                "layers use names that begin with `.wh.` for deletions",
            )
        if kind == FILE:
            row = msgspec.structs.replace(entry)
            if isinstance(data, bytes):
                row.size = len(data)
            self._put_header(row, row.path, b"0", row.size, b"")
            row.offset = self._flushed + self._used
            digest = self._put_content(row, data, whole)
            if not entry.digest:
                row.digest = digest
            self._files[row.path] = row
        elif kind == HARDLINK:
            row = self._linked(entry)
            self._put_header(row, row.path, b"1", 0, row.link)
        elif kind == WHITEOUT:
            directory, slash, name = entry.path.rpartition(b"/")
            row = Entry(path=entry.path, type=WHITEOUT)
            self._put_header(row, directory + slash + WHITEOUT_PREFIX + name, b"0", 0, b"")
        else:
            row = msgspec.structs.replace(entry)
            row.offset = -1
            row.size = 0
            name = entry.path if kind != DIR else (entry.path or b".") + b"/"
            self._put_header(row, name, _TYPES[kind], 0, entry.link if kind == SYMLINK else b"")
            if kind == DIR and entry.opaque:
                marker = entry.path + b"/" + OPAQUE_MARKER if entry.path else OPAQUE_MARKER
                self._put_header(Entry(path=entry.path, type=WHITEOUT), marker, b"0", 0, b"")
        self.toc.append(row)

    def has_file(self, path: bytes) -> bool:
        """Was a FILE added there, which hard links can name?"""
        return path in self._files

    def finish(self) -> Packed:
        """Write the end of the archive and return what was written; the writer is of no use afterwards."""
        self._put(bytes(2 * BLOCK_SIZE))
        self._flush()
        return Packed(Digest("sha256:" + self._sink.finish()), self._flushed, self.toc)

    def _linked(self, entry: Entry) -> Entry:
        target = self._files.get(entry.link)
        if target is None:
            raise LayerError(f"hard link to a file that is not in the layer: `{shown(entry.link)}`")
        return msgspec.structs.replace(target, path=entry.path, type=HARDLINK, link=entry.link)

    def _put_header(self, entry: Entry, name: bytes, kind: bytes, size: int, link: bytes) -> None:
        uid, gid, xattrs = entry.uid, entry.gid, entry.xattrs
        seconds, fraction = divmod(entry.mtime, _SECOND)
        if (
            len(name) > 100
            or len(link) > 100
            or fraction
            or xattrs
            or uid > _MAX_ID
            or gid > _MAX_ID
            or size > _MAX_SIZE
            or not 0 <= seconds <= _MAX_SIZE
            or not name.isascii()
            or not link.isascii()
        ):
            prefix = self._put_extended(entry, name, size, link)
            if prefix:
                name = name[len(prefix) + 1 :]
            name, link = _cut(name), _cut(link)
            uid, gid = (uid if uid <= _MAX_ID else 0), (gid if gid <= _MAX_ID else 0)
            size = size if size <= _MAX_SIZE else 0
            seconds = seconds if 0 <= seconds <= _MAX_SIZE else 0
        else:
            prefix = b""
        tail = _TAIL
        if kind in (b"3", b"4"):
            tail = _TAIL[: -len(_NO_DEVICE)] + b"%07o\0%07o\0" % entry.rdev
        self._put(_block(name, (entry.mode & 0o7777, uid, gid, size, seconds), kind, link, tail + prefix))

    def _put_extended(self, entry: Entry, name: bytes, size: int, link: bytes) -> bytes:
        """Write the PAX records an entry needs; return the part of its name for ustar's prefix field."""
        records: dict[bytes, bytes] = {}
        prefix = b""
        if not name.isascii():
            records[b"path"] = name
        elif len(name) > 100:
            prefix = _ustar_prefix(name)
            if not prefix:
                records[b"path"] = name
        if len(link) > 100 or not link.isascii():
            records[b"linkpath"] = link
        seconds, fraction = divmod(entry.mtime, _SECOND)
        if fraction or not 0 <= seconds <= _MAX_SIZE:
            records[b"mtime"] = _decimal(entry.mtime)
        if entry.uid > _MAX_ID:
            records[b"uid"] = b"%d" % entry.uid
        if entry.gid > _MAX_ID:
            records[b"gid"] = b"%d" % entry.gid
        if size > _MAX_SIZE:
            records[b"size"] = b"%d" % size
        for key, value in entry.xattrs.items():
            if b"=" in key:
                raise LayerError(f"a tar cannot hold this extended attribute of `{shown(entry.path)}`: {shown(key)}")
            records[b"SCHILY.xattr." + key] = value
        if records:
            body = b"".join([_record(key, records[key]) for key in sorted(records)])
            if len(body) > _EXTENDED_LIMIT:
                raise LayerError(f"too many extended attributes: `{shown(entry.path)}`")
            # The name says nothing, so that the block depends on the length alone
            head = _extended_header(len(body))
            self._put(head + body.ljust(len(body) + -len(body) % BLOCK_SIZE, b"\0"))
        return prefix

    def _put_content(self, entry: Entry, data: bytes | int | None, whole: bool) -> bytes:
        """Append a file's content, padded to blocks, and return its digest (b"" when it is known)."""
        size = entry.size
        if data is None or isinstance(data, bytes):
            content = data or b""
            if len(content) != size:
                raise LayerError(f"no content was given for a file: `{shown(entry.path)}`")
            self._put(content)
            self._pad(size)
            return b"" if entry.digest else hashlib.sha256(content).digest()
        if size == 0:
            digest = _EMPTY_DIGEST
        else:
            try:
                digest = self._copy(entry, data)
            except OSError as error:
                raise from_os(error, "read", entry.path) from error
            self._pad(size)
        if whole and os.fstat(data).st_size != size:
            raise LayerError(f"file changed while it was read: `{shown(entry.path)}`")
        return digest

    def _copy(self, entry: Entry, fd: int) -> bytes:
        left = entry.size
        if left <= _BUFFER:
            if self._used + left > _BUFFER:
                self._flush()
            used = self._used
            window = self._buffer[used : used + left]
            got = os.readv(fd, (window,))
            while got < left:
                more = os.readv(fd, (window[got:],))
                if more == 0:
                    raise LayerError(f"file became shorter while it was read: `{shown(entry.path)}`")
                got += more
            self._used = used + left
            return b"" if entry.digest else hashlib.sha256(window).digest()
        hasher = None if entry.digest else hashlib.sha256()
        while left:
            if self._used == _BUFFER:
                self._flush()
            used = self._used
            window = self._buffer[used : used + left]
            got = os.readv(fd, (window,))
            if got == 0:
                raise LayerError(f"file became shorter while it was read: `{shown(entry.path)}`")
            if hasher:
                hasher.update(window[:got])
            self._used = used + got
            left -= got
        return hasher.digest() if hasher else b""

    def _put(self, data: bytes) -> None:
        size = len(data)
        used = self._used
        if used + size <= _BUFFER:
            self._buffer[used : used + size] = data
            self._used = used + size
            return
        start = 0
        while start < size:
            if self._used == _BUFFER:
                self._flush()
            part = data[start : start + _BUFFER - self._used]
            self._buffer[self._used : self._used + len(part)] = part
            self._used += len(part)
            start += len(part)

    def _pad(self, size: int) -> None:
        missing = -size % BLOCK_SIZE
        if missing:
            if self._used + missing > _BUFFER:
                self._flush()
            self._buffer[self._used : self._used + missing] = _ZEROS[:missing]
            self._used += missing

    def _flush(self) -> None:
        if self._used:
            self._buffer = self._sink.put(self._buffer, self._used)
            self._flushed += self._used
            self._used = 0


def _block(name: bytes, numbers: tuple[int, int, int, int, int], kind: bytes, link: bytes, tail: bytes) -> bytes:
    """Return a header block; `numbers` are mode, uid, gid, size and seconds, `tail` begins at the magic."""
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), *numbers)
    rest = (kind + link.ljust(100, b"\0") + tail).ljust(356, b"\0")
    # The low half of adler32 is 1 + the sum of the bytes, exact for up to 256 of them: many times faster
    # than sum(). The checksum field counts as eight spaces.
    checksum = (adler32(head) & 0xFFFF) + (adler32(rest[:178]) & 0xFFFF) + (adler32(rest[178:]) & 0xFFFF) - 3 + 256
    return b"%b%06o\0 %b" % (head, checksum, rest)


@lru_cache(maxsize=256)
def _extended_header(size: int) -> bytes:
    return _block(b"@PaxHeader", (0o644, 0, 0, size, 0), b"x", b"", _TAIL)


def _cut(name: bytes) -> bytes:
    """Return what a reader without PAX sees: at most 100 bytes of ASCII."""
    if not name.isascii():
        name = bytes(byte if byte < 128 else 63 for byte in name)
    return name if len(name) <= 100 else name[:100].rstrip(b"/")


def _ustar_prefix(name: bytes) -> bytes:
    """Return the longest needed part for ustar's prefix field, b"" when the name cannot be split so."""
    cut = name.find(b"/", len(name) - 101)
    return name[:cut] if 0 < cut <= 155 and cut < len(name) - 1 else b""


def _decimal(mtime: int) -> bytes:
    whole, fraction = divmod(abs(mtime), _SECOND)
    text = b"%d.%09d" % (whole, fraction) if fraction else b"%d" % whole
    return (b"-" if mtime < 0 else b"") + (text.rstrip(b"0") if fraction else text)


def _record(key: bytes, value: bytes) -> bytes:
    """Return `LENGTH KEY=VALUE` and a newline, where LENGTH counts its own digits too."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) + rest != length:
        length += 1
    return b"%d %b=%b\n" % (length, key, value)


def write_all(fd: int, data: memoryview) -> None:
    """Write all of `data`; raise LayerError when the file system refuses."""
    try:
        while len(data):
            data = data[os.write(fd, data) :]
    except OSError as error:
        raise from_os(error, "write", b"layer") from error


def _new_buffer() -> memoryview:
    """Return a buffer whose pages come into being as they are used: most layers are small."""
    return memoryview(mmap(-1, _BUFFER))


class _Sink:
    """Hashes and writes in place; the one buffer is free again at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._hash: HASH = hashlib.sha256()

    def buffer(self) -> memoryview:
        return _new_buffer()

    def put(self, buffer: memoryview, used: int) -> memoryview:
        self._hash.update(buffer[:used])
        write_all(self._fd, buffer[:used])
        return buffer

    def finish(self) -> str:
        return self._hash.hexdigest()


_Full = tuple[memoryview, int] | None


class _ThreadSink:
    """Hashes and writes in a thread, on a descriptor of its own so that the caller may close theirs any time."""

    def __init__(self, fd: int) -> None:
        self._full: SimpleQueue[_Full] = SimpleQueue()
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(_new_buffer())
        self._outcome: list[str | BaseException] = []
        arguments = (os.dup(fd), self._full, self._free.put, self._outcome)
        self._thread = Thread(target=_drain, args=arguments, name="layer-writer", daemon=True)
        self._thread.start()
        # An unfinished writer that is forgotten after an error must not leave its thread waiting
        self._end = finalize(self, self._full.put, None)

    def buffer(self) -> memoryview:
        return self._free.get()

    def put(self, buffer: memoryview, used: int) -> memoryview:
        if self._outcome:
            self._raise()
        self._full.put((buffer, used))
        return self._free.get()

    def finish(self) -> str:
        self._end()
        self._thread.join()
        outcome = self._outcome[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _raise(self) -> None:
        self.finish()


def _drain(
    fd: int, full: "SimpleQueue[_Full]", free: Callable[[memoryview], None], outcome: "list[str | BaseException]"
) -> None:
    hasher = hashlib.sha256()
    try:
        while (item := full.get()) is not None:
            buffer, used = item
            if not outcome:
                try:
                    hasher.update(buffer[:used])
                    write_all(fd, buffer[:used])
                except Exception as error:
                    outcome.append(error)  # raised by the next call; until then only buffers go round
            free(buffer)
        if not outcome:
            outcome.append(hasher.hexdigest())
    finally:
        os.close(fd)
