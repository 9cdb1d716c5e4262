"""A RUN on one whole tree that is changed in place comes to the same layer as on an overlay."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pybuild.sandbox.spec import FileMount
from pybuild.sandbox.volumes import Directory
from pybuild.tree.entry import Entry
from support import busybox

from .conftest import Box, Ran, modes_in_turn, open_box, write_root

pytestmark = pytest.mark.userns


@pytest.fixture(scope="module")
def full_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with some of everything; nobody changes it."""
    if not busybox.is_static():
        pytest.skip("there is no static busybox")
    root = write_root(tmp_path_factory.mktemp("full") / "root")
    for name in ("opt/a/b", "opt/c", "opt/empty", "dev", "proc", "sys"):
        (root / name).mkdir(parents=True)
    for name in ("opt/one", "opt/a/two", "opt/a/b/three", "opt/c/four"):
        (root / name).write_text(name)
    os.link(root / "opt/one", root / "opt/c/one-more")
    os.setxattr(root / "opt/a", "user.kept", b"1")
    os.setxattr(root / "opt/one", "user.kept", b"1")
    (root / "opt/link").symlink_to("one")
    os.mkfifo(root / "opt/fifo")
    (root / "etc/resolv.conf").symlink_to("../run/resolv.conf")
    (root / "etc/bundle").write_text("of the image\n")
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, (1_000_000_000, 1_000_000_000), follow_symlinks=False)
    return root


@pytest.fixture(params=modes_in_turn())
def full(request: pytest.FixtureRequest, full_root: Path, tmp_path: Path) -> Iterator[Box]:
    """A box on it in every id mode there is."""
    yield from open_box(request.param, full_root, tmp_path / "box")


def copied(box: Box, script: str, **fields: Any) -> Ran:
    """Run a script on a copy of the box's root."""
    spec = box.spec("/bin/sh", "-c", script, lowers=(), snapshotter="copy", **fields)
    box.worker.call("clone", [os.fsencode(box.root), spec.staging + b"/fs"])
    return box.finish(spec, *box.submit(spec))


def layer(ran: Ran, since: int) -> list[Entry]:
    """Return the table of a layer; times that are the run's own are all the same."""
    assert ran.result.packed is not None, ran.result.end
    return [
        msgspec.structs.replace(entry, mtime=0 if entry.mtime >= since else entry.mtime, offset=-1)
        for entry in ran.result.packed.toc
    ]


SCRIPTS = [
    "true",
    "cat /opt/one /opt/a/two > /dev/null; ls -R /opt > /dev/null",
    "echo more >> /opt/one",
    "echo of > /opt/a/b/new; mkdir -p /opt/x/y",
    "rm /opt/one /opt/link; rm -r /opt/a",
    "rm -r /opt/a; mkdir /opt/a; echo > /opt/a/two",
    "rm -r /opt/a; mkdir -p /opt/a/b",
    "rm -rf /opt/a/*",
    "rm -r /opt/a; echo > /opt/a",
    "rm /opt/one; mkdir /opt/one",
    "mv /opt/one /opt/moved; mv /opt/c/four /opt/a/two",
    "mv /opt/a/b /opt/elsewhere",
    "ln /opt/a/two /opt/again; ln -s nowhere /opt/broken; ln /opt/broken /opt/broken2",
    "chmod 600 /opt/one; chmod 700 /opt/empty",
    "chmod 755 /opt/empty /opt/c; chmod 644 /opt/one",
    "touch -d @1 /opt/one; touch -h -d @1 /opt/link; touch -d @5 /opt/c",
    "mkfifo /opt/f; rm /opt/fifo; mkfifo -m 600 /opt/fifo",
    "touch /opt/tmp; rm /opt/tmp; mkdir /opt/d; rmdir /opt/d",
    "echo of our own >> /etc/hosts; true",
    "rm /opt/c/one-more",
    "chown 33:33 /opt/one /opt/empty /opt/link; chown -R 0:0 /opt/c",
    "echo x > /newroot; rm -r /srv",
]


