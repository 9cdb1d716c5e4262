"""Ways out of a directory, by the kernel's own resolution and by ours for kernels without it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pybuild.context.beneath import has_openat2, open_beneath, walk_beneath

Opener = Callable[..., int]


@pytest.fixture(params=[open_beneath, walk_beneath], ids=["kernel", "by-hand"])
def opener(request: pytest.FixtureRequest) -> Opener:
    if request.param is open_beneath and not has_openat2():
        pytest.skip("this kernel has no openat2")
    chosen: Opener = request.param
    return chosen


@pytest.fixture
def root_fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "canary").write_text("canary")
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("inside")
    (root / "plain").write_text("plain")
    (root / "out").symlink_to("../canary")
    (root / "absolute").symlink_to(tmp_path / "canary")
    (root / "up").symlink_to("a/../../canary")
    (root / "circle").symlink_to("circle")
    (root / "dangling").symlink_to("nowhere")
    (root / "dir").symlink_to("a/b")
    (root / "a" / "back").symlink_to("../plain")
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def _read(fd: int) -> str:
    with open(fd) as file:
        return file.read()


@pytest.mark.parametrize(
    ("path", "content"), [(b"plain", "plain"), (b"a/b/file", "inside"), (b"a//./b/file", "inside")]
)
def test_opens_what_is_inside(opener: Opener, root_fd: int, path: bytes, content: str) -> None:
    assert _read(opener(root_fd, path, os.O_RDONLY)) == content


@pytest.mark.parametrize("path", [b"out", b"absolute", b"up", b"circle", b"dir", b"dir/file", b"a/back"])
def test_follows_no_link_unless_asked(opener: Opener, root_fd: int, path: bytes) -> None:
    with pytest.raises(OSError):
        opener(root_fd, path, os.O_RDONLY)


@pytest.mark.parametrize(("path", "content"), [(b"dir/file", "inside"), (b"a/back", "plain"), (b"a/../plain", "plain")])
def test_follows_links_that_stay_inside_when_asked(opener: Opener, root_fd: int, path: bytes, content: str) -> None:
    assert _read(opener(root_fd, path, os.O_RDONLY, follow=True)) == content


@pytest.mark.parametrize("path", [b"out", b"absolute", b"up", b"..", b"../canary", b"a/../../canary", b"/etc/passwd"])
def test_never_leaves_the_root(opener: Opener, root_fd: int, path: bytes) -> None:
    with pytest.raises(OSError, match="cross-device"):
        opener(root_fd, path, os.O_RDONLY, follow=True)


@pytest.mark.parametrize("path", [b"circle", b"dangling", b"missing", b"plain/x", b"nul\0"])
def test_fails_on_what_leads_nowhere(root_fd: int, path: bytes) -> None:
    for follow in (False, True):
        with pytest.raises(OSError):
            open_beneath(root_fd, path, os.O_RDONLY, follow=follow)


def test_opens_the_root_and_directories(opener: Opener, root_fd: int) -> None:
    for path, names in ((b"", None), (b"a/b", ["file"])):
        fd = opener(root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
        assert names is None or os.listdir(fd) == names
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_opens_paths_longer_than_one_call_takes(root_fd: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    name = "d" * 250
    at = os.dup(root_fd)
    for _ in range(100):
        os.mkdir(name, dir_fd=at)
        following = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = following
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    os.close(open_beneath(root_fd, b"/".join([name.encode()] * 100 + [b"leaf"]), os.O_RDONLY))
    assert len(os.listdir("/proc/self/fd")) == before
