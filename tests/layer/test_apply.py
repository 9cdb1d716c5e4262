"""Unpacking layers and contexts: nothing outside is touched, and inside all is as the layer says."""

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from layer.archives import as_root, directory, hardlink, header, member, opened, pax, removed, stream, symlink, tree
from pybuild.layer.apply import Rules, apply_layer, extract_context
from pybuild.layer.errors import LayerError
from pybuild.layer.limits import Limits
from pybuild.tree.entry import DIR, Entry

CONTEXT = Rules("none", "none")
FLATTEN = Rules("delete", "xattr")
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory to unpack into; beside it lies what must not be touched."""
    path = tmp_path / "root"
    path.mkdir()
    yield path
    removed(path)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    outside = tmp_path / "outside"
    outside.mkdir()
    path = outside / "canary"
    path.write_text("alive")
    path.chmod(0o640)
    os.utime(path, (1, 1))
    before = path.stat()
    yield path
    assert path.read_text() == "alive"
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_nlink, after.st_mtime) == (
        before.st_mode,
        before.st_uid,
        1,
        before.st_mtime,
    )
    assert os.listdir(outside) == ["canary"]


def unpack(root: Path, *parts: bytes, rules: Rules = CONTEXT, parents: tuple[Entry, ...] = ()) -> None:
    with opened(root) as fd:
        apply_layer(stream(*parts), fd, rules, parents=parents)


def files(root: Path) -> dict[str, str]:
    """Return paths with kind letters only."""
    return {path: text[0] for path, text in tree(root).items()}


# What archives try


@pytest.mark.parametrize("rules", [CONTEXT, FLATTEN], ids=["context", "layer"])
@pytest.mark.parametrize("target", ["absolute", "relative"])
@pytest.mark.parametrize("shape", ["below", "whiteout", "opaque", "mode", "link", "linked", "chain", "through", "fifo"])
def test_nothing_is_done_through_a_link(
    tmp_path: Path, root: Path, canary: Path, rules: Rules, target: str, shape: str
) -> None:
    outside = os.fsencode(canary.parent) if target == "absolute" else b"../outside"
    link = symlink(b"d", outside)
    file_link = symlink(b"f", outside + b"/canary")
    parts = {
        "below": [link, member(b"d/canary", b"dead"), member(b"d/new", b"x")],
        "whiteout": [link, member(b"d/.wh.canary")],
        "opaque": [link, member(b"d/.wh..wh..opq")],
        "mode": [link, directory(b"d", 0o777), file_link, member(b"f", b"x", mode=0o4777)],
        "link": [link, hardlink(b"x", b"d/canary")],
        "linked": [file_link, hardlink(b"x", b"f"), member(b"x", b"dead")],
        "chain": [symlink(b"a", b"d"), link, member(b"a/canary", b"dead"), member(b"a/b/c", b"x")],
        "through": [symlink(b"e/up", b".."), symlink(b"e/out", b"up/../outside"), member(b"e/out/canary", b"x")],
        "fifo": [file_link, header(b"f", b"6", mode=0o777)],
    }[shape]
    with opened(root) as fd:
        try:
            apply_layer(stream(*parts), fd, rules)
        except LayerError:
            assert shape == "link"
    assert set(os.listdir(tmp_path)) == {"root", "outside"}


def test_links_of_earlier_layers_are_not_followed_either(tmp_path: Path, root: Path, canary: Path) -> None:
    unpack(root, symlink(b"d", b"../outside"), symlink(b"f", b"../outside/canary"), rules=FLATTEN)
    unpack(root, member(b"d/canary", b"1"), member(b"d/.wh.canary"), member(b"f", b"1"), rules=FLATTEN)
    assert tree(root) == {"d": "drwxr-xr-x", "d/canary": "-rw-r--r-- 1", "f": "-rw-r--r-- 1"}


@pytest.mark.parametrize("name", [b"../outside/canary", b"/outside/canary", b"a/../../outside/canary"])
def test_names_stay_inside(tmp_path: Path, root: Path, canary: Path, name: bytes) -> None:
    try:
        unpack(root, member(name, b"dead"))
    except LayerError:
        assert b".." in name
    else:
        assert (root / "outside/canary").read_text() == "dead"


def test_long_chains_of_links_lead_nowhere(root: Path, canary: Path) -> None:
    """The shape that outran realpath in a well-known extractor: a path too long to be resolved."""
    component = b"d" * 200
    parts: list[bytes] = []
    path = b""
    for letter in b"abcdefghijklmnop":
        parts += [pax((b"path", path + component)), directory(b"x")]
        parts += [pax((b"path", path + bytes([letter])), (b"linkpath", component)), symlink(b"x", b"x")]
        path += bytes([letter]) + b"/"
    parts += [pax((b"linkpath", path + b"../" * 17 + b"outside")), symlink(b"escape", b"x")]
    unpack(root, *parts, member(b"escape/canary", b"dead"))
    parts += [hardlink(b"flag", b"escape/canary"), member(b"flag", b"dead")]
    with pytest.raises(LayerError, match="hard link"):
        unpack(root, *parts)


@pytest.mark.parametrize(
    "parts",
    [
        [member(b"x"), directory(b"x"), symlink(b"x", b"/"), member(b"x", b"1")],
        [symlink(b"x", b"/etc"), directory(b"x"), member(b"x/y"), member(b"x", b"1")],
        [directory(b"x", 0), member(b"x/y/z"), member(b"x", b"1")],
        [header(b"x", b"6"), member(b"x", b"1")],
        [member(b"x", b"old"), hardlink(b"y", b"x"), member(b"x", b"1"), member(b"y", b"1")],
    ],
)
def test_last_of_a_name_counts(root: Path, parts: list[bytes]) -> None:
    unpack(root, *parts)
    assert {text.split()[-1] for text in tree(root).values()} == {"1"}


def test_new_content_does_not_show_under_another_name(root: Path) -> None:
    unpack(root, member(b"a", b"one"), hardlink(b"b", b"a"), member(b"a", b"two"))
    assert (root / "a").read_text() == "two"
    assert (root / "b").read_text() == "one"


@pytest.mark.parametrize("link", [b"missing", b"d", b"s/f", b"d/missing", b"f/x"])
def test_hard_links_need_a_file_of_the_layer(root: Path, link: bytes) -> None:
    with pytest.raises(LayerError, match="hard link"):
        unpack(root, directory(b"d"), member(b"d/f"), member(b"f"), symlink(b"s", b"d"), hardlink(b"x", link))


def test_hard_link_to_itself_changes_nothing(root: Path) -> None:
    unpack(root, member(b"a", b"1"), hardlink(b"a", b"a"))
    assert tree(root) == {"a": "-rw-r--r-- 1"}


def test_many_directories_and_depth(root: Path) -> None:
    parts = [member(b"%d/%d/f" % (number % 100, number), b"x") for number in range(300)]
    parts += [pax((b"path", b"d/" * 1000 + b"f")), member(b"x", b"deep")]
    unpack(root, *parts)
    assert (root / "7/207/f").read_text() == "x"
    fd = os.open(root, os.O_RDONLY)
    for _ in range(1000):
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    assert os.listdir(fd) == ["f"]
    os.close(fd)


def test_needs_few_descriptors(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with opened(root) as fd:
        most = 0

        class Watched(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                nonlocal most
                most = max(most, len(os.listdir("/proc/self/fd")))
                return super().read(min(size or 0, 512))

        parts = [member(b"%d/f" % number, b"x") for number in range(200)]
        apply_layer(Watched(b"".join(parts)), fd, CONTEXT)
    assert most - before < 64
    assert len(os.listdir("/proc/self/fd")) == before


def test_errors_name_the_member(root: Path) -> None:
    with opened(root) as fd:
        with pytest.raises(LayerError, match="cut short"):
            apply_layer(io.BytesIO(member(b"a", b"x" * 1000)[:-600]), fd, CONTEXT)
        with pytest.raises(LayerError):
            apply_layer(stream(member(b"a")), fd, CONTEXT, Limits(entries=0))
    full = Path("/dev/full")
    if full.exists() and os.geteuid() == 0:
        with opened(full) as fd, pytest.raises(LayerError, match="`some/name`"):
            apply_layer(stream(member(b"some/name")), fd, CONTEXT)


# Contexts


def test_contexts_are_readable_whatever_their_modes(root: Path) -> None:
    with opened(root) as fd:
        extract_context(
            stream(
                directory(b"./", 0),
                directory(b"d", 0),
                member(b"d/f", b"1", mode=0, uid=1234, mtime=77),
                member(b"s", b"2", mode=0o6755),
                pax((b"SCHILY.xattr.user.x", b"y")),
                member(b".wh.kept", b"3"),
                header(b"dev", b"3", device=(1, 3)),
                header(b"fifo", b"6"),
                symlink(b"l", b"/etc/passwd"),
            ),
            fd,
        )
    assert tree(root) == {
        "d": "drwx------",
        "d/f": "-r-------- 1",
        "s": "-rwsr-sr-x 2",
        ".wh.kept": "-rw-r--r-- 3",
        "fifo": "prw-r--r--",
        "l": "-> /etc/passwd",
    }
    assert (root / "d/f").stat().st_uid == os.geteuid()
    assert (root / "d/f").stat().st_mtime == 77
    assert os.listxattr(root / ".wh.kept") == []
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_times_are_exact_for_directories_too(root: Path) -> None:
    unpack(
        root,
        pax((b"mtime", b"5.123456789")),
        directory(b"d"),
        pax((b"mtime", b"-7.5")),
        symlink(b"d/l", b"x"),
        pax((b"mtime", b"6.000000001")),
        member(b"d/f", b"x"),
        member(b"z"),
    )
    assert (root / "d").stat().st_mtime_ns == 5_123_456_789
    assert (root / "d/l").lstat().st_mtime_ns == -7_500_000_000
    assert (root / "d/f").stat().st_mtime_ns == 6_000_000_001


def test_unpacks_what_python_packs(tmp_path: Path, root: Path) -> None:
    source = tmp_path / "source"
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/ü").write_text("text")
    (source / "a/big").write_text("x" * 1_000_000)
    (source / "a/l").symlink_to("b")
    os.link(source / "a/b/ü", source / "a/hard")
    with tarfile.open(tmp_path / "t", "w") as archive:
        archive.add(source, ".")
    with opened(root) as fd, (tmp_path / "t").open("rb") as packed:
        extract_context(packed, fd)
    assert tree(root) == tree(source)
    assert (root / "a/hard").stat().st_nlink == 2


# Layers; making whiteouts needs root in some user namespace


@pytest.mark.userns
def test_overlay_marks(root: Path) -> None:
    def task() -> None:
        unpack(
            root,
            member(b".wh.gone"),
            member(b"d/.wh.x"),
            directory(b"o"),
            member(b"o/.wh..wh..opq"),
            member(b"o/.wh..wh.other"),
            member(b".wh.again"),
            directory(b"again"),
            member(b".wh.implied"),
            member(b"implied/f"),
            directory(b"late"),
            member(b".wh.late"),
            member(b".wh.file"),
            member(b"file", b"1"),
            member(b"kept", b"2"),
            member(b".wh.kept"),
            rules=Rules(),
        )
        for path in ("gone", "d/x"):
            state = (root / path).lstat()
            assert (stat.S_IFMT(state.st_mode), state.st_rdev) == (stat.S_IFCHR, 0)
        for path in ("o", "again", "implied", "late"):
            assert os.getxattr(root / path, "user.overlay.opaque") == b"y"
        assert os.listdir(root / "o") == []
        assert (root / "file").read_text() == "1"
        assert (root / "kept").read_text() == "2"
        assert os.listxattr(root / "d") == []
        assert stat.S_IMODE(root.stat().st_mode) == 0o755

    root.chmod(0o700)
    as_root(task)


@pytest.mark.userns
def test_whiteouts_cannot_be_linked_to(root: Path) -> None:
    def task() -> None:
        for link in (b"x", b"y"):
            with pytest.raises(LayerError, match="hard link"):
                unpack(root, member(b".wh.x"), hardlink(b"y", link), rules=Rules())

    as_root(task)


@pytest.mark.userns
def test_parents_look_as_they_do_below(root: Path) -> None:
    def task() -> None:
        known = Entry(path=b"d", type=DIR, mode=0o1777, mtime=5_000_000_000, xattrs={b"user.a": b"b"})
        unpack(root, member(b"d/e/f"), member(b"d/late"), rules=Rules(), parents=(known,))
        state = (root / "d").stat()
        assert (stat.S_IMODE(state.st_mode), state.st_mtime) == (0o1777, 5)
        assert os.getxattr(root / "d", "user.a") == b"b"
        assert stat.S_IMODE((root / "d/e").stat().st_mode) == 0o755

    as_root(task)


def test_single_id_notes_owners_and_devices(root: Path) -> None:
    unpack(
        root,
        member(b"f", b"x", uid=1000, mode=0o4711),
        member(b"r", b"x"),
        directory(b"d"),
        header(b"d2", b"5", uid=7, mode=0o500),
        header(b"n", b"3", device=(1, 3), uid=3, mode=0o666),
        header(b"b", b"4", device=(259, 1)),
        symlink(b"l", b"x"),
        rules=Rules("delete", "xattr"),
    )
    noted = {name: _xattrs(root / name) for name in os.listdir(root) if name != "l"}
    assert noted == {
        "f": {"user.pybuild.owner": b"1000:0"},
        "r": {},
        "d": {},
        "d2": {"user.pybuild.owner": b"7:0"},
        "n": {"user.pybuild.owner": b"3:0", "user.pybuild.node": b"c:1:3"},
        "b": {"user.pybuild.node": b"b:259:1"},
    }
    assert stat.filemode((root / "f").stat().st_mode) == "-rws--x--x"
    assert stat.filemode((root / "n").stat().st_mode) == "-rw-rw-rw-"
    assert stat.filemode((root / "d2").stat().st_mode) == "dr-x------"


def _xattrs(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if name.startswith("user.")}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_real_owners_keep_set_id_bits_and_capabilities(root: Path) -> None:
    capable = pax((b"SCHILY.xattr.security.capability", CAPABILITY), (b"SCHILY.xattr.user.x", b"y"))
    unpack(
        root,
        header(b"g", b"5", uid=5, mode=0o2775),
        member(b"g/s", b"x", uid=1000, mode=0o6755),
        capable,
        member(b"c", b"x", uid=8, mode=0o755),
        header(b"l", b"2", link=b"x", uid=9),
        header(b"p", b"6", uid=9, mode=0o622),
        rules=Rules(),
    )
    assert stat.filemode((root / "g/s").stat().st_mode) == "-rwsr-sr-x"
    assert [(root / path).lstat().st_uid for path in ("g", "g/s", "c", "l", "p")] == [5, 1000, 8, 9, 9]
    assert stat.filemode((root / "p").stat().st_mode) == "prw--w--w-"
    assert os.getxattr(root / "c", "security.capability") == CAPABILITY
    assert os.getxattr(root / "c", "user.x") == b"y"


@pytest.mark.userns
def test_an_id_that_is_not_mapped_is_explained(root: Path) -> None:
    def task() -> None:
        with pytest.raises(LayerError, match="1000000:0") as caught:
            unpack(root, member(b"f", uid=1_000_000), rules=Rules())
        assert "/etc/subuid" in caught.value.hint

    if os.geteuid() == 0:
        pytest.skip("all ids are mapped for root")
    as_root(task)


# Carrying deletions out


def test_deletions_concern_what_was_there_before(root: Path) -> None:
    unpack(root, *[member(name, b"old") for name in (b"a", b"d/x", b"d/sub/y", b"e/x", b"k/x", b"m")], rules=FLATTEN)
    unpack(
        root,
        member(b".wh.a"),
        member(b"d/new", b"1"),
        member(b"d/sub/new", b"1"),
        member(b"d/.wh..wh..opq"),
        member(b".wh.e"),
        member(b"e/z", b"1"),
        member(b"k/n", b"1"),
        member(b".wh.k"),
        member(b"m", b"1"),
        member(b".wh.m"),
        member(b".wh.never"),
        rules=FLATTEN,
    )
    found = tree(root)
    assert {path for path, text in found.items() if text[0] == "-"} == {"d/new", "d/sub/new", "e/z", "k/n", "m"}
    assert {text.split()[-1] for text in found.values() if text[0] == "-"} == {"1"}


def test_root_can_be_opaque(root: Path) -> None:
    unpack(root, member(b"a"), member(b"d/x"), rules=FLATTEN)
    unpack(root, member(b".wh..wh..opq"), member(b"new"), rules=FLATTEN)
    assert files(root) == {"new": "-"}


def test_flattened_directories_lose_earlier_attributes(root: Path) -> None:
    unpack(root, pax((b"SCHILY.xattr.user.x", b"y"), (b"uid", b"5")), directory(b"d"), rules=FLATTEN)
    assert _xattrs(root / "d") == {"user.x": b"y", "user.pybuild.owner": b"5:0"}
    unpack(root, directory(b"d"), rules=FLATTEN)
    assert _xattrs(root / "d") == {}


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh...", b"d/.wh...", b".wh.x/y"])
def test_impossible_whiteouts_are_refused(root: Path, name: bytes) -> None:
    with pytest.raises(LayerError):
        unpack(root, member(b"sibling"), member(name), rules=FLATTEN)
    assert "sibling" in os.listdir(root)
