"""Volumes of a RUN: where they appear, what they show, and what is left of their places afterwards."""

import os
import socket
from pathlib import Path

import msgspec
import pytest

from pybuild.sandbox.spec import SandboxSpec
from pybuild.sandbox.volumes import Directory, File, Layers, Memory, Socket
from pybuild.tree.entry import DIR, FILE

from .conftest import Box

pytestmark = pytest.mark.userns


def scratch(box: Box) -> bytes:
    box.count += 1
    place = box.place / f"scratch{box.count}"
    for name in ("fs", "work"):
        (place / name).mkdir(parents=True)
    return os.fsencode(place)


def directory(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_volumes_survive_their_trip_and_hide_their_content() -> None:
    volumes = (
        Layers(b"/a\xff", (b"/l", b"/m"), b"/s", b"x"),
        Directory(b"/b", b"/p", b"x", read_only=True),
        Memory(b"/c", 5),
        File(b"/d", b"canary\0\xff", 0o440, 1, 2),
        Socket(b"/e", b"/p", 3, 4),
    )
    spec = SandboxSpec(argv=("x",), lowers=(), staging=b"/s", volumes=volumes, insecure=True)
    sent = msgspec.msgpack.encode(spec.to_wire())
    assert SandboxSpec.from_wire(msgspec.msgpack.decode(sent)) == spec
    assert "canary" not in repr(spec) + spec.describe()


def test_every_kind_is_mounted_and_leaves_no_trace(box: Box, own_root: Path, tmp_path: Path) -> None:
    (own_root / "old").mkdir()
    (own_root / "old/file").write_text("below")
    os.utime(own_root / "old", (1000, 1000))
    shared = directory(tmp_path / "shared", f="shared")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        ran = box.sh(
            "cat /new/deep/d/f /old/file /old/secret /old/l/etc/passwd; stat -c %a /old/secret; test -S /run/s\n"
            "df /m | tail -n 1 | awk '{print $2}'\n! touch /ro/x; touch /new/deep/d/made /old/l/made\n"
            "echo x > /new/own\n"
            "! echo x > /old/secret; ls /old",
            lowers=(os.fsencode(box.root), os.fsencode(own_root)),
            emulation="full" if box.worker.mode == "single" else "off",
            volumes=(
                Directory(b"/new/deep/d", os.fsencode(shared)),
                Directory(b"/ro", os.fsencode(shared), read_only=True),
                Directory(b"/old/file", os.fsencode(shared), b"f", read_only=True),
                Layers(b"/old/l", (os.fsencode(box.root),), scratch(box), read_only=False),
                Memory(b"/m", 1 << 20),
                File(b"/old/secret", b"s\n", 0o440),
                Socket(b"/run/s", os.fsencode(tmp_path / "sock")),
            ),
        )
    assert ran.status == 0, ran.err
    assert ran.out.startswith("sharedshareds\nroot:x:0:0:")
    assert ran.out.endswith("440\n1024\nfile\nl\nsecret\n")
    # What RUN itself made in a directory that was made for a mount stays, and the directory with it
    assert ran.changes == {"new": DIR, "new/own": FILE}
    assert sorted(os.listdir(shared)) == ["f", "made"]
    assert not (box.root / "made").exists()


def test_mounts_lie_in_each_other(box: Box, tmp_path: Path) -> None:
    outer, inner = directory(tmp_path / "outer"), directory(tmp_path / "inner", f="inner")
    ran = box.sh(
        "cat /a/b/c/f /a/b/file; echo x > /a/b/c/g",
        volumes=(
            File(b"/a/b/file", b"content"),
            Directory(b"/a/b/c", os.fsencode(inner)),
            Directory(b"/a/b", os.fsencode(outer)),
        ),
    )
    assert (ran.out, ran.changes) == ("innercontent", {})
    # The places are the outer one's own, as it is not part of the layer
    assert sorted(path.name for path in outer.iterdir()) == ["c", "file"]
    assert (inner / "g").read_text() == "x\n"
    volumes = (Directory(b"/a", os.fsencode(inner), read_only=True), Memory(b"/a/nosuch"))
    end = box.sh("true", volumes=volumes).result.end
    assert "Read-only" in end.problem
    assert "`rw`" in end.hint


def test_links_lead_nowhere_but_inside(box: Box, own_root: Path, tmp_path: Path) -> None:
    canary = directory(tmp_path / "outside", f="canary")
    (own_root / "abs").symlink_to(canary)
    (own_root / "up").symlink_to("../../../../../../../../tmp")
    (own_root / "dangling").symlink_to("not/there")
    (own_root / "loop").symlink_to("loop")
    source = directory(tmp_path / "source", f="mine")
    (source / "out").symlink_to(canary)
    (source / "up").symlink_to("../outside")
    (source / "to").symlink_to("/sub")
    (source / "sub").mkdir()
    lowers = (os.fsencode(box.root), os.fsencode(own_root))
    ran = box.sh(
        f"cat {canary}/x /tmp/y /not/there/z /s/g",
        lowers=lowers,
        volumes=(
            File(b"/abs/x", b"1"),
            File(b"/up/y", b"2"),
            File(b"/dangling/z", b"3"),
            Directory(b"/s", os.fsencode(source), b"to"),
            File(b"/s/g", b"4"),
        ),
    )
    assert (ran.out, ran.err, ran.changes) == ("1234", "", {})
    assert (source / "sub/g").read_text() == ""
    assert [path.name for path in canary.iterdir()] == ["f"]
    for volume, message in (
        (Directory(b"/d", os.fsencode(source), b"out"), "does not exist"),
        (Directory(b"/d", os.fsencode(source), b"up/f"), "does not exist"),
        (Layers(b"/d", (os.fsencode(source),), scratch(box), b"../../../outside"), "does not exist"),
        (Memory(b"/loop/x"), "symbolic links"),
        (Memory(b"/proc/self"), "no place for a mount"),
        (Memory(b"/proc/self/root/srv"), "cannot make a place"),
        (Memory(b"/dev"), "no place for a mount"),
        (Memory(b"/etc/passwd"), "directory"),
        (File(b"/srv", b""), "directory"),
        (Memory(b"/x" * 300), "too deep"),
    ):
        end = box.sh("true", lowers=lowers, volumes=(volume,)).result.end
        assert message in end.problem, (volume, end)


@pytest.mark.slow
def test_a_race_for_a_shared_directory_is_lost_inside(box: Box, tmp_path: Path) -> None:
    """One RUN swaps a directory and a link to the host's without a pause while others mount below and from it."""
    canary = directory(tmp_path / "outside", f="canary")
    (canary / "x").mkdir()
    shared = directory(tmp_path / "shared")
    (shared / "d").mkdir()
    cache = Directory(b"/c", os.fsencode(shared))
    swap = box.spec(
        *("/bin/sh", "-c"),
        f"cd /c; while test ! -e stop; do mv d e; ln -s {canary} d; rm d; ln -s / d; rm d; mv e d; done",
        volumes=(cache,),
    )
    job, fds = box.submit(swap)
    problems = set()
    for number in range(30):
        below = File(b"/c/d/x/f", b"", 0o600) if number % 2 else Memory(b"/c/d/x")
        ran = box.sh(
            f"ls {canary}; ls /s; cat /s/f /c/d/f; echo stolen > /s/f; touch /c/d/x/stolen",
            volumes=(cache, below, Directory(b"/s", os.fsencode(shared), b"d")),
        )
        assert "canary" not in ran.out
        problems.add(ran.result.end.problem)
    (shared / "stop").touch()
    assert box.finish(swap, job, fds).status == 0
    assert "" in problems
    assert sorted(path.name for path in canary.iterdir()) == ["f", "x"]
    assert (canary / "f").read_text() == "canary"
    assert list((canary / "x").iterdir()) == []
