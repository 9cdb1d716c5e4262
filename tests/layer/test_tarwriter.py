"""Layer tars: deterministic, and read alike by others."""

import gc
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer.archives import opened, written
from pybuild.layer.errors import LayerError
from pybuild.layer.index import index_layer
from pybuild.layer.tarwriter import TarWriter
from pybuild.tree.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, WHITEOUT, Entry

SECOND = 1_000_000_000


def file(path: bytes, **fields: object) -> Entry:
    return Entry(path=path, type=FILE, mode=0o644, **fields)  # type: ignore[arg-type]


def test_others_read_every_type(tmp_path: Path) -> None:
    packed = written(
        tmp_path / "t",
        Entry(path=b"d", type=DIR, mode=0o1777, uid=1, gid=2, mtime=5 * SECOND),
        (file(b"d/f", mtime=7 * SECOND), b"hello"),
        Entry(path=b"d/h", type=HARDLINK, link=b"d/f"),
        Entry(path=b"d/l", type=SYMLINK, mode=0o777, link=b"../x"),
        Entry(path=b"c", type=CHAR, mode=0o600, rdev=(1, 3)),
        Entry(path=b"b", type=BLOCK, mode=0o660, rdev=(259, 65536)),
        Entry(path=b"p", type=FIFO, mode=0o600),
    )
    with tarfile.open(tmp_path / "t") as archive:
        members = {member.name: member for member in archive}
        content = archive.extractfile("d/f")
        assert content is not None
        assert content.read() == b"hello"
    assert list(members) == ["d", "d/f", "d/h", "d/l", "c", "b", "p"]
    assert (members["d"].type, members["d"].mode, members["d"].uid, members["d"].gid) == (tarfile.DIRTYPE, 0o1777, 1, 2)
    assert members["d"].mtime == 5
    assert (members["d/h"].type, members["d/h"].linkname) == (tarfile.LNKTYPE, "d/f")
    assert (members["d/l"].type, members["d/l"].linkname) == (tarfile.SYMTYPE, "../x")
    assert (members["c"].devmajor, members["c"].devminor) == (1, 3)
    assert (members["b"].devmajor, members["b"].devminor) == (259, 65536)
    assert members["p"].type == tarfile.FIFOTYPE
    assert all(not member.pax_headers for member in members.values())
    assert packed.size == (tmp_path / "t").stat().st_size
    assert packed.diff_id == "sha256:" + hashlib.sha256((tmp_path / "t").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "extended"),
    [
        (b"x" * 100, False),
        (b"x" * 101, True),
        (b"a" * 60 + b"/" + b"b" * 60, False),
        (b"a" * 155 + b"/" + b"b" * 100, False),
        (b"a" * 156 + b"/" + b"b" * 100, True),
        ("grün".encode(), True),
        (b"not \xff UTF-8\n", True),
        (b"/".join([b"deep"] * 300), True),
    ],
)
@pytest.mark.parametrize("kind", [FILE, DIR])
def test_names_of_any_length_and_bytes(tmp_path: Path, name: bytes, extended: bool, kind: str) -> None:
    if kind == DIR and name[-100:] == b"b" * 100:
        extended = True  # the slash makes it one too long
    written(tmp_path / "t", Entry(path=name, type=kind, mode=0o755))
    with tarfile.open(tmp_path / "t", errors="surrogateescape") as archive:
        (member,) = archive.getmembers()
    assert os.fsencode(member.name) == name
    assert bool(member.pax_headers) == extended or (kind == DIR and len(name) >= 100)


def test_numbers_beyond_ustar(tmp_path: Path) -> None:
    xattrs = {b"user.b": b"\0=\n", b"user.a": b""}
    row = file(b"f", uid=4_000_000, gid=4_294_967_294, mtime=-1_500_000_000, xattrs=xattrs)
    written(tmp_path / "t", (row, b""))
    with tarfile.open(tmp_path / "t", errors="surrogateescape") as archive:
        (member,) = archive.getmembers()
    assert (member.uid, member.gid, member.mtime) == (4_000_000, 4_294_967_294, -1.5)
    assert list(member.pax_headers) == ["SCHILY.xattr.user.a", "SCHILY.xattr.user.b", "gid", "mtime", "uid"]
    with (tmp_path / "t").open("rb") as stream:
        (again,) = index_layer(stream).toc
    assert (again.uid, again.gid, again.mtime, again.xattrs) == (row.uid, row.gid, row.mtime, row.xattrs)


def test_deletions_are_empty_marker_files(tmp_path: Path) -> None:
    written(
        tmp_path / "t",
        Entry(path=b"a/gone", type=WHITEOUT, mode=0o777, mtime=9 * SECOND),
        Entry(path=b"o", type=DIR, mode=0o755, opaque=True),
        Entry(path=b"top", type=WHITEOUT),
    )
    with tarfile.open(tmp_path / "t") as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == ["a/.wh.gone", "o", "o/.wh..wh..opq", ".wh.top"]
    markers = [member for member in members if ".wh." in member.name]
    assert {(member.mode, member.mtime, member.size, member.uid) for member in markers} == {(0, 0, 0, 0)}


@pytest.mark.parametrize("path", [b".wh.x", b"d/.wh.x", b".wh.d/x", b"d/.wh..wh..opq"])
def test_refuses_names_that_would_delete(tmp_path: Path, path: bytes) -> None:
    with pytest.raises(LayerError, match="would delete files"):
        written(tmp_path / "t", (file(path), b""))


