"""Compression of layers: the same bytes on every machine, digests made in the same pass."""

import hashlib
import os
from typing import Literal

from pybuild.oci.digest import Digest

_BLOCK = 1 << 20
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
GZIP_LEVEL = 2
"""Levels above give other bytes on other processors."""

ZSTD_LEVEL = 3


def compress(src_fd: int, dst_fd: int, kind: Literal["gzip", "zstd"], level: int | None = None) -> tuple[Digest, int]:
    """Compress all of `src_fd` from its offset into `dst_fd`; return digest and size of the result."""
    state = hashlib.sha256()
    size = 0

    def put(data: bytes) -> None:
        nonlocal size
        state.update(data)
        size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(dst_fd, view) :]

    if kind == "gzip":
        from isal import isal_zlib

        put(_GZIP_HEADER)
        packer = isal_zlib.compressobj(level if level is not None else GZIP_LEVEL, wbits=-15)
        checksum = total = 0
        while data := _block(src_fd):
            checksum = isal_zlib.crc32(data, checksum)
            total += len(data)
            put(packer.compress(data))
        put(packer.flush())
        put(checksum.to_bytes(4, "little") + (total & 0xFFFFFFFF).to_bytes(4, "little"))
    else:
        try:
            from compression import zstd  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            from backports import zstd
        squeezer = zstd.ZstdCompressor(level=level if level is not None else ZSTD_LEVEL)
        while data := _block(src_fd):
            put(squeezer.compress(data))
        put(squeezer.flush())
    return Digest("sha256:" + state.hexdigest()), size


def _block(fd: int) -> bytes:
    """Return a whole block: the output depends on how the input is cut."""
    parts: list[bytes] = []
    left = _BLOCK
    while left and (data := os.read(fd, left)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)
