"""Contexts as streams: recognised by content, and packed for a builder elsewhere."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import tarfile
from pathlib import Path

import pytest

from pybuild.context.archive import HEAD, pack_context, sniff
from pybuild.context.ignore import IgnoreMatcher


def _tar(format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        archive.addfile(tarfile.TarInfo("Dockerfile"), io.BytesIO())
    return out.getvalue()


def _v7_tar() -> bytes:
    """A header as before POSIX: no magic."""
    block = bytearray(_tar(tarfile.USTAR_FORMAT)[:512])
    block[257:] = bytes(512 - 257)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (_tar(), "tar"),
        (_tar(tarfile.GNU_FORMAT), "tar"),
        (_v7_tar(), "tar"),
        (bytes(1024), "tar"),
        (gzip.compress(_tar(), mtime=0), "gzip"),
        (bz2.compress(_tar()), "bzip2"),
        (bz2.compress(b""), "bzip2"),
        (lzma.compress(_tar()), "xz"),
        (b"\x28\xb5\x2f\xfd\x24\x00", "zstd"),
        (b"\x50\x2a\x4d\x18\x00\x00\x00\x00", "zstd"),
        (b"FROM scratch\n", "text"),
        (b"# syntax=docker/dockerfile:1\n" + b"#" * 600, "text"),
        (b"BZh1 is how this Dockerfile begins", "text"),
        (b"", "text"),
        (hashlib.shake_128(b"no archive").digest(300), "text"),
    ],
    # Processes that share the tests must call them the same
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_tells_what_a_stream_is_by_its_head(data: bytes, kind: str) -> None:
    assert sniff(data[:HEAD]) == kind


def _packed(root: Path, patterns: str = "", **options: list[bytes]) -> tarfile.TarFile:
    out = io.BytesIO()
    pack_context(root, IgnoreMatcher.parse(patterns), out, **options)
    assert len(out.getvalue()) % 512 == 0
    return tarfile.open(fileobj=io.BytesIO(out.getvalue()))


def test_packs_what_a_context_may_hold(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o750)
    (tmp_path / "d" / "f").write_bytes(b"x" * 1000)
    (tmp_path / "d" / "f").chmod(0o640)
    os.utime(tmp_path / "d" / "f", ns=(0, 1_500_000_000_250_000_000))
    (tmp_path / "old").touch()
    os.utime(tmp_path / "old", ns=(0, -1_500_000_000))
    (tmp_path / "link").symlink_to("l" * 200)
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / os.fsdecode(b"bad\xff\nname")).write_text("odd")
    (tmp_path / ("n" * 200)).touch()
    with _packed(tmp_path) as archive:
        members = {os.fsencode(member.name): member for member in archive}
        assert set(members) == {b".", b"d", b"d/f", b"old", b"link", b"loop", b"pipe", b"bad\xff\nname", b"n" * 200}
        file = members[b"d/f"]
        assert (file.mode, file.uid, file.gid, file.uname, file.mtime) == (0o640, 0, 0, "", 1_500_000_000.25)
        assert members[b"old"].mtime == -1.5
        content = archive.extractfile(file)
        assert content is not None
        assert content.read() == b"x" * 1000
        assert members[b"link"].linkname == "l" * 200
        assert members[b"link"].size == 0
        assert members[b"pipe"].isfifo()
        assert members[b"d"].isdir()


def test_the_dockerfile_and_the_ignore_file_always_go_along(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("Dockerfile", ".dockerignore", "other", "sub/My.Dockerfile", "sub/x"):
        (tmp_path / name).write_text(name)
    with _packed(tmp_path, "*\n") as archive:
        assert archive.getnames() == [".", ".dockerignore", "Dockerfile"]
    with _packed(tmp_path, "*\n", always=[b"sub/My.Dockerfile", b"missing/x"]) as archive:
        assert archive.getnames() == [".", "sub", "sub/My.Dockerfile"]


def test_an_empty_context_is_its_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o751)
    with _packed(tmp_path) as archive:
        assert [(member.name, member.mode) for member in archive] == [(".", 0o751)]


def test_an_archive_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / name).write_text(name)
    outs = [io.BytesIO(), io.BytesIO()]
    for out in outs:
        pack_context(tmp_path, IgnoreMatcher(), out)
    assert outs[0].getvalue() == outs[1].getvalue()
