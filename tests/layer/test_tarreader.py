"""Untrusted tars: the forms that are in use are read, all others refused in words."""

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer.archives import END, directory, hardlink, header, member, padded, pax, record, stream, symlink
from pybuild.layer.errors import LayerError, LimitError
from pybuild.layer.limits import Limits
from pybuild.layer.tarreader import members
from pybuild.tree.entry import DIR, FILE, HARDLINK, SYMLINK, Entry


def read(*parts: bytes, limits: Limits | None = None) -> list[Entry]:
    return [found.entry for found in members(stream(*parts), limits or Limits())]


def one(*parts: bytes) -> Entry:
    (entry,) = read(*parts)
    return entry


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"a", b"a"),
        (b"/c", b"c"),
        (b"./c", b"c"),
        (b"././/a//./b", b"a/b"),
        (b"///a", b"a"),
        (b".hidden", b".hidden"),
        (b"a/.b", b"a/.b"),
        (b"..a/b..", b"..a/b.."),
        (b"new\nline\x1b", b"new\nline\x1b"),
        (b"\xff", b"\xff"),
    ],
)
def test_names_become_relative(name: bytes, path: bytes) -> None:
    assert one(member(name)).path == path
    assert one(directory(name + b"/")).path == path


@pytest.mark.parametrize("name", [b"../c", b"a/../../c", b"./../c", b"..", b"a/..", b"/..", b"a/../b"])
@pytest.mark.parametrize("form", ["ustar", "pax", "gnu", "link"])
def test_names_that_lead_out_are_refused(name: bytes, form: str) -> None:
    parts = {
        "ustar": [member(name)],
        "pax": [pax((b"path", name)), member(b"x")],
        "gnu": [header(b"././@LongLink", b"L", len(name) + 1), padded(name + b"\0"), member(b"x")],
        "link": [member(b"x"), hardlink(b"y", name)],
    }[form]
    with pytest.raises(LayerError, match="leads out"):
        read(*parts)


@pytest.mark.parametrize("name", [b"", b".", b"/", b"./"])
def test_only_a_directory_can_be_the_root(name: bytes) -> None:
    assert one(directory(name)).path == b""
    for parts in (member(name), symlink(name, b"x")):
        with pytest.raises(LayerError, match="without a name"):
            read(parts)


def test_numbers_in_all_forms() -> None:
    assert one(member(b"a", uid=b"  17\0")).uid == 0o17
    assert one(member(b"a", uid=b"17     ")).uid == 0o17
    assert one(member(b"a", uid=b"")).uid == 0
    assert one(member(b"a", uid=b"\x80\0\0\0\0\x01\0\0")).uid == 65536
    assert one(member(b"a", mtime=b"\xff" * 12)).mtime == -1_000_000_000
    assert one(pax((b"mtime", b"-1.25"), (b"uid", b"4294967294")), member(b"a")).mtime == -1_250_000_000
    assert one(pax((b"mtime", b"3.0000000019")), member(b"a")).mtime == 3_000_000_001
    assert one(member(b"a", mtime=b"\x80" + b"\xff" * 11)).mtime == 2**63 - 1


@pytest.mark.parametrize("uid", [b"0o17", b"1_0", b"+1", b"-1", b"9", b"1 2", b"x", b"\xff" * 8, b"\x80" + b"\xff" * 7])
def test_malformed_numbers_are_refused(uid: bytes) -> None:
    with pytest.raises(LayerError):
        read(member(b"a", uid=uid))


