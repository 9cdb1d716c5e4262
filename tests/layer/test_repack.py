"""Local archives for ADD."""

import io
import os
from pathlib import Path

import pytest

from layer.archives import directory, hardlink, member, opened, stream, symlink
from pybuild.layer.errors import LayerError
from pybuild.layer.repack import repack_archive
from pybuild.layer.tarwriter import Packed, TarWriter
from pybuild.tree.entry import DIR, FILE, HARDLINK, Entry


def repack(path: Path, *parts: bytes, dest: bytes = b"opt/app", **options: object) -> tuple[Packed, dict[str, bytes]]:
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
    with opened(path / "spool", flags) as spool, opened(path / "layer", flags) as out:
        writer = TarWriter(out)
        repack_archive(io.BytesIO(stream(*parts).getvalue()), spool, writer, dest, **options)  # type: ignore[arg-type]
        packed = writer.finish()
        content = {
            row.path.decode(): os.pread(out, row.size, row.offset) for row in packed.toc if row.type in (FILE, HARDLINK)
        }
    return packed, content


def test_members_stand_below_the_destination(tmp_path: Path) -> None:
    packed, content = repack(
        tmp_path,
        directory(b"./", 0o700),
        member(b"z/f", b"old"),
        member(b"b", b"first", uid=1000, mtime=5, mode=0o4755),
        member(b"z/f", b"new"),
        symlink(b"l", b"/etc"),
        hardlink(b"a", b"b"),
    )
    assert [(row.path, row.type) for row in packed.toc] == [
        (b"opt", DIR),
        (b"opt/app", DIR),
        (b"opt/app/a", FILE),
        (b"opt/app/b", HARDLINK),
        (b"opt/app/l", "l"),
        (b"opt/app/z", DIR),
        (b"opt/app/z/f", FILE),
    ]
    assert content == {"opt/app/a": b"first", "opt/app/b": b"first", "opt/app/z/f": b"new"}
    file = packed.toc[2]
    assert (file.uid, file.mtime, file.mode) == (1000, 5_000_000_000, 0o4755)
    assert packed.toc[3].link == b"opt/app/a"


def test_owner_can_be_given_and_parents_kept(tmp_path: Path) -> None:
    parent = Entry(path=b"opt", type=DIR, mode=0o711, uid=4)
    packed, _ = repack(tmp_path, member(b"f", uid=9), chown=(7, 8), parents=[parent])
    assert {row.path: (row.uid, row.gid, row.mode) for row in packed.toc} == {
        b"opt": (4, 0, 0o711),
        b"opt/app": (7, 8, 0o755),
        b"opt/app/f": (7, 8, 0o644),
    }


def test_destination_may_be_the_root(tmp_path: Path) -> None:
    packed, _ = repack(tmp_path, directory(b"d"), member(b"d/f"), dest=b"")
    assert [row.path for row in packed.toc] == [b"d", b"d/f"]


@pytest.mark.parametrize(
    "part", [member(b".wh.etc"), member(b"d/.wh..wh..opq"), member(b"../x"), member(b"/../x"), hardlink(b"a", b"/../x")]
)
def test_hostile_archives_are_refused(tmp_path: Path, part: bytes) -> None:
    with pytest.raises(LayerError):
        repack(tmp_path, part)
