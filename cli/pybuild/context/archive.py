"""Contexts as streams: telling what was sent, and sending a directory elsewhere.

Unpacking what was sent is no work for here: it is untrusted and belongs into the worker process.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Literal

from pybuild.context.errors import ChangedError
from pybuild.context.ignore import IgnoreMatcher, ignore_file_names
from pybuild.context.local import LocalContext
from pybuild.tree.entry import DIR, FIFO, FILE, SYMLINK, Entry

Kind = Literal["tar", "gzip", "bzip2", "xz", "zstd", "text"]

_NOTHING: Mapping[bytes, tuple[Path, IgnoreMatcher]] = MappingProxyType({})
_END = 1024  # two blocks of zeros
HEAD = 512  # bytes that `sniff` wants to see: one tar header


def sniff(head: bytes) -> Kind:
    """Return what a stream that begins with `head` is; "text" for all that is no archive.

    A compressed stream is taken for a compressed tar: a Dockerfile comes as it is.
    """
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    # The block or, in an empty stream, the end follows; a Dockerfile may well begin with "BZh1"
    if head[:3] == b"BZh" and head[3:4].isdigit() and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    # A frame, or a skippable one (RFC 8878, 3.1)
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return "zstd"
    if len(head) >= HEAD and _is_tar_header(head[:HEAD]):
        return "tar"
    return "text"


def _is_tar_header(block: bytes) -> bool:
    """Does the checksum hold (POSIX pax, "ustar Interchange Format"; also right for older tars)?"""
    if not any(block):
        return True  # the end of an archive without members
    digits = block[148:156].strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        return False
    fields = block[:148] + b" " * 8 + block[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in fields)
    return int(digits, 8) in (sum(fields), signed)


def pack_context(
    root: Path,
    ignore: IgnoreMatcher,
    out: BinaryIO,
    *,
    always: Sequence[bytes] | None = None,
    more: Mapping[bytes, tuple[Path, IgnoreMatcher]] = _NOTHING,
) -> None:
    """Write directory `root` to `out` as an uncompressed PAX tar, without what `ignore` leaves out.

    `always` are paths that go along even so, when they are there: by default `Dockerfile` and the ignore
    file, which a builder needs though they may not be copied. `more` are other directories, with their own rules, by
    the paths at which they come. Raises ContextError; what was written until
    then is no valid archive. Errors of `out` are passed on as they are.
    """
    if always is None:
        always = (b"Dockerfile", *ignore_file_names(root, None))
    with LocalContext(root, ignore) as kept, LocalContext(root) as everything:
        entries = {entry.path: (kept, entry) for entry in kept.walk(b"")}
        for path in always:
            for place in _with_directories(path):
                entry = everything.get(place) if place not in entries else None
                if entry is not None:
                    entries[place] = (everything, entry)
        for path in sorted(entries, key=lambda path: path.split(b"/")):
            _add(out, *entries[path])
    for place, (other, rules) in more.items():
        with LocalContext(other, rules) as kept:
            for entry in kept.walk(b""):
                _add(out, kept, entry, place)
    out.write(bytes(_END))


def _with_directories(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _add(out: BinaryIO, context: LocalContext, entry: Entry, below: bytes = b"") -> None:
    import tarfile

    types = {FILE: tarfile.REGTYPE, DIR: tarfile.DIRTYPE, SYMLINK: tarfile.SYMTYPE, FIFO: tarfile.FIFOTYPE}
    # COPY of all gives the root's mode to what it makes
    path = below + b"/" + entry.path if below and entry.path else below or entry.path
    member = tarfile.TarInfo(path.decode(errors="surrogateescape") or ".")
    member.type = types[entry.type]
    member.mode = entry.mode
    member.linkname = entry.link.decode(errors="surrogateescape")
    member.mtime = entry.mtime // 1_000_000_000
    if entry.mtime % 1_000_000_000:
        whole, fraction = divmod(abs(entry.mtime), 1_000_000_000)
        member.pax_headers = {"mtime": f"{'-' if entry.mtime < 0 else ''}{whole}.{fraction:09}"}
    # Links have no content, whatever size the kernel gives them
    member.size = entry.size if entry.type == FILE else 0
    # Opened before the header goes out: a file that cannot be read should not leave half a member
    fd = context.open(entry.path) if entry.type == FILE else -1
    try:
        out.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        left = member.size
        while left:
            data = os.read(fd, min(left, 1 << 20))
            if not data:
                raise ChangedError(f"changed while it was read: `{entry.path.decode(errors='replace')}`")
            out.write(data)
            left -= len(data)
        out.write(bytes(-member.size % 512))
    finally:
        if fd >= 0:
            os.close(fd)