@pytest.mark.parametrize(
    "parts",
    [
        [header(b"a", size=b"\xff" * 12)],
        [header(b"a", size=b"\x80" + b"\xff" * 11)],
        [header(b"a", size=1 << 30)],
        [pax((b"size", b"-1")), member(b"a")],
        [pax((b"size", b"9" * 5000)), member(b"a")],
        [pax((b"size", b"0x1")), member(b"a")],
        [pax((b"uid", b"-1")), member(b"a")],
        [pax((b"uid", b"4294967295")), member(b"a")],
        [pax((b"mtime", b"1" * 100_000)), member(b"a")],
        [pax((b"mtime", b"nan")), member(b"a")],
        [pax((b"path", b"a\0b")), member(b"a")],
        [header(b"x", b"x", 5), padded(b"99999")],
        [header(b"x", b"x", 9), padded(b"99999 a=b")],
        [header(b"x", b"x", 9), padded(b"9 abcdef\n")],
        [header(b"x", b"x", 6), padded(b"0 a=b\n"), member(b"a")],
        [header(b"x", b"x", 4), padded(b"4 =\n"), member(b"a")],
        [header(b"L", b"L", 1 << 30)],
        [header(b"K", b"K", 1 << 30)],
        [header(b"x", b"x", (1 << 20) + 1)],
        [pax((b"GNU.sparse.map", b"0,1"), (b"GNU.sparse.size", b"1099511627776")), member(b"a")],
        [pax((b"GNU.sparse.major", b"1")), member(b"a")],
        [header(b"a", b"S", 0)],
        [pax((b"path", b"a"), kind=b"g"), member(b"b")],
        [pax((b"size", b"1"), kind=b"g"), member(b"b")],
        [pax((b"a", b"b"))] * 17 + [member(b"a")],
        [pax((b"a", b"b"))],
        [header(b"a", b"Z")],
        [header(b"a", b"2")],
        [header(b"a", b"1")],
        [symlink(b"a", b"x" * 100)[:-1] + b"y"],
        [header(b"a", b"3", device=(1 << 20, 0))],
        [b"not a tar archive" * 40],
        [bytes(512), member(b"a")],
        [pax((b"SCHILY.xattr.user.x", b"x" * 65537)), member(b"a")],
        [pax((b"SCHILY.xattr.security.capability", b"junk")), member(b"a")],
    ],
)
def test_malformed_archives_are_refused(parts: list[bytes]) -> None:
    with pytest.raises(LayerError):
        read(*parts)


def test_every_cut_is_noticed_but_the_one_between_members() -> None:
    whole = pax((b"path", b"long")) + member(b"a", b"hello") + directory(b"d")
    between = {2048, 2560}
    for end in range(1, len(whole), 128):
        if end not in between:
            with pytest.raises(LayerError):
                list(members(io.BytesIO(whole[:end])))
    assert [found.entry.path for found in members(io.BytesIO(whole))] == [b"long", b"d"]
    assert list(members(io.BytesIO(b""))) == []


def test_limits_have_names() -> None:
    for limits, parts, name in [
        (Limits(entries=2), [member(b"a"), member(b"b"), member(b"c")], "entries"),
        (Limits(total=1000), [member(b"a", b"x" * 1000)], "total"),
        (Limits(), [pax((b"path", b"a/" * 2040 + b"x" * 100)), member(b"a")], "name"),
        (Limits(), [pax((b"path", b"x" * 256)), member(b"a")], "component"),
        (Limits(), [pax((b"path", b"a/" * 1024 + b"a")), member(b"a")], "depth"),
        (Limits(), [pax((b"linkpath", b"x" * 5000)), symlink(b"a", b"x")], "name"),
        (Limits(), [header(b"L", b"L", 1 << 21)], "extended_header"),
    ]:
        with pytest.raises(LimitError) as caught:
            read(*parts, limits=limits)
        assert caught.value.limit == name


def test_attributes_are_let_through_by_name() -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    with_root = bytes.fromhex("01000003000400000000000000000000000000000000abcd")
    names = [b"user.mine", b"user.overlay.opaque", b"user.overlay.redirect", b"user.pybuild.owner"]
    names += [b"trusted.overlay.x", b"security.selinux", b"security.ima", b"system.posix_acl_access"]
    records = [(b"SCHILY.xattr." + name, b"y") for name in names]
    found = one(pax(*records, (b"SCHILY.xattr.security.capability", capability)), member(b"a"))
    assert found.xattrs == {b"user.mine": b"y", b"security.capability": capability}
    assert one(pax((b"SCHILY.xattr.security.capability", with_root)), member(b"a")).xattrs == {
        b"security.capability": capability
    }


