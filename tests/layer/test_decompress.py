"""Compressed archives: known by content, damage told, bombs stopped."""

import bz2
import gzip
import lzma
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from layer.archives import member, opened, stream
from pybuild.layer.decompress import open_decompressed
from pybuild.layer.errors import LayerError, LimitError
from pybuild.layer.index import index_layer
from pybuild.layer.limits import Limits

TAR = stream(member(b"a", os.urandom(100_000)), member(b"b", b"text " * 50_000)).getvalue()
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
    "tar": bytes,
}
COMPRESSED = [kind for kind in PACKERS if kind != "tar"]


def read(path: Path, data: bytes, limits: Limits | None = None, size: int = 1 << 20) -> tuple[bytes, str]:
    path.write_bytes(data)
    with opened(path) as fd:
        opened_stream, kind = open_decompressed(fd, limits or Limits())
        with opened_stream:
            parts = []
            while part := opened_stream.read(size):
                assert len(part) <= size
                parts.append(part)
            assert opened_stream.read(size) == b""
    return b"".join(parts), kind


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_known_by_content(tmp_path: Path, kind: str, size: int) -> None:
    assert read(tmp_path / "t", PACKERS[kind](TAR), size=size) == (TAR, kind)


@pytest.mark.parametrize("kind", PACKERS)
def test_reads_pipes_and_from_an_offset(tmp_path: Path, kind: str) -> None:
    data = PACKERS[kind](TAR)
    source, sink = os.pipe()
    writer = threading.Thread(target=lambda: (Path(f"/proc/self/fd/{sink}").write_bytes(data), os.close(sink)))
    writer.start()
    packed = index_layer(open_decompressed(source)[0])
    writer.join()
    os.close(source)
    assert [row.path for row in packed.toc] == [b"a", b"b"]
    (tmp_path / "t").write_bytes(b"junk" + data)
    with opened(tmp_path / "t") as fd:
        os.lseek(fd, 4, os.SEEK_SET)
        assert index_layer(open_decompressed(fd)[0]) == packed


@pytest.mark.parametrize("kind", COMPRESSED)
def test_several_members_and_zeros_behind(tmp_path: Path, kind: str) -> None:
    pack = PACKERS[kind]
    data = b"".join(pack(TAR[start : start + 7000]) for start in range(0, len(TAR), 7000)) + bytes(700)
    assert read(tmp_path / "t", data) == (TAR, kind)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_damage_is_told(tmp_path: Path, kind: str) -> None:
    data = PACKERS[kind](TAR)
    for broken in (data[:-1], data[:-5], data[: len(data) // 2], data[:10], data + b"behind it", data + data[:20]):
        with pytest.raises(LayerError):
            read(tmp_path / "t", broken)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0x55
    if kind != "zstd":  # its checksum is optional: the layer's digest notices
        with pytest.raises(LayerError):
            read(tmp_path / "t", bytes(flipped))


def test_checksum_of_gzip_counts(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(TAR))
    data[-6] ^= 1
    with pytest.raises(LayerError):
        read(tmp_path / "t", bytes(data))


def test_stops_bombs(tmp_path: Path) -> None:
    limits = Limits(ratio_free=10 << 20, ratio=250)
    for pack in (gzip.compress, zstd.compress, bz2.compress):
        with pytest.raises(LimitError) as caught:
            read(tmp_path / "t", pack(bytes(40 << 20)), limits)
        assert caught.value.limit == "ratio"
    with pytest.raises(LimitError) as caught:
        read(tmp_path / "t", gzip.compress(bytes(2 << 20)), Limits(total=1 << 20))
    assert caught.value.limit == "total"
    with pytest.raises(LimitError):
        read(tmp_path / "t", bytes(2 << 20), Limits(total=1 << 20))


def test_honest_zeros_are_let_through(tmp_path: Path) -> None:
    with opened(tmp_path / "t", os.O_RDWR | os.O_CREAT) as fd:
        packer = zlib.compressobj(wbits=31)
        for _ in range(200):
            os.write(fd, packer.compress(bytes(1 << 20)))
        os.write(fd, packer.flush())
        os.lseek(fd, 0, os.SEEK_SET)
        found, _ = open_decompressed(fd)
        size = 0
        while data := found.read(1 << 20):
            size += len(data)
    assert size == 200 << 20


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_chain_of_empty_members(tmp_path: Path, kind: str) -> None:
    with pytest.raises(LimitError) as caught:
        read(tmp_path / "t", PACKERS[kind](b"") * 100_000)
    assert caught.value.limit == "empty_members"


@pytest.mark.timeout(30)
def test_chain_of_tiny_members_takes_no_square_of_time(tmp_path: Path) -> None:
    data, kind = read(tmp_path / "t", gzip.compress(b"x") * 200_000)
    assert (len(data), kind) == (200_000, "gzip")


def test_window_of_zstd_is_bounded(tmp_path: Path) -> None:
    options = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.enable_long_distance_matching: 1}
    data = zstd.ZstdCompressor(options=options)
    packed = data.compress(os.urandom(1 << 20)) + data.compress(bytes(10)) + data.flush()
    with pytest.raises(LayerError):
        read(tmp_path / "t", packed)


def test_memory_of_xz_is_bounded(tmp_path: Path) -> None:
    data = lzma.compress(b"x" * 1000, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}])
    assert read(tmp_path / "t", data, Limits(memory=4 << 20))[1] == "xz"
    with pytest.raises(LayerError):
        read(tmp_path / "t", data, Limits(memory=1 << 19))


def test_empty_file_is_an_empty_tar(tmp_path: Path) -> None:
    assert read(tmp_path / "t", b"") == (b"", "tar")
