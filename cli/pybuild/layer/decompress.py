"""Compressed archives told by their content and read within limits."""

import os
from typing import Literal, Protocol, cast

from pybuild.layer.errors import LayerError, LimitError
from pybuild.layer.limits import DEFAULT_LIMITS, Limits

Kind = Literal["tar", "gzip", "bzip2", "xz", "zstd"]

HEAD = 512
_READ = 256 << 10
_FIRST_FEED = 4 << 10


class _Decompressor(Protocol):
    """What bz2, lzma, zstd and isal have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def sniff(head: bytes) -> Kind:
    """Return what a stream that begins with `head` is compressed with; "tar" when with nothing."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"BZh"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    # A frame, or a skippable one (RFC 8878, 3.1)
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return "zstd"
    return "tar"


def open_decompressed(fd: int, limits: Limits = DEFAULT_LIMITS) -> tuple["Decompressed", Kind]:
    """Return the content of the archive at `fd`, from its current offset, and its compression.

    `fd` may be a pipe; it stays the caller's and must stay open while the stream is read.
    """
    head = b""
    try:
        while len(head) < HEAD and (data := os.read(fd, HEAD - len(head))):
            head += data
    except OSError as error:
        raise LayerError(f"cannot read the archive: {error.strerror}") from error
    kind = sniff(head)
    return Decompressed(fd, head, kind, limits), kind


def _decompressor(kind: Kind, limits: Limits) -> _Decompressor:
    if kind == "gzip":
        from isal import igzip_lib

        return cast(_Decompressor, igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP))
    if kind == "bzip2":
        from bz2 import BZ2Decompressor

        return BZ2Decompressor()
    if kind == "xz":
        from lzma import FORMAT_XZ, LZMADecompressor

        return LZMADecompressor(FORMAT_XZ, memlimit=limits.memory)
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from backports import zstd
    options = {zstd.DecompressionParameter.window_log_max: limits.window_log}
    return cast(_Decompressor, zstd.ZstdDecompressor(options=options))


class Decompressed:
    """A stream whose damage is a LayerError and whose growth is bounded."""

    def __init__(self, fd: int, head: bytes, kind: Kind, limits: Limits) -> None:
        self._fd = fd
        self._limits = limits
        self._kind: Kind = kind
        self._in = len(head)
        self._out = 0
        self._pending = head
        self._at = 0  # what of `_pending` was taken
        # Input is given in small pieces at first, as a decompressor hands back what follows its member's end:
        # with whole buffers a chain of tiny members would cost their square.
        self._feed = _FIRST_FEED
        self._member: _Decompressor | None = None
        self._member_out = 0
        self._empty = 0
        self._started = False
        self._done = False

    def read(self, size: int = 1 << 20, /) -> bytes:
        """Return up to `size` bytes, b"" only at the end; raise LayerError for damage or a decompression bomb."""
        if self._kind == "tar":
            data = self._pending[self._at : self._at + size] or self._read(size)
            self._at += len(data)
        else:
            data = self._inflate(size)
        self._out += len(data)
        limits = self._limits
        if self._out > limits.total:
            raise LimitError(f"archive holds more than {limits.total} bytes", limit="total")
        if self._kind != "tar" and self._out > limits.ratio_free + limits.ratio * self._in:
            raise LimitError(f"compressed archive grows from {self._in} to more than {self._out} bytes", limit="ratio")
        return data

    def close(self) -> None:
        """Let go of what decompression holds; the descriptor stays open."""
        self._member = None
        self._done = True

    def __enter__(self) -> "Decompressed":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, size: int) -> bytes:
        try:
            return os.read(self._fd, size)
        except OSError as error:
            raise LayerError(f"cannot read the archive: {error.strerror}") from error

    def _have(self, size: int) -> bool:
        """Make at least `size` bytes of input ready, fewer only at the end; is there any?"""
        while len(self._pending) - self._at < size:
            more = self._read(_READ)
            if not more:
                break
            self._in += len(more)
            self._pending = self._pending[self._at :] + more
            self._at = 0
        return len(self._pending) > self._at

    def _inflate(self, size: int) -> bytes:
        while not self._done:
            if self._member is None:
                self._member = self._next_member()
                if self._member is None:
                    self._done = True
                    break
            member = self._member
            given = b""
            if member.needs_input:
                if not self._have(1):
                    raise LayerError(f"{self._kind} archive is cut short")
                given = self._pending[self._at : self._at + self._feed]
                self._at += len(given)
                self._feed = min(self._feed * 2, _READ)
            try:
                data = member.decompress(given, size)
            except Exception as error:  # each library has an error class of its own
                raise LayerError(f"{self._kind} archive is damaged: {error}") from error
            self._member_out += len(data)
            if member.eof:
                self._end_member(member.unused_data)
            if data:
                return data
        return b""

    def _end_member(self, unused: bytes) -> None:
        self._member = None
        if len(unused) <= self._at:
            self._at -= len(unused)
        else:
            self._pending = unused + self._pending[self._at :]
            self._at = 0
        if self._member_out == 0:
            self._empty += 1
            if self._empty > self._limits.empty_members:
                raise LimitError("compressed archive is a chain of empty members", limit="empty_members")

    def _next_member(self) -> _Decompressor | None:
        """Begin what follows; None at the end of the input, which zeros may fill up."""
        while self._have(1) and self._started and self._pending[self._at] == 0:
            self._pending = self._pending[self._at :].lstrip(b"\0")
            self._at = 0
        if not self._have(6):
            return None
        if sniff(self._pending[self._at : self._at + 6]) != self._kind:
            raise LayerError(f"{self._kind} archive has something else behind its end")
        self._started = True
        self._member_out = 0
        self._feed = _FIRST_FEED
        return _decompressor(self._kind, self._limits)
