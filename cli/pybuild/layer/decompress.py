"""Compressed archives told by their content and read within limits."""

import io
import os
from typing import Any, BinaryIO, Literal, cast

from pybuild.layer.errors import LayerError

Kind = Literal["tar", "gzip", "bzip2", "xz", "zstd"]

RATIO_FROM = 100 << 20
"""Output in bytes from which the ratio counts."""

MAX_RATIO = 1000
"""Output over input that no honest archive reaches."""

MAX_WINDOW_LOG = 27


def sniff(head: bytes) -> Kind:
    """Return what a stream that begins with `head` is compressed with; "tar" when with nothing."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"BZh"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return "zstd"
    return "tar"


def open_decompressed(fd: int) -> tuple["Decompressed", Kind]:
    """Return the content of the archive at `fd`, from its current offset, and its compression.

    `fd` must be seekable and stays the caller's.
    """
    start = os.lseek(fd, 0, os.SEEK_CUR)
    kind = sniff(os.pread(fd, 16, start))
    raw = io.FileIO(os.dup(fd), "rb")
    stream: Any = raw
    if kind == "gzip":
        from isal import igzip

        stream = cast(Any, igzip.GzipFile)(fileobj=raw, mode="rb")
    elif kind == "bzip2":
        import bz2

        stream = bz2.BZ2File(raw)
    elif kind == "xz":
        import lzma

        stream = lzma.LZMAFile(raw)  # noqa: SIM115  closed with Decompressed
    elif kind == "zstd":
        stream = _zstd(raw)
    return Decompressed(stream, raw, start), kind


def _zstd(raw: BinaryIO) -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from backports import zstd
    return zstd.ZstdFile(raw, options={zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG})


class Decompressed:
    """A stream whose damage is a LayerError and whose growth is bounded."""

    def __init__(self, stream: Any, raw: io.FileIO, start: int) -> None:
        self._stream = stream
        self._raw = raw
        self._start = start
        self._plain = stream is raw
        self._out = 0

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; raise LayerError for damaged data or a decompression bomb."""
        try:
            data = cast(bytes, self._stream.read(size))
        except OSError as error:
            if self._plain:
                raise LayerError(f"cannot read the archive: {error.strerror or error}") from error
            raise LayerError(f"compressed archive is damaged: {error}") from error
        except (EOFError, ValueError) as error:
            raise LayerError(f"compressed archive is damaged or cut short: {error}") from error
        except Exception as error:
            # Each library has an error class of its own
            raise LayerError(f"compressed archive is damaged: {error}") from error
        self._out += len(data)
        if not self._plain and self._out > RATIO_FROM:
            used = max(self._raw.tell() - self._start, 1)
            if self._out // used > MAX_RATIO:
                raise LayerError("archive grows beyond all measure when it is unpacked")
        return data

    def close(self) -> None:
        """Let go of the stream."""
        self._stream.close()
        self._raw.close()

    def __enter__(self) -> "Decompressed":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
