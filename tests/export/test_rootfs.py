"""Flat trees: as a tar with everything, as files of the user's own without what only root may have."""

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.export.errors import ExportError
from pybuild.export.rootfs import write_directory, write_tar
from pybuild.tree.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, WHITEOUT, Entry
from pybuild.tree.merged import MergedTree

SECOND = 1_000_000_000


class Image:
    """Layers in memory; a file's content is its digest."""

    def __init__(self, path: Path, *layers: list[Entry]) -> None:
        self.tree = MergedTree(layers)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT)

    def open(self, path: bytes) -> int:
        entry = self.tree.get(path)
        assert entry is not None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, entry.digest[: entry.size], 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


def file(path: str, content: bytes = b"x", **more: object) -> Entry:
    entry = Entry(
        path=path.encode(), type=FILE, mode=0o644, size=len(content), digest=content, offset=512, mtime=SECOND
    )
    for key, value in more.items():
        setattr(entry, key, value)
    return entry


def directory(path: str, mode: int = 0o755, **more: object) -> Entry:
    return file(path, b"", type=DIR, mode=mode, offset=-1, **more)


def link(path: str, target: str, content: bytes = b"x") -> Entry:
    return file(path, content, type=HARDLINK, link=target.encode())


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Image]:
    made = Image(
        tmp_path / "content",
        [
            directory("d", 0o2755),
            file("d/first", b"linked"),
            file("d/gone", b"g"),
            link("d/second", "d/first", b"linked"),
            link("d/third", "d/first", b"linked"),
            directory("locked", 0o555, mtime=7 * SECOND),
            file("locked/f", b"inside", mode=0o400),
            file("null", b"", type=CHAR, rdev=(1, 3)),
            file("pipe", b"", type=FIFO, mode=0o600),
            file("sda", b"", type=BLOCK, rdev=(8, 0)),
            file("su", b"setuid", mode=0o6755, uid=33, gid=50, mtime=5 * SECOND),
            file("sym", b"", type=SYMLINK, link=b"/etc/passwd", mode=0o777),
            directory("tmp", 0o1777),
        ],
        [
            directory("d", 0o700, opaque=False),
            Entry(path=b"d/first", type=WHITEOUT),
            Entry(path=b"d/gone", type=WHITEOUT),
            file("d/new", b"new"),
        ],
    )
    yield made
    made.close()


def test_a_tar_holds_the_whole_tree(image: Image, tmp_path: Path) -> None:
    with (tmp_path / "flat.tar").open("wb") as out:
        write_tar(image, out.fileno())
    with tarfile.open(tmp_path / "flat.tar") as archive:
        members = {member.name: member for member in archive}
        assert archive.extractfile("d/second").read() == b"linked"  # type: ignore[union-attr]
    assert sorted(members) == [
        "d", "d/new", "d/second", "d/third", "locked", "locked/f", "null", "pipe", "sda", "su", "sym", "tmp",
    ]  # fmt: skip
    # The name the links were made to is gone: the first that is left takes its place
    assert members["d/second"].isreg()
    assert (members["d/third"].type, members["d/third"].linkname) == (tarfile.LNKTYPE, "d/second")
    assert (members["su"].mode, members["su"].uid, members["su"].gid) == (0o6755, 33, 50)
    assert (members["null"].devmajor, members["null"].devminor) == (1, 3)


def test_a_directory_holds_what_a_user_may_have(image: Image, tmp_path: Path) -> None:
    dest = tmp_path / "a" / "b" / "out"
    write_directory(image, dest)
    assert sorted(os.listdir(dest)) == ["d", "locked", "pipe", "su", "sym", "tmp"]
    assert sorted(os.listdir(dest / "d")) == ["new", "second", "third"]
    assert os.listdir(dest.parent) == ["out"]
    assert (dest / "d" / "second").read_bytes() == b"linked"
    assert (dest / "d" / "second").samefile(dest / "d" / "third")
    assert os.readlink(dest / "sym") == "/etc/passwd"
    assert stat.S_ISFIFO((dest / "pipe").lstat().st_mode)
    state = (dest / "su").stat()
    assert (stat.S_IMODE(state.st_mode), state.st_uid, state.st_mtime) == (0o755, os.geteuid(), 5)
    assert stat.S_IMODE((dest / "tmp").stat().st_mode) == 0o1777
    # Its owner must be able to remove it again
    assert stat.S_IMODE((dest / "locked").stat().st_mode) == 0o755
    assert (dest / "locked").stat().st_mtime == 7
    assert (dest / "locked" / "f").read_bytes() == b"inside"