def test_a_later_record_wins_and_an_empty_one_takes_away() -> None:
    body = record(b"path", b"one") + record(b"path", b"two")
    assert one(header(b"x", b"x", len(body)) + padded(body), member(b"a")).path == b"two"
    body += record(b"path", b"")
    assert one(header(b"x", b"x", len(body)) + padded(body), member(b"a")).path == b"a"


def test_prefix_counts_in_posix_archives_only() -> None:
    assert one(member(b"a", prefix=b"p/q")).path == b"p/q/a"
    assert one(member(b"a", prefix=b"12345", magic=b"ustar  \0")).path == b"a"


def test_old_and_odd_members() -> None:
    assert one(header(b"d/", b"\0")).type == DIR
    assert one(header(b"f", b"7")).type == FILE
    assert one(pax((b"comment", b"abc"), kind=b"g"), member(b"a")).path == b"a"
    link = one(header(b"l", b"2", 1 << 20, link=b"/etc/passwd"))
    assert (link.type, link.link, link.size) == (SYMLINK, b"/etc/passwd", 0)
    assert read(member(b"x"), hardlink(b"y", b"/./x"))[1].link == b"x"
    signed = bytearray(member(b"\xff"))
    total = sum(byte - 256 if byte > 127 else byte for byte in signed[:148] + signed[156:512]) + 256
    signed[148:156] = b"%06o\0 " % total
    assert one(bytes(signed)).path == b"\xff"


def test_content_is_read_or_passed_over() -> None:
    parts = [member(b"a", b"x" * 700), member(b"b", b"12345"), member(b"c", b"z" * 3_000_000), member(b"d", b"!")]
    contents: list[bytes] = []
    for found in members(stream(*parts)):
        if found.entry.path == b"b":
            contents.append(found.read(2))
        elif found.entry.path == b"c":
            contents.append(b"".join(bytes(chunk) for chunk in found.chunks()))
        elif found.entry.path == b"d":
            contents.append(found.read())
    assert contents == [b"12", b"z" * 3_000_000, b"!"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_python_writes(form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        info = tarfile.TarInfo("directory/" * 12 + "file")
        info.size, info.mtime, info.uid, info.mode = 3, 1234, 1000, 0o4755
        archive.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * 99
        archive.addfile(link)
    buffer.seek(0)
    first, second = (found.entry for found in members(buffer))
    assert (first.path, first.mtime, first.uid, first.mode) == (
        b"directory/" * 12 + b"file",
        1234 * 10**9,
        1000,
        0o4755,
    )
    assert second.link == b"t" * 99


@pytest.mark.skipif(not shutil.which("tar"), reason="tar is not installed")
@pytest.mark.parametrize("form", ["v7", "ustar", "oldgnu", "gnu", "posix"])
def test_reads_what_tar_writes(tmp_path: Path, form: str) -> None:
    deep = tmp_path / "t" / ("d" * 40) / "e"
    deep.mkdir(parents=True)
    (deep / "f").write_text("content")
    os.link(deep / "f", deep / "g")
    os.symlink("f", deep / "l")
    command = ["tar", "-C", tmp_path / "t", f"--format={form}", "--sort=name", "-cf", "-", "."]
    packed = subprocess.run(command, check=True, capture_output=True).stdout
    found = [(found.entry.path, found.entry.type) for found in members(io.BytesIO(packed))]
    top = b"d" * 40
    assert found == [
        (b"", DIR),
        (top, DIR),
        (top + b"/e", DIR),
        (top + b"/e/f", FILE),
        (top + b"/e/g", HARDLINK),
        (top + b"/e/l", SYMLINK),
    ]


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=12), st.booleans(), st.integers(0, 5000))
def test_damage_is_never_more_than_an_error(changes: list[tuple[int, int]], mend: bool, cut: int) -> None:
    data = bytearray(pax((b"path", b"p"), (b"mtime", b"1.5")) + member(b"a", b"hello") + symlink(b"l", b"t") + END)
    for place, value in changes:
        data[place % len(data)] = value
    if mend:
        for start in range(0, len(data), 512):
            block = data[start : start + 512]
            data[start + 148 : start + 156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    try:
        for found in members(io.BytesIO(bytes(data[: cut or None]))):
            found.read()
    except LayerError:
        return
