"""Compression: readable by all, the same bytes always."""

import gzip
import hashlib
import os
import random
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Literal

import pytest
from backports import zstd

from layer.archives import opened
from pybuild.layer.compress import BLOCK_SIZE, compress
from pybuild.layer.errors import LayerError

Kind = Literal["gzip", "zstd"]
TEXT = b" ".join(b"%d" % random.Random(7).randrange(1000) for _ in range(800_000)) + os.urandom(3 * BLOCK_SIZE)


def packed(path: Path, data: bytes, kind: Kind, **options: int) -> bytes:
    (path / "in").write_bytes(data)
    with opened(path / "in") as source, opened(path / "out", os.O_RDWR | os.O_CREAT | os.O_TRUNC) as out:
        digest, size = compress(source, out, kind, **options)
    result = (path / "out").read_bytes()
    assert (digest, size) == ("sha256:" + hashlib.sha256(result).hexdigest(), len(result))
    return result


@pytest.mark.parametrize("data", [b"", b"x", bytes(BLOCK_SIZE), TEXT[: BLOCK_SIZE + 1], TEXT], ids=len)
@pytest.mark.parametrize("threads", [1, 2])
def test_gzip_is_read_by_others(tmp_path: Path, data: bytes, threads: int) -> None:
    result = packed(tmp_path, data, "gzip", threads=threads)
    assert gzip.decompress(result) == data
    assert result[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    if shutil.which("gzip"):
        subprocess.run(["gzip", "-t"], input=result, check=True)


@pytest.mark.parametrize("data", [b"", TEXT], ids=len)
def test_zstd_is_read_by_others(tmp_path: Path, data: bytes) -> None:
    result = packed(tmp_path, data, "zstd")
    assert zstd.decompress(result) == data
    if shutil.which("zstd"):
        assert subprocess.run(["zstd", "-dc"], input=result, check=True, capture_output=True).stdout == data


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_bytes_depend_on_the_input_alone(tmp_path: Path, kind: Kind) -> None:
    results = {packed(tmp_path, TEXT, kind, threads=threads) for threads in (1, 1, 2, 3)}
    source, sink = os.pipe()

    def write() -> None:
        for start in range(0, len(TEXT), 7777):
            os.write(sink, TEXT[start : start + 7777])
        os.close(sink)

    writer = threading.Thread(target=write)
    writer.start()
    with opened(tmp_path / "piped", os.O_RDWR | os.O_CREAT) as out:
        compress(source, out, kind)
    writer.join()
    os.close(source)
    results.add((tmp_path / "piped").read_bytes())
    assert len(results) == 1


def test_high_levels_are_smaller_and_read_by_others(tmp_path: Path) -> None:
    sizes = []
    for level in (0, 2, 6, 9):
        result = packed(tmp_path, TEXT, "gzip", level=level, threads=2)
        assert result == packed(tmp_path, TEXT, "gzip", level=level)
        assert gzip.decompress(result) == TEXT
        sizes.append(len(result))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[1]


@pytest.mark.parametrize("level", [-1, 10])
def test_refuses_levels_that_there_are_not(tmp_path: Path, level: int) -> None:
    with pytest.raises(LayerError, match="level"):
        packed(tmp_path, b"x", "gzip", level=level)


def test_says_when_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(TEXT)
    for threads in (1, 2):
        with opened(tmp_path / "in") as source, opened(tmp_path / "in") as out:
            with pytest.raises(LayerError, match="cannot write"):
                compress(source, out, "gzip", threads=threads)
