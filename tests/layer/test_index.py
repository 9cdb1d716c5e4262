"""Tables of untrusted layers: what would be there after unpacking."""

import hashlib
import io
import os
from pathlib import Path

import pytest

from layer.archives import directory, hardlink, header, member, opened, pax, stream, symlink
from pybuild.layer.errors import LayerError
from pybuild.layer.index import index_layer
from pybuild.tree.entry import CHAR, DIR, FILE, HARDLINK, SYMLINK, WHITEOUT, Entry


def table(*parts: bytes) -> dict[bytes, Entry]:
    toc = index_layer(stream(*parts)).toc
    rows = {row.path: row for row in toc}
    assert len(rows) == len(toc)
    return rows


def kinds(*parts: bytes) -> dict[bytes, str]:
    return {path: row.type + ("o" if row.opaque else "") for path, row in table(*parts).items()}


def test_digest_is_over_all_bytes_and_offsets_point_into_them(tmp_path: Path) -> None:
    data = stream(member(b"a", b"hello"), pax((b"path", b"b")), member(b"x", b"w" * 100_000)).getvalue()
    data += bytes(9000) + b"whatever"
    with opened(tmp_path / "copy", os.O_RDWR | os.O_CREAT) as out:
        packed = index_layer(io.BytesIO(data), out_fd=out)
    assert (tmp_path / "copy").read_bytes() == data
    assert packed.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert packed.size == len(data)
    for row in packed.toc:
        content = data[row.offset : row.offset + row.size]
        assert row.digest == hashlib.sha256(content).digest()
        assert content in (b"hello", b"w" * 100_000)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([member(b".wh.a"), member(b"d/.wh.b")], {b"a": WHITEOUT, b"d/b": WHITEOUT}),
        ([directory(b"d"), member(b"d/.wh..wh..opq")], {b"d": "do"}),
        ([member(b"d/.wh..wh..opq"), directory(b"d")], {b"d": "do"}),
        ([member(b"d/.wh..wh..opq")], {b"d": "do"}),
        ([header(b".wh..wh..opq", b"5"), member(b"a", b"x")], {b"": "do", b"a": FILE}),
        ([member(b"d/.wh..wh.plnk"), header(b".wh..wh.aufs", b"5"), member(b".wh..wh.plnk/1.2")], {}),
        ([member(b"a"), member(b".wh.a")], {b"a": FILE}),
        ([member(b".wh.a"), member(b"a")], {b"a": FILE}),
        ([directory(b"a"), member(b".wh.a"), member(b"a/x")], {b"a": "do", b"a/x": FILE}),
        ([member(b".wh.a"), member(b"a/x")], {b"a": "do", b"a/x": FILE}),
        ([directory(b"a"), member(b"a/x"), symlink(b"a", b"/etc")], {b"a": SYMLINK}),
        ([symlink(b"a", b"/etc"), member(b"a/x")], {b"a/x": FILE}),
        ([symlink(b"a", b"/etc"), directory(b"a"), member(b"a/x")], {b"a": DIR, b"a/x": FILE}),
        ([symlink(b"a", b"/etc"), member(b"a/.wh.x")], {b"a/x": WHITEOUT}),
        ([member(b"a/b/c/d"), member(b"a")], {b"a": FILE}),
        ([member(b"a/b/c/d"), member(b"a"), member(b"a/b")], {b"a/b": FILE}),
        ([member(b"a/.wh.x"), member(b"a/.wh..wh..opq"), member(b"a")], {b"a": FILE}),
        ([member(b"A"), member(b"a")], {b"A": FILE, b"a": FILE}),
        ([header(b"n", b"3", device=(0, 0))], {b"n": CHAR}),
    ],
)
def test_rows_are_what_unpacking_would_leave(parts: list[bytes], expected: dict[bytes, str]) -> None:
    assert kinds(*parts) == expected


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh...", b"d/.wh.", b"d/.wh...", b".wh.d/x"])
def test_impossible_whiteouts_are_refused(name: bytes) -> None:
    with pytest.raises(LayerError):
        table(member(b"sibling"), member(name))


def test_last_of_a_name_counts() -> None:
    row = table(member(b"a", b"one"), member(b"b"), member(b"a", b"two!"))[b"a"]
    assert (row.size, row.digest) == (4, hashlib.sha256(b"two!").digest())


def test_hard_links_have_what_their_file_has() -> None:
    rows = table(member(b"d/a", b"data", mode=0o4755), hardlink(b"b", b"d/a"), hardlink(b"c", b"/b"))
    for path in (b"b", b"c"):
        row = rows[path]
        assert (row.type, row.link, row.mode, row.size) == (HARDLINK, b"d/a", 0o4755, 4)
        assert row.digest == rows[b"d/a"].digest
        assert row.offset == rows[b"d/a"].offset


def test_hard_link_outlives_the_name_it_was_made_from() -> None:
    for later in (member(b"a", b"other"), directory(b"a"), symlink(b"a", b"b")):
        row = table(member(b"a", b"first"), hardlink(b"b", b"a"), later)[b"b"]
        assert (row.type, row.link, row.digest) == (FILE, b"", hashlib.sha256(b"first").digest())


def test_hard_links_to_other_things() -> None:
    assert table(symlink(b"a", b"t"), hardlink(b"b", b"a"))[b"b"].link == b"t"
    assert kinds(member(b"a"), hardlink(b"a", b"a")) == {b"a": FILE}
    for parts in (
        [hardlink(b"b", b"a")],
        [directory(b"a"), hardlink(b"b", b"a")],
        [hardlink(b"a", b"a")],
        [symlink(b"s", b"d"), member(b"d/f"), hardlink(b"b", b"s/f")],
        [member(b"d/f"), hardlink(b"d", b"d/f")],
        [member(b".wh.a"), hardlink(b"b", b"a")],
    ):
        with pytest.raises(LayerError, match="hard link"):
            table(*parts)


def test_markers_are_no_part_of_other_archives() -> None:
    for name in (b".wh.x", b"d/.wh..wh..opq", b".wh.d/x", b".wh..wh.plnk"):
        with pytest.raises(LayerError, match="would delete"):
            index_layer(stream(member(name)), markers=False)


@pytest.mark.timeout(60)
def test_flip_flop_takes_no_square_of_time() -> None:
    parts = [member(b"d/%d" % number) for number in range(5_000)]
    flips = [directory(b"d"), member(b"d/x"), member(b"d")] * 5_000
    assert kinds(*parts, *flips) == {b"d": FILE}
    assert len(kinds(*[pax((b"path", b"a/" * 1000 + b"x")), member(b"y")] * 2_000)) == 1