def test_writing_twice_overwrites(image: Image, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    dest.mkdir(mode=0o750)
    (dest / "mine").write_text("mine")
    (dest / "su").write_text("old")
    for _ in range(2):
        write_directory(image, dest)
        assert (dest / "su").read_bytes() == b"setuid"
        assert (dest / "mine").read_text() == "mine"
        assert (dest / "locked").stat().st_mtime == 7
        assert sorted(os.listdir(dest)) == ["d", "locked", "mine", "pipe", "su", "sym", "tmp"]
    assert stat.S_IMODE(dest.stat().st_mode) == 0o750


def test_links_at_the_destination_are_replaced_and_not_followed(image: Image, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "f").write_text("alive")
    dest = tmp_path / "out"
    dest.mkdir()
    for name in ("d", "locked", "tmp"):
        (dest / name).symlink_to(canary)
    for name in ("su", "sym"):
        (dest / name).symlink_to(canary / "f")
    write_directory(image, dest)
    assert os.listdir(canary) == ["f"]
    assert (canary / "f").read_text() == "alive"
    assert not (dest / "d").is_symlink()
    assert (dest / "d" / "new").read_bytes() == b"new"


@pytest.mark.parametrize("exists", [False, True])
def test_nothing_appears_when_it_cannot_all_be_written(image: Image, tmp_path: Path, exists: bool) -> None:
    dest = tmp_path / "out"
    if exists:
        dest.mkdir()
        (dest / "su").write_text("old")
    entry = image.tree.get(b"su")
    assert entry is not None
    entry.size = 1000
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ExportError, match="cut short"):
        write_directory(image, dest)
    assert sorted(os.listdir(tmp_path)) == before
    if exists:
        assert os.listdir(dest) == ["su"]
        assert (dest / "su").read_text() == "old"


def test_a_directory_in_the_way_of_a_file_is_told_before_anything_changes(image: Image, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    (dest / "su" / "mine").mkdir(parents=True)
    with pytest.raises(ExportError, match="/su"):
        write_directory(image, dest)
    assert os.listdir(dest) == ["su"]
    assert (dest / "su" / "mine").is_dir()


def test_a_file_in_the_way_is_told(image: Image, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    for dest in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(ExportError):
            write_directory(image, dest)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link of somebody else")
def test_a_link_of_somebody_else_is_not_a_destination(image: Image, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for path in (ours, theirs):
        path.symlink_to(tmp_path / "inside")
    os.lchown(theirs, 12345, 12345)
    with pytest.raises(ExportError, match="link of somebody else"):
        write_directory(image, theirs)
    assert os.listdir(tmp_path / "inside") == []
    write_directory(image, ours)
    assert (tmp_path / "inside" / "su").exists()


def test_very_long_paths_are_written(tmp_path: Path) -> None:
    parts = ["x" * 200] * 18
    rows = [directory("/".join(parts[: count + 1])) for count in range(len(parts))]
    deep = Image(tmp_path / "content", [*rows, file("/".join([*parts, "f"]), b"deep")])
    try:
        write_directory(deep, tmp_path / "out")
        fd = os.open(tmp_path / "out", os.O_RDONLY)
        with os.fdopen(os.open("/".join([*parts, "f"]), os.O_RDONLY, dir_fd=fd), "rb") as found:
            assert found.read() == b"deep"
        os.close(fd)
    finally:
        deep.close()
