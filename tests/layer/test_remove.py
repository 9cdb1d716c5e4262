"""Removing trees, also such as nobody can enter."""

import os
import resource
from pathlib import Path

import pytest

from layer.archives import opened
from pybuild.layer.remove import remove_tree


def remove(path: Path) -> list[bytes]:
    removed: list[bytes] = []
    with opened(path.parent) as fd:
        remove_tree(fd, os.fsencode(path.name), removed=removed.append)
    return removed


def test_removes_everything_and_tells_directories(tmp_path: Path) -> None:
    (tmp_path / "t/a/b").mkdir(parents=True)
    (tmp_path / "t/a/f").touch()
    (tmp_path / "t/c").mkdir()
    os.mkfifo(tmp_path / "t/p")
    removed = remove(tmp_path / "t")
    assert sorted(removed) == [b"t", b"t/a", b"t/a/b", b"t/c"]
    assert removed.index(b"t/a/b") < removed.index(b"t/a") < removed.index(b"t")
    assert os.listdir(tmp_path) == []


def test_absent_and_plain_files(tmp_path: Path) -> None:
    assert remove(tmp_path / "absent") == []
    (tmp_path / "f").touch()
    assert remove(tmp_path / "f") == []
    assert os.listdir(tmp_path) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/canary").touch()
    (tmp_path / "t").mkdir()
    (tmp_path / "t/d").symlink_to(tmp_path / "outside")
    (tmp_path / "t/f").symlink_to("../outside/canary")
    remove(tmp_path / "t")
    (tmp_path / "link").symlink_to("outside")
    remove(tmp_path / "link")
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert os.listdir(tmp_path / "outside") == ["canary"]


@pytest.mark.parametrize("mode", [0, 0o100, 0o200, 0o400, 0o500, 0o600])
def test_modes_are_no_hindrance(tmp_path: Path, mode: int) -> None:
    (tmp_path / "t/a/b").mkdir(parents=True)
    (tmp_path / "t/a/b/f").touch(0)
    for path in ("t/a/b", "t/a", "t"):
        (tmp_path / path).chmod(mode)
    remove(tmp_path / "t")
    assert os.listdir(tmp_path) == []


def test_depth_is_no_limit(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(6_000):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
    try:
        with opened(tmp_path) as fd:
            remove_tree(fd, b"d")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir(tmp_path) == []