@pytest.mark.parametrize("scripts", [SCRIPTS[1::3], pytest.param(SCRIPTS, marks=pytest.mark.slow)], ids=["some", "all"])
def test_layers_are_the_same_on_both(full: Box, scripts: list[str]) -> None:
    emulation: Any = "full" if full.worker.mode == "single" else "off"
    for script in scripts:
        since = time.time_ns() - 1_000_000_000
        over = full.sh(script, emulation=emulation)
        plain = copied(full, script, emulation=emulation)
        assert (over.status, over.out, over.err) == (plain.status, plain.out, plain.err), script
        if over.status == 0:
            assert layer(over, since) == layer(plain, since), script


def test_digest_is_the_same_on_both(full: Box) -> None:
    script = (
        "cd /opt; rm -r a; mkdir -p a/b; echo new > a/b/new; ln a/b/new same; rm link; echo more >> one; "
        "chmod 4755 c/four; touch -d @9 a/b/new a/b a one c . /"
    )
    over, plain = full.sh(script), copied(full, script)
    assert over.result.packed is not None
    assert plain.result.packed is not None
    assert over.result.packed.diff_id == plain.result.packed.diff_id


def test_what_mounts_replaced_is_there_again(full: Box) -> None:
    lent = FileMount("/etc/bundle", b"lent\n", lent=True)
    fields: dict[str, Any] = {"mounts": (lent, FileMount("/opt/deep/er/file", b"ours"))}
    script = "cat /etc/bundle /opt/deep/er/file /etc/hostname"
    over, plain = full.sh(script, **fields), copied(full, script, **fields)
    assert over.out == plain.out == "lent\nourspybuild\n"
    assert over.changes == plain.changes == {}
    assert (plain.fs / "etc/resolv.conf").readlink() == Path("../run/resolv.conf")
    assert (plain.fs / "etc/bundle").read_text() == "of the image\n"
    assert not (plain.fs / "opt/deep").exists()
    assert sorted(path.name for path in plain.fs.parent.iterdir()) == ["fs"]


def test_what_was_lent_may_be_replaced_removed_or_written_on(full: Box) -> None:
    lent = FileMount("/etc/bundle", b"lent\n", lent=True)
    for script in ("rm /etc/bundle", "echo own > /etc/new; mv /etc/new /etc/bundle", "echo more >> /etc/bundle"):
        since = time.time_ns() - 1_000_000_000
        over, plain = full.sh(script, mounts=(lent,)), copied(full, script, mounts=(lent,))
        assert layer(over, since) == layer(plain, since), script
    assert (plain.fs / "etc/bundle").read_text() == "of the image\nmore\n"


def test_places_in_a_cache_on_the_same_device_are_not_the_trees(full: Box) -> None:
    cache = full.place / "cache"
    cache.mkdir()
    volumes = (
        Directory(b"/opt/cache", os.fsencode(cache)),
        Directory(b"/opt/cache/in/it", os.fsencode(cache), read_only=True),
    )
    ran = copied(full, "echo > /opt/cache/file; test -f /opt/cache/in/it/file", volumes=volumes)
    assert (ran.status, ran.changes) == (0, {})
    assert (cache / "file").exists()
    assert (cache / "in/it").is_dir()


def test_table_of_a_failed_run_is_gone_on_from(full: Box) -> None:
    spec = full.spec("/bin/sh", "-c", "echo half > /opt/half; exit 3", lowers=(), snapshotter="copy")
    full.worker.call("clone", [os.fsencode(full.root), spec.staging + b"/fs"])
    assert full.finish(spec, *full.submit(spec)).status == 3
    assert {path.name for path in Path(os.fsdecode(spec.staging)).iterdir()} == {"fs", "table", "touched"}
    again = msgspec.structs.replace(spec, argv=("/bin/sh", "-c", "echo whole > /opt/whole"))
    assert full.finish(again, *full.submit(again)).changes == {"opt": "d", "opt/half": "f", "opt/whole": "f"}