def test_hard_link_repeats_its_file_and_needs_one(tmp_path: Path) -> None:
    packed = written(
        tmp_path / "t", (file(b"f", uid=3, xattrs={b"user.a": b"b"}), b"12"), Entry(path=b"h", type=HARDLINK, link=b"f")
    )
    first, second = packed.toc
    assert (second.size, second.digest, second.offset, second.uid, second.xattrs) == (
        2,
        first.digest,
        first.offset,
        3,
        {b"user.a": b"b"},
    )
    with pytest.raises(LayerError, match="hard link"):
        written(tmp_path / "t", Entry(path=b"h", type=HARDLINK, link=b"f"))


def test_content_from_a_descriptor_at_its_position(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    with opened(tmp_path / "t", os.O_RDWR | os.O_CREAT) as out, opened(tmp_path / "f") as fd:
        os.lseek(fd, 4, os.SEEK_SET)
        writer = TarWriter(out)
        writer.add(file(b"f", size=3), fd)
        (row,) = writer.finish().toc
        assert os.pread(out, row.size, row.offset) == b"456"
    assert row.digest == hashlib.sha256(b"456").digest()


@pytest.mark.parametrize("size", [10, (1 << 20) + 1])
def test_file_that_changed_size(tmp_path: Path, size: int) -> None:
    (tmp_path / "f").write_bytes(bytes(size))
    for announced, whole, message in ((size + 1, False, "shorter"), (size - 1, True, "changed")):
        with opened(tmp_path / "t", os.O_RDWR | os.O_CREAT) as out, opened(tmp_path / "f") as fd:
            with pytest.raises(LayerError, match=f"{message} while it was read: `the/name`"):
                TarWriter(out).add(file(b"the/name", size=announced), fd, whole=whole)


def test_threads_make_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(1 << 20) * 20 + b"odd")
    results = []
    for threads in (False, True):
        with opened(tmp_path / "t", os.O_RDWR | os.O_CREAT | os.O_TRUNC) as out:
            writer = TarWriter(out, threads=threads)
            for number in range(3):
                writer.add(file(b"small%d" % number), b"x" * 700)
                with opened(tmp_path / "f") as fd:
                    writer.add(file(b"f%d" % number, size=(20 << 20) + 3), fd)
            packed = writer.finish()
        assert packed.diff_id == "sha256:" + hashlib.sha256((tmp_path / "t").read_bytes()).hexdigest()
        results.append(packed)
    assert results[0] == results[1]


@pytest.mark.parametrize("threads", [False, True])
def test_says_when_it_cannot_write(tmp_path: Path, threads: bool) -> None:
    (tmp_path / "t").touch()
    with opened(tmp_path / "t", os.O_RDONLY) as fd:
        writer = TarWriter(fd, threads=threads)

        def write() -> None:
            for number in range(50):
                writer.add(file(b"f%d" % number), bytes(1 << 20))
            writer.finish()

        with pytest.raises(LayerError, match="cannot write"):
            write()


def test_forgotten_writer_ends_its_thread(tmp_path: Path) -> None:
    with opened(tmp_path / "t", os.O_RDWR | os.O_CREAT) as fd:
        writer = TarWriter(fd, threads=True)
        writer.add(file(b"f"), bytes(3 << 20))
        del writer
        gc.collect()
    deadline = time.monotonic() + 10
    while any(thread.name == "layer-writer" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(not shutil.which("tar"), reason="tar is not installed")
def test_tar_lists_it_without_complaint(tmp_path: Path) -> None:
    written(tmp_path / "t", (file("lang/ä".encode() * 40, mtime=1), b"x"), Entry(path=b"d", type=DIR, mode=0o755))
    listed = subprocess.run(["tar", "-tf", tmp_path / "t"], capture_output=True, check=True)
    assert listed.stderr == b""
    assert len(listed.stdout.splitlines()) == 2


_names = st.lists(
    st.binary(min_size=1, max_size=60).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))
    | st.sampled_from([b"a", b"b", b"y" * 120]),
    min_size=1,
    max_size=5,
).map(b"/".join)
_metadata = st.fixed_dictionaries(
    {
        "mode": st.integers(0, 0o7777),
        "uid": st.integers(0, 2**32 - 2),
        "gid": st.integers(0, 2**32 - 2) | st.just(0),
        "mtime": st.integers(-(2**60), 2**62) | st.integers(0, 2**32).map(lambda seconds: seconds * SECOND),
        "xattrs": st.dictionaries(st.sampled_from([b"user.a", b"user.\xff"]), st.binary(max_size=100), max_size=2),
    }
)


@settings(max_examples=200)
@given(st.dictionaries(_names, st.tuples(_metadata, st.sampled_from("fdlp"), st.binary(max_size=2000)), max_size=8))
def test_what_was_written_is_read_again(entries: dict[bytes, tuple[dict[str, object], str, bytes]]) -> None:
    rows = []
    taken: set[bytes] = set()
    for path, (metadata, kind, data) in sorted(entries.items()):
        above = {path[:end] for end in range(len(path)) if path[end : end + 1] == b"/"}
        if any(row.path in above and row.type != DIR for row, _ in rows) or b".wh." in path:
            continue
        taken.add(path)
        row = Entry(path=path, type=kind, **metadata)  # type: ignore[arg-type]
        if kind == SYMLINK:
            row.link = data.replace(b"\0", b"0") or b"x"
        rows.append((row, data if kind == FILE else None))
    fd = os.memfd_create("layer")
    with os.fdopen(fd, "rb") as file_:
        writer = TarWriter(fd)
        for row, content in rows:
            writer.add(row, content)
        packed = writer.finish()
        file_.seek(0)
        read = index_layer(file_)
        file_.seek(0)
        data = file_.read()
    assert read == packed
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        assert [os.fsencode(member.name) for member in archive] == [row.path.rstrip(b"/") for row, _ in rows]
