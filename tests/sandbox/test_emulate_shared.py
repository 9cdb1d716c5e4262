"""What root makes in set-gid directories, seen while it is not asked about: the group is noted all the same."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.sandbox.emulate.shared import LostError, Shared, open_events
from pybuild.tree.notes import OWNER_XATTR, owner_note

from .conftest import Box
from .test_emulate import owners
from .test_emulate_processes import lowers, one, run

__all__ = ["lowers", "one"]

GROUP = 50


def make_shared(path: Path, group: int = GROUP) -> Path:
    """Make a set-gid directory of a noted group."""
    path.mkdir()
    try:
        os.setxattr(path, OWNER_XATTR, owner_note(0, group))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("this file system keeps no notes")
    path.chmod(0o2775)
    return path


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A layer with set-gid directories of two groups."""
    root = tmp_path / "layer"
    root.mkdir()
    (root / "other").mkdir()
    make_shared(root / "data")
    make_shared(root / "other" / "mail", 8)
    return root


# Of an image


@pytest.mark.userns
def test_directories_of_the_image_give_their_group(one: Box, plain_root: Path, layer: Path) -> None:
    below = tuple(map(os.fsencode, (plain_root, layer)))
    script = (
        "echo > /data/f; mkdir -p /data/a/b; echo > /data/a/b/x; ln -s x /data/l; echo > /other/mail/m; echo > /other/o"
    )
    known = (b"data", b"gone", b"other/mail", b"bin/sh/x")
    found = owners(one.sh(script, emulation="full", lowers=below, set_gid=known))
    for path in "data/f", "data/a", "data/a/b", "data/a/b/x", "data/l":
        assert found[path][2:] == (0, GROUP), path
    assert (found["other/mail/m"][2:], found["other/o"][2:]) == ((0, 8), (0, 0))
    # It is the watching that did it
    assert owners(one.sh(script, emulation="full", lowers=below, set_gid=()))["data/f"][2:] == (0, 0)


@pytest.mark.userns
def test_every_file_is_given_its_group_before_it_can_go(
    one: Box, lowers: tuple[bytes, ...], plain_root: Path, layer: Path
) -> None:
    ran = run(
        one,
        (*lowers, os.fsencode(layer)),
        """
        os.mkdir("out")
        def work(me):
            for turn in range(60):
                name = f"{me}-{turn}"
                # Made there and gone at once, by another name, and by a link
                open(f"/data/{name}", "x").close()
                os.rename(f"/data/{name}", f"out/{name}")
                os.makedirs(f"/data/d{name}/deep")
                open(f"/data/d{name}/deep/file", "x").close()
                os.rename(f"/data/d{name}/deep", f"out/d{name}")
                open(f"/data/l{name}", "x").close()
                os.link(f"/data/l{name}", f"out/l{name}")
                os.unlink(f"/data/l{name}")
                # Made elsewhere, and come by rename or link
                open(f"out/n{name}", "x").close()
                os.rename(f"out/n{name}", f"/data/n{name}")
                open(f"out/m{name}", "x").close()
                os.link(f"out/m{name}", f"/data/m{name}")
                os.unlink(f"out/m{name}")
                hidden = os.open("out", os.O_TMPFILE | os.O_WRONLY)
                assert libc.linkat(-100, b"/proc/self/fd/%d" % hidden, -100, f"/data/h{name}".encode(), 0x400) == 0
                os.close(hidden)
                # In the place of a name that has just been there
                open(f"/data/same{me}", "x").close()
                os.unlink(f"/data/same{me}")
                open("out/x" + name, "x").close()
                os.rename("out/x" + name, f"/data/same{me}")
                os.rename(f"/data/same{me}", f"out/x{name}")
        for me in range(4):
            if os.fork() == 0:
                work(me)
                os._exit(0)
        print([os.wait()[1] for _ in range(4)])
        """,
        set_gid=(b"data",),
    )
    assert ran.out == "[0, 0, 0, 0]\n"
    found = {path: entry[3] for path, entry in owners(ran).items()}
    for me in range(4):
        for turn in range(60):
            name = f"{me}-{turn}"
            for path in f"srv/out/{name}", f"data/d{name}", f"srv/out/d{name}/file", f"srv/out/l{name}":
                assert found[path] == GROUP, path
            for path in f"data/n{name}", f"data/m{name}", f"data/h{name}", f"srv/out/x{name}":
                assert found[path] == 0, path


@pytest.mark.userns
def test_what_the_bit_is_at_the_time_counts(one: Box, lowers: tuple[bytes, ...], layer: Path) -> None:
    ran = run(
        one,
        (*lowers, os.fsencode(layer)),
        """
        held = os.open("/data", os.O_RDONLY)
        for turn in range(50):
            open(f"/data/on{turn}", "x").close()
            (os.chmod("/data", 0o775), os.fchmod(held, 0o755))[0 if turn % 2 else 1]
            open(f"/data/off{turn}", "x").close()
            os.chmod("/data", 0o2775) if turn % 3 else os.fchmod(held, 0o2775)
        for turn in range(50):
            os.chown("/data", 0, 50 + turn) if turn % 2 else os.fchown(held, -1, 50 + turn)
            open(f"/data/of{50 + turn}", "x").close()
        os.chown("/data", 0, 0)
        open("/data/roots", "x").close()
        # Together with other changes of its attributes
        for turn in range(50):
            os.chmod("/data", 0o2700)
            os.chown("/data", 0, 200 + turn)
            open(f"/data/t{200 + turn}", "x").close()
            os.utime("/data", (1, 1))
            open(f"/data/u{200 + turn}", "x").close()
            os.chmod("/data", 0o700)
            open(f"/data/v{200 + turn}", "x").close()
        """,
        set_gid=(b"data",),
    )
    found = {path.removeprefix("data/"): entry[3] for path, entry in owners(ran).items() if path.startswith("data/")}
    for turn in range(50):
        assert (found[f"on{turn}"], found[f"off{turn}"], found[f"of{50 + turn}"]) == (GROUP, 0, 50 + turn), turn
    assert found["roots"] == 0
    for group in range(200, 250):
        assert (found[f"t{group}"], found[f"u{group}"], found[f"v{group}"]) == (group, group, 0), group


