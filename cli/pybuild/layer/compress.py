"""Compression of layers: the same bytes on every machine, but for high levels; digests made in the same pass."""

import hashlib
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from pybuild.layer.errors import LayerError
from pybuild.layer.tarwriter import write_all
from pybuild.oci.digest import Digest

if TYPE_CHECKING:
    from _hashlib import HASH

BLOCK_SIZE = 1 << 20
"""Input is cut like this whatever way it comes: isal's output depends on it."""

GZIP_LEVEL = 2
"""isal's level 3 gives other bytes on other processors."""

MAX_GZIP_LEVEL = 9
"""Those above GZIP_LEVEL are zlib's: smaller, several times slower, and other bytes with another version of it."""

ZSTD_LEVEL = 3
_WINDOW = 32 << 10
# RFC 1952, 2.3: deflate, no flags, no time, no extra flags, operating system unknown
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_LAST_BLOCK = b"\x03\0"
"""An empty final block (RFC 1951, 3.2.6): those before it ended on a byte."""


def compress(
    src_fd: int,
    dst_fd: int,
    kind: Literal["gzip", "zstd"],
    level: int | None = None,
    *,
    threads: int = 1,
) -> tuple[Digest, int]:
    """Compress all of `src_fd` from its offset on into `dst_fd`; return digest and size in bytes of the result.

    The result depends on kind, level and input only, from gzip's level 3 on also on zlib's version; `threads` makes
    gzip faster. Raises LayerError.
    """
    if kind == "gzip":
        if level is not None and not 0 <= level <= MAX_GZIP_LEVEL:
            raise LayerError(f"gzip level must be 0 to {MAX_GZIP_LEVEL}: {level}")
        return _gzip(src_fd, dst_fd, GZIP_LEVEL if level is None else level, threads)
    return _zstd(src_fd, dst_fd, ZSTD_LEVEL if level is None else level)


class _Output:
    """Hashes and counts what is written."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._state: HASH = hashlib.sha256()
        self._size = 0

    def put(self, data: bytes) -> None:
        self._state.update(data)
        self._size += len(data)
        write_all(self._fd, memoryview(data))

    def result(self) -> tuple[Digest, int]:
        return Digest("sha256:" + self._state.hexdigest()), self._size


def _blocks(fd: int) -> Iterator[bytes]:
    """Yield blocks of BLOCK_SIZE, the last one shorter."""
    while True:
        parts: list[bytes] = []
        left = BLOCK_SIZE
        try:
            while left and (data := os.read(fd, left)):
                parts.append(data)
                left -= len(data)
        except OSError as error:
            raise LayerError(f"cannot read the layer: {error.strerror}") from error
        if parts:
            yield parts[0] if len(parts) == 1 else b"".join(parts)
        if left:
            return


def _gzip(src_fd: int, dst_fd: int, level: int, threads: int) -> tuple[Digest, int]:
    """Compress block by block, each with the end of the one before as its dictionary, so in any order."""
    from isal import isal_zlib

    def deflate(block: bytes, before: bytes) -> tuple[bytes, int, int]:
        make = isal_zlib.compressobj if level <= GZIP_LEVEL else zlib.compressobj
        packer = make(level, zlib.DEFLATED, -15, zdict=before) if before else make(level, zlib.DEFLATED, -15)
        data = packer.compress(block) + packer.flush(zlib.Z_SYNC_FLUSH)
        return data, isal_zlib.crc32(block), len(block)

    out = _Output(dst_fd)
    out.put(_GZIP_HEADER)
    checksum = total = 0
    for data, block_checksum, length in _ordered(deflate, src_fd, threads):
        out.put(data)
        checksum = isal_zlib.crc32_combine(checksum, block_checksum, length)
        total += length
    out.put(_LAST_BLOCK + checksum.to_bytes(4, "little") + (total & 0xFFFFFFFF).to_bytes(4, "little"))
    return out.result()


_Deflate = Callable[[bytes, bytes], tuple[bytes, int, int]]


def _ordered(deflate: _Deflate, src_fd: int, threads: int) -> Iterator[tuple[bytes, int, int]]:
    before = b""
    if threads <= 1:
        for block in _blocks(src_fd):
            yield deflate(block, before)
            before = block[-_WINDOW:]
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    with ThreadPoolExecutor(threads, "compress") as pool:
        waiting: deque[Future[tuple[bytes, int, int]]] = deque()
        for block in _blocks(src_fd):
            waiting.append(pool.submit(deflate, block, before))
            before = block[-_WINDOW:]
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _zstd(src_fd: int, dst_fd: int, level: int) -> tuple[Digest, int]:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from backports import zstd
    out = _Output(dst_fd)
    # Without workers of its own, whose output differs and which not every build of the library has
    packer = zstd.ZstdCompressor(level=level)
    for block in _blocks(src_fd):
        out.put(packer.compress(block))
    out.put(packer.flush())
    return out.result()
