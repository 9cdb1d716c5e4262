"""Trees as layers: what overlayfs leaves in an upper directory, and whole directories."""

import ctypes
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layer.archives import as_root, opened, removed, written
from pybuild.layer.apply import Rules, apply_layer
from pybuild.layer.errors import LayerError
from pybuild.layer.index import index_layer
from pybuild.layer.pack import pack_tree
from pybuild.layer.tarwriter import Packed, TarWriter
from pybuild.tree.entry import BLOCK, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, WHITEOUT, Entry


@pytest.fixture
def upper(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "upper"
    path.mkdir()
    yield path
    removed(path)


def pack(upper: Path, **options: object) -> Packed:
    tar = os.memfd_create("layer")
    try:
        writer = TarWriter(tar)
        with opened(upper) as fd:
            pack_tree(fd, writer, **options)  # type: ignore[arg-type]
        return writer.finish()
    finally:
        os.close(tar)


def rows(upper: Path, **options: object) -> list[tuple[str, str]]:
    return [(row.path.decode(), row.type + ("o" if row.opaque else "")) for row in pack(upper, **options).toc]


def test_order_is_by_bytes_with_directories_before_their_content(upper: Path) -> None:
    for name in ("b", "a/z", "a-b", "a.c", "B", "ä", "a/é/x"):
        (upper / name).parent.mkdir(parents=True, exist_ok=True)
        (upper / name).touch()
    assert [path for path, _ in rows(upper)] == ["B", "a", "a/z", "a/é", "a/é/x", "a-b", "a.c", "b", "ä"]


def test_metadata_is_kept(upper: Path) -> None:
    (upper / "f").write_text("x")
    (upper / "f").chmod(0o4750)
    os.utime(upper / "f", ns=(0, 1_234_567_891))
    (upper / "l").symlink_to("/somewhere")
    os.mkfifo(upper / "p", 0o600)
    found = {row.path: row for row in pack(upper).toc}
    file = found[b"f"]
    assert (file.type, file.mode, file.mtime, file.size) == (FILE, 0o4750, 1_234_567_891, 1)
    assert (file.uid, file.gid) == (os.geteuid(), (upper / "f").stat().st_gid)
    assert (found[b"l"].type, found[b"l"].link) == (SYMLINK, b"/somewhere")
    assert found[b"p"].type == FIFO
    assert pack(upper, epoch=1).toc[0].mtime == 1_000_000_000


def test_first_name_is_the_file_and_others_link_to_it(upper: Path) -> None:
    (upper / "d").mkdir()
    (upper / "z").write_text("x")
    os.link(upper / "z", upper / "d/a")
    os.link(upper / "z", upper / "m")
    (upper / "s").symlink_to("t")
    os.link(upper / "s", upper / "s2", follow_symlinks=False)
    found = {row.path.decode(): (row.type, row.link.decode()) for row in pack(upper).toc}
    assert found == {
        "d": (DIR, ""),
        "d/a": (FILE, ""),
        "m": (HARDLINK, "d/a"),
        "z": (HARDLINK, "d/a"),
        "s": (SYMLINK, "t"),
        "s2": (SYMLINK, "t"),
    }


def test_sockets_are_left_out(upper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(upper)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        assert rows(upper) == []


@pytest.mark.parametrize("name", [".wh.x", ".wh.", ".wh..wh..opq"])
@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_a_name_that_would_delete_is_an_error(upper: Path, name: str, kind: str) -> None:
    path = upper / "d" / name
    path.parent.mkdir()
    {"file": path.touch, "directory": path.mkdir, "link": lambda: path.symlink_to("x")}[kind]()
    with pytest.raises(LayerError, match=f"`d/{name}`"):
        pack(upper)


def test_own_and_overlay_attributes_are_left_out(upper: Path) -> None:
    (upper / "d").mkdir()
    (upper / "f").touch()
    for path in (upper / "d", upper / "f"):
        for name in ("user.overlay.origin", "user.overlay.impure", "user.pybuild.other", "user.mine"):
            os.setxattr(path, name, b"y")
    assert [row.xattrs for row in pack(upper).toc] == [{b"user.mine": b"y"}] * 2


def test_what_a_layer_between_hides_is_not_hidden_again(upper: Path, tmp_path: Path) -> None:
    lowers = [tmp_path / "low", tmp_path / "high"]
    for name in ("opaque/inner", "replaced/inner", "kept/inner"):
        (lowers[0] / name).mkdir(parents=True)
    for name in ("opaque", "kept"):
        (lowers[1] / name).mkdir(parents=True)
    os.setxattr(lowers[1] / "opaque", "user.overlay.opaque", b"y")
    (lowers[1] / "replaced").touch()
    for name in ("opaque/inner", "replaced/inner", "kept/inner"):
        (upper / name).mkdir(parents=True)
        os.setxattr(upper / name, "user.overlay.opaque", b"y")
    found = dict(rows(upper, lower_dirs=[os.fsencode(lower) for lower in lowers]))
    assert [found[name] for name in ("opaque/inner", "replaced/inner", "kept/inner")] == ["d", "d", "do"]


def test_opaque_only_where_there_is_something_to_hide(upper: Path, tmp_path: Path) -> None:
    lowers = [tmp_path / "low", tmp_path / "high"]
    for lower in lowers:
        lower.mkdir()
    (lowers[0] / "old/inner").mkdir(parents=True)
    (lowers[1] / "old").mkdir()
    (lowers[1] / "file").touch()
    (lowers[1] / "link").symlink_to("/etc")
    for name in ("old", "new", "file", "old/inner", "link", "link/ssl"):
        (upper / name).mkdir()
        os.setxattr(upper / name, "user.overlay.opaque", b"y")
    (upper / "other").mkdir()
    os.setxattr(upper / "other", "user.overlay.opaque", b"x")
    found = dict(rows(upper, lower_dirs=[os.fsencode(lower) for lower in lowers]))
    assert found == {
        "old": "do",
        "old/inner": "do",
        "new": "d",
        "file": "do",
        "link": "do",
        "link/ssl": "d",
        "other": "d",
    }


def test_skips_what_was_made_for_mounts(upper: Path) -> None:
    (upper / "proc").mkdir()
    (upper / "dev").mkdir()
    (upper / "dev/kept").touch()
    (upper / "etc").mkdir()
    (upper / "etc/hosts").touch()
    (upper / "etc/other").touch()
    skip = {b"proc", b"dev", b"etc/hosts"}
    expected = [("dev", DIR), ("dev/kept", FILE), ("etc", DIR), ("etc/other", FILE)]
    assert rows(upper, skip=skip) == expected
    inodes = {path: os.stat(upper / path.decode()).st_ino for path in skip}
    assert rows(upper, skip=inodes) == expected
    assert ("etc/hosts", FILE) in rows(upper, skip={**inodes, b"etc/hosts": 1})


def test_noted_owners_and_devices_come_back(upper: Path) -> None:
    (upper / "f").write_text("x")
    os.setxattr(upper / "f", "user.pybuild.owner", b"1000:50")
    (upper / "n").touch()
    os.setxattr(upper / "n", "user.pybuild.owner", b"0:5")
    os.setxattr(upper / "n", "user.pybuild.node", b"b:259:3")
    device, file = sorted(pack(upper, owners="xattr").toc, key=lambda row: row.type)
    assert (file.uid, file.gid, file.xattrs) == (1000, 50, {})
    assert (device.type, device.rdev, device.uid, device.gid) == (BLOCK, (259, 3), 0, 5)


def test_noted_owners_mean_nothing_where_owners_are_real(upper: Path) -> None:
    (upper / "f").touch()
    os.setxattr(upper / "f", "user.pybuild.owner", b"1000:50")
    assert pack(upper, owners="real").toc[0].uid == os.geteuid()


@pytest.mark.parametrize("text", [b"", b"x", b"-1:0", b"1", b"1:2:3", b"1:99999999999", b"4294967295:0", b"1:\xb2"])
def test_nonsense_in_our_attributes_is_ignored(upper: Path, text: bytes) -> None:
    (upper / "f").touch()
    for name in ("owner", "node"):
        os.setxattr(upper / "f", f"user.pybuild.{name}", text)
    (row,) = pack(upper, owners="xattr").toc
    assert (row.type, row.uid) == (FILE, os.geteuid())


def test_a_file_with_content_is_no_device(upper: Path) -> None:
    (upper / "f").write_text("x")
    os.setxattr(upper / "f", "user.pybuild.node", b"c:1:3")
    assert rows(upper) == [("f", FILE)]


def test_deep_trees_need_few_descriptors(upper: Path) -> None:
    fd = os.open(upper, os.O_RDONLY)
    for _ in range(900):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    assert len(pack(upper).toc) == 1800
    assert len(os.listdir("/proc/self/fd")) == before


def test_refuses_paths_no_archive_should_have(upper: Path) -> None:
    fd = os.open(upper, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    with pytest.raises(LayerError, match="directories deep"):
        pack(upper)


@pytest.mark.userns
def test_whiteouts_of_overlayfs(upper: Path) -> None:
    def task() -> None:
        (upper / "d").mkdir()
        os.mknod(upper / "a", stat.S_IFCHR, 0)
        os.link(upper / "a", upper / "d/b")
        os.link(upper / "a", upper / "stub")
        assert rows(upper, skip={b"stub"}) == [("a", WHITEOUT), ("d", DIR), ("d/b", WHITEOUT)]

    as_root(task)


@pytest.mark.userns
def test_capabilities_are_written_without_a_root_id(upper: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")

    def task() -> None:
        (upper / "f").touch()
        os.setxattr(upper / "f", "security.capability", capability)
        assert pack(upper).toc[0].xattrs == {b"security.capability": capability}

    as_root(task)


@pytest.mark.userns
def test_upper_directory_of_a_real_overlay(tmp_path: Path) -> None:
    """What the kernel leaves, not what we think it leaves."""

    def task() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(0x00020000) == 0  # CLONE_NEWNS
        assert libc.mount(None, b"/", None, 0x84000, None) == 0  # MS_REC | MS_PRIVATE
        base = tmp_path / "overlay"
        base.mkdir()
        # The temporary directory itself may lie on an overlay, where no upper directory can be
        assert libc.mount(b"tmpfs", os.fsencode(base), b"tmpfs", 0, None) == 0
        for name in ("lower", "upper", "work", "merged"):
            (base / name).mkdir()
        lower, merged = base / "lower", base / "merged"
        for name in ("gone", "kept", "mode", "dir/old", "again/old", "below/x"):
            (lower / name).parent.mkdir(exist_ok=True)
            (lower / name).write_text("old")
        options = f"lowerdir={lower},upperdir={base}/upper,workdir={base}/work,userxattr"
        if libc.mount(b"overlay", os.fsencode(merged), b"overlay", 0, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), "mount of overlay")
        (merged / "gone").unlink()
        (merged / "mode").chmod(0o600)
        (merged / "dir/new").write_text("new")
        (merged / "again/old").unlink()
        (merged / "again").rmdir()
        (merged / "again").mkdir()
        (merged / "fresh").mkdir()
        (merged / "fresh/deep").mkdir()
        (merged / "below/x").unlink()
        assert libc.umount2(os.fsencode(merged), 0) == 0
        found = rows(base / "upper", lower_dirs=[os.fsencode(lower)])
        assert found == [
            ("again", "do"),
            ("below", DIR),
            ("below/x", WHITEOUT),
            ("dir", DIR),
            ("dir/new", FILE),
            ("fresh", DIR),
            ("fresh/deep", DIR),
            ("gone", WHITEOUT),
            ("mode", FILE),
        ]

    pid = os.fork()
    if pid == 0:  # a mount namespace of its own, also for root
        status = 1
        try:
            as_root(task)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_same_tree_same_bytes(upper: Path) -> None:
    for number in range(50):
        (upper / f"{number * 7919 % 50}").write_text("x")
    os.utime(upper / "0", (5, 5))
    assert pack(upper, epoch=0).diff_id == pack(upper, epoch=0).diff_id


_name = st.sampled_from([b"a", b"b", b"c", b"\xff", b"l" * 120])
_path = st.lists(_name, min_size=1, max_size=4).map(b"/".join)


@pytest.mark.userns
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        _path,
        st.tuples(st.sampled_from([FILE, DIR, SYMLINK, FIFO, WHITEOUT, CHAR, "o"]), st.binary(max_size=600)),
        max_size=8,
    ),
    st.integers(0, 0o7777),
    st.integers(0, 2**40),
)
def test_applied_and_packed_again_it_is_the_same_layer(
    tmp_path_factory: pytest.TempPathFactory, content: dict[bytes, tuple[str, bytes]], mode: int, mtime: int
) -> None:
    place = tmp_path_factory.mktemp("round")
    entries: dict[bytes, tuple[Entry, bytes | None]] = {}
    for path, (kind, data) in sorted(content.items(), key=lambda item: item[0].split(b"/")):
        parts = path.split(b"/")
        above = [b"/".join(parts[:count]) for count in range(1, len(parts))]
        if any(entries[up][0].type != DIR for up in above if up in entries):
            continue
        for up in above:
            entries.setdefault(up, (Entry(path=up, type=DIR, mode=0o755, mtime=mtime), None))
        if kind == WHITEOUT:
            entries[path] = (Entry(path=path, type=WHITEOUT), None)
            continue
        row = Entry(path=path, type=DIR if kind == "o" else kind, mode=mode, mtime=mtime, opaque=kind == "o")
        if kind == SYMLINK:
            row.mode, row.link = 0o777, b"target"
        if kind == CHAR:
            row.rdev = (1, 3)
        entries[path] = (row, data if kind == FILE else None)
    ordered = sorted(entries, key=lambda path: path.split(b"/"))
    packed = written(place / "t", *[entries[path] for path in ordered])

    def task() -> None:
        (place / "fs").mkdir()
        (place / "lower").mkdir()
        with opened(place / "fs") as fd, (place / "t").open("rb") as tar:
            apply_layer(tar, fd, Rules())
        with opened(place / "lower") as fd, (place / "t").open("rb") as tar:
            # Directories below, so that opaque ones have something to hide
            apply_layer(tar, fd, Rules("none", "none"))
        again = pack(place / "fs", lower_dirs=[os.fsencode(place / "lower")])
        assert again.toc == packed.toc
        assert again.diff_id == packed.diff_id
        with (place / "t").open("rb") as tar:
            read = index_layer(tar)
        assert read.diff_id == packed.diff_id
        assert sorted(read.toc, key=lambda row: row.path) == sorted(packed.toc, key=lambda row: row.path)

    try:
        as_root(task)
    finally:
        removed(place)
