"""What changed in a tree that was worked on in place, as a layer."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pybuild.layer.changes import compare, pack_changes, scan, settle
from pybuild.layer.clone import clone_tree
from pybuild.layer.tarwriter import TarWriter
from pybuild.tree.entry import Entry


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("a/b/c", "d", "e"):
        (root / name).mkdir(parents=True)
    for name in ("a/one", "a/b/two", "a/b/c/three", "d/four", "five"):
        (root / name).write_text(name)
    (root / "link").symlink_to("five")
    return root


def changes(root: Path, act: Callable[[Path], object]) -> list[Entry]:
    """Return the layer of what `act` does."""
    fd = os.open(root, os.O_RDONLY)
    out = os.open(root.parent, os.O_TMPFILE | os.O_RDWR)
    try:
        before = settle(fd)
        act(root)
        writer = TarWriter(out)
        pack_changes(fd, writer, before, owners="real")
        return writer.finish().toc
    finally:
        os.close(fd)
        os.close(out)


def shown(layer: list[Entry]) -> list[str]:
    return [f"{entry.type}{'!' if entry.opaque else ''} {entry.path.decode()}" for entry in layer]


def test_nothing_done_is_nothing(tree: Path) -> None:
    assert changes(tree, lambda root: (root / "five").read_text()) == []


@pytest.mark.parametrize(
    ("act", "layer"),
    [
        (lambda root: (root / "a/b/two").write_text("a/b/tw0"), ["d a", "d a/b", "f a/b/two"]),
        (lambda root: (root / "new").write_text(""), ["f new"]),
        (lambda root: (root / "a/one").unlink(), ["d a", "w a/one"]),
        (lambda root: shutil.rmtree(root / "a"), ["w a"]),
        (lambda root: (shutil.rmtree(root / "a"), (root / "a").mkdir()), ["d! a"]),
        (lambda root: (shutil.rmtree(root / "a"), (root / "a/b").mkdir(parents=True)), ["d! a", "d a/b"]),
        (lambda root: ((root / "five").unlink(), (root / "five").mkdir()), ["d! five"]),
        (lambda root: (shutil.rmtree(root / "d"), (root / "d").write_text("")), ["f d"]),
        (lambda root: (root / "d").rename(root / "g"), ["w d", "d g", "f g/four"]),
        (lambda root: (root / "d").rename(root / "e"), ["w d", "d! e", "f e/four"]),
        (lambda root: os.link(root / "five", root / "six"), ["f five", "h six"]),
        (lambda root: (root / "five").chmod(0o600), ["f five"]),
        (lambda root: (root / "e").chmod(0o700), ["d e"]),
        (lambda root: os.setxattr(root / "e", "user.x", b"1"), ["d e"]),
        (lambda root: os.setxattr(root / "d/four", "user.x", b"1"), ["d d", "f d/four"]),
        (lambda root: (root / "five").replace(root / "link"), ["w five", "f link"]),
        (lambda root: (root / "link").unlink(), ["w link"]),
    ],
)
def test_each_kind_of_change(tree: Path, act: Callable[[Path], object], layer: list[str]) -> None:
    assert shown(changes(tree, act)) == layer


def test_same_size_and_time_do_not_hide_a_change(tree: Path) -> None:
    def act(root: Path) -> None:
        state = (root / "five").stat()
        (root / "five").write_text("evif")
        os.utime(root / "five", ns=(state.st_atime_ns, state.st_mtime_ns))

    assert shown(changes(tree, act)) == ["f five"]


def test_change_right_after_the_table_shows(tree: Path) -> None:
    def act(root: Path) -> None:
        os.utime(root / "quick", ns=(0, 0))

    # Within the same tick of the clock nothing at all would differ
    for _ in range(10):
        (tree / "quick").write_text("0")
        os.utime(tree / "quick", ns=(0, 0))
        assert shown(changes(tree, act)) == ["f quick"]


def test_times_of_the_future_are_not_waited_for(tree: Path) -> None:
    begun = time.monotonic()
    os.utime(tree / "five", (4_000_000_000, 4_000_000_000))
    changes(tree, lambda root: None)
    assert time.monotonic() - begun < 2


def test_names_of_one_file_are_parted(tree: Path) -> None:
    os.link(tree / "a/one", tree / "d/same")
    os.link(tree / "a/one", tree / "e/same")
    os.setxattr(tree / "a/one", "user.x", b"1")
    before = (tree / "d").stat().st_mtime_ns
    assert shown(changes(tree, lambda root: (root / "d/same").write_text("other"))) == ["d d", "f d/same"]
    assert (tree / "a/one").read_text() == (tree / "e/same").read_text() == "a/one"
    assert os.getxattr(tree / "e/same", "user.x") == b"1"
    assert (tree / "d").stat().st_mtime_ns == before
    assert shown(changes(tree, lambda root: (root / "a/one").unlink())) == ["d a", "w a/one"]


def test_what_the_sandbox_touched_counts_only_when_it_looks_different(tree: Path) -> None:
    fd = os.open(tree, os.O_RDONLY)
    before = settle(fd)
    state = (tree / "d").stat()
    (tree / "d/stub").write_text("")
    (tree / "d/stub").unlink()
    os.utime(tree / "d", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert compare(before, scan(fd)).listed == {b"d"}
    assert compare(before, scan(fd), {b"d"}).listed == set()
    (tree / "d").chmod(0o700)
    assert compare(before, scan(fd), {b"d"}).listed == {b"d"}
    os.close(fd)


def test_clone_is_the_same_tree(tree: Path, tmp_path: Path) -> None:
    os.link(tree / "five", tree / "d/same")
    os.mkfifo(tree / "fifo", 0o640)
    os.setxattr(tree / "a/b", "user.x", b"1")
    os.setxattr(tree / "five", "user.x", b"2")
    (tree / "large").write_bytes(os.urandom(3 << 20))
    (tree / "five").chmod(0o4711)
    (tree / "d").chmod(0o500)
    os.utime(tree / "a", ns=(1, 1_000_000_007))
    (tree / ("deep/" * 60)).mkdir(parents=True)
    dest = tmp_path / "copy"
    dest.mkdir()
    source_fd, dest_fd = (os.open(path, os.O_RDONLY) for path in (tree, dest))
    clone_tree(source_fd, dest_fd)
    one, other = scan(source_fd), scan(dest_fd)
    os.close(source_fd)
    os.close(dest_fd)
    assert [(path, row.mode, row.uid, row.gid, row.size, row.mtime, row.xattrs) for path, row in one.items()] == [
        (path, row.mode, row.uid, row.gid, row.size, row.mtime, row.xattrs) for path, row in other.items()
    ]
    assert (dest / "large").read_bytes() == (tree / "large").read_bytes()
    assert (dest / "five").stat().st_nlink == 2
    assert os.getxattr(dest / "five", "user.x") == b"2"
    assert (dest / "link").readlink() == Path("five")
    (dest / "five").write_text("own")
    assert (tree / "five").read_text() == "five"
    (tree / "d").chmod(0o700)
    (dest / "d").chmod(0o700)