@pytest.mark.userns
def test_other_users_own_what_they_make_in_it(one: Box, lowers: tuple[bytes, ...], layer: Path) -> None:
    (layer / "data").chmod(0o2777)
    ran = run(
        one,
        (*lowers, os.fsencode(layer)),
        """
        if os.fork() == 0:
            os.setresgid(7, 7, 7)
            os.setresuid(5, 5, 5)
            os.makedirs("/data/by/user")
            open("/data/by/user/file", "x").close()
            os._exit(0)
        print(os.wait()[1])
        open("/data/by/user/roots", "x").close()
        print(ids("/data/by/user/roots"), ids("/data/by/user/file"))
        """,
        set_gid=(b"data",),
    )
    assert ran.out == "0\n(0, 50) (5, 50)\n"
    found = owners(ran)
    assert {found[path][2:] for path in ("data/by", "data/by/user", "data/by/user/file")} == {(5, GROUP)}
    assert found["data/by/user/roots"][2:] == (0, GROUP)


@pytest.mark.userns
def test_files_are_looked_at_in_time_while_somebody_is_traced(one: Box, lowers: tuple[bytes, ...], layer: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 1 << 16:
        pytest.skip(f"{most} events may wait here")
    ran = run(
        one,
        (*lowers, os.fsencode(layer)),
        f"""
        stays, ends = os.pipe()
        child = os.fork()
        if child == 0:
            os.setresuid(5, 5, 5)
            os.close(ends)
            os.read(stays, 1)
            os._exit(0)
        # Calls that nobody is asked about, and a look that nobody is asked about either
        for batch in range(3):
            for number in range({most // 2}):
                # Not twice the same in turn: such events are made one
                os.close(os.open(f"/data/in-turn{{number % 2}}", os.O_CREAT | os.O_WRONLY))
                os.unlink(f"/data/in-turn{{number % 2}}")
            os.close(os.open(f"/data/{{batch}}", os.O_CREAT | os.O_WRONLY))
            for _ in range(3000):
                try:
                    os.getxattr(f"/data/{{batch}}", "user.pybuild.owner")
                    break
                except OSError:
                    time.sleep(0.01)
            else:
                sys.exit(f"nothing was noted in batch {{batch}}")
        os.close(ends)
        os.waitpid(child, 0)
        open("/data/last", "x").close()
        """,
        set_gid=(b"data",),
    )
    assert owners(ran)["data/last"][2:] == (0, GROUP)


@pytest.mark.userns
def test_directories_that_go_are_let_go(one: Box, lowers: tuple[bytes, ...], layer: Path) -> None:
    ran = run(
        one,
        (*lowers, os.fsencode(layer)),
        """
        import shutil
        for turn in range(20):
            for below in range(20):
                os.mkdir(f"/data/{below}")
                open(f"/data/{below}/f", "x").close()
            for below in range(20):
                assert ids(f"/data/{below}/f") == (0, 50)
                shutil.rmtree(f"/data/{below}")
        shutil.rmtree("/data")
        os.mkdir("/data")
        open("/data/f", "x").close()
        """,
        set_gid=(b"data",),
    )
    assert owners(ran)["data/f"][2:] == (0, 0)


# The watching itself


@pytest.fixture
def shared() -> Iterator[Shared]:
    """One that watches nothing yet."""
    events, proc, here = open_events(), os.open("/proc", os.O_RDONLY), os.open(".", os.O_RDONLY)
    assert events >= 0
    yield Shared(events, proc)
    os.fchdir(here)
    for fd in (events, proc, here):
        os.close(fd)


def test_more_files_than_the_kernel_remembers_are_an_error(shared: Shared, tmp_path: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 1 << 16:
        pytest.skip(f"{most} events may wait here")
    data = make_shared(tmp_path / "data")
    shared.begin(os.open(tmp_path, os.O_RDONLY), [b"data"])
    for number in range(most + 1):
        os.close(os.open(data / str(number % 2000), os.O_WRONLY | os.O_CREAT))
        (data / str(number % 2000)).unlink()
    with pytest.raises(LostError):
        shared.settle()


@pytest.mark.userns
def test_without_anything_to_watch_with_it_is_looked_at_each(one: Box, plain_root: Path, layer: Path) -> None:
    below = tuple(map(os.fsencode, (plain_root, layer)))
    many = tuple(b"missing/%d" % number for number in range(1 << 16))
    ran = one.sh("mkdir /data/d; echo > /data/d/f", emulation="full", lowers=below, set_gid=many)
    assert owners(ran)["data/d/f"][2:] == (0, GROUP)


def test_only_what_is_new_is_noted(shared: Shared, tmp_path: Path) -> None:
    data = make_shared(tmp_path / "data")
    (data / "old").touch()
    shared.begin(os.open(tmp_path, os.O_RDONLY), [b"data", b"missing"])
    assert not shared.settle()
    (data / "new").mkdir()
    # Before anybody watches the new directory
    (data / "new" / "file").touch()
    assert shared.settle()
    (data / "new" / "more").touch()
    assert shared.settle()
    noted = {path.name for path in data.rglob("*") if os.listxattr(path)}
    assert noted == {"new", "file", "more"}
    assert stat.S_IMODE((data / "new").stat().st_mode) & stat.S_ISGID
