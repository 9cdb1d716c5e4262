"""A RUN that is kept apart by chroot: what it sees, what it cannot do, and that nothing of its surroundings stays."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pybuild.sandbox import syscalls
from pybuild.sandbox.spec import FileMount, SandboxSpec
from pybuild.sandbox.volumes import Directory, File, Memory, Socket
from support import processes

from .conftest import Box, Ran, modes_in_turn, open_box
from .test_terminal import Session

pytestmark = pytest.mark.userns


@pytest.fixture(params=modes_in_turn())
def box(request: pytest.FixtureRequest, plain_root: Path, tmp_path: Path) -> Iterator[Box]:
    """A box in every id mode there is; its worker may make namespaces, which a RUN takes what it can of."""
    yield from open_box(request.param, plain_root, tmp_path / "box")


def run(box: Box, *argv: str, **fields: Any) -> Ran:
    """Run something in a copy of the box's root."""
    spec = box.spec(*argv, lowers=(), snapshotter="copy", isolation="chroot", **fields)
    box.worker.call("clone", [os.fsencode(box.root), spec.staging + b"/fs"])
    return box.finish(spec, *box.submit(spec))


def sh(box: Box, script: str, **fields: Any) -> Ran:
    return run(box, "/bin/sh", "-c", script, **fields)


def left(ran: Ran) -> list[str]:
    """Return what is left in the staging directory beside the tree."""
    return sorted(path.name for path in ran.fs.parent.iterdir() if path.name != "fs")


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -SEGV $$", 139), ("exec /no/such", 127)])
def test_ends_are_told_as_ever(box: Box, script: str, status: int) -> None:
    assert sh(box, script).status == status


def test_what_cannot_be_executed_says_so(box: Box) -> None:
    ran = run(box, "/no/such")
    assert (ran.status, ran.result.packed) == (127, None)
    assert "No such file" in ran.result.end.message
    assert run(box, "/etc/passwd").status == 126


def test_world_is_the_images(box: Box) -> None:
    scripts = (("run", b"#!/bin/sh\necho piped\n"),)
    ran = sh(
        box, "/dev/pipes/run; pwd; echo $A; cat /etc/hostname; cat", cwd="/srv", env=(("A", "1"),), scripts=scripts
    )
    assert ran.out == "piped\n/srv\n1\npybuild\n"
    assert (ran.changes, left(ran)) == ({}, [])


def test_missing_user_is_an_error_and_leaves_nothing(box: Box) -> None:
    ran = sh(box, "true", user="nobody-there")
    assert "no such user" in ran.result.end.problem
    assert not (ran.fs / "dev").exists() or os.listdir(ran.fs / "dev") == []
    assert "aside" not in left(ran)


def test_other_users_are_no_root(box: Box) -> None:
    emulation = "full" if box.worker.mode == "single" else "off"
    ran = sh(box, "id -u; id -G", user="www", emulation=emulation)
    assert ran.out.split() == ["33", "33", "50", "60"]


def test_what_stands_for_mounts_is_there_and_gone_afterwards(box: Box) -> None:
    trees, cache = box.place / "trees", box.place / "cache"
    for path in (trees / "inner", cache):
        path.mkdir(parents=True)
    (trees / "inner/file").write_text("bound\n")
    (cache / "kept").write_text("kept\n")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(box.place / "socket"))
    volumes = (
        Directory(b"/opt/cache", os.fsencode(cache)),
        Directory(b"/opt/tree", os.fsencode(trees), b"inner", read_only=True),
        Directory(b"/opt/one", os.fsencode(trees), b"inner/file", read_only=True),
        Memory(b"/opt/memory"),
        File(b"/run/secret", b"secret\n", 0o400),
        Socket(b"/opt/socket", os.fsencode(box.place / "socket")),
    )
    mounts = (FileMount("/etc/bundle", b"lent\n", lent=True), FileMount("/opt/ours", b"ours\n"))
    script = (
        "cat /opt/cache/kept /opt/tree/file /opt/one /run/secret /etc/bundle /opt/ours; "
        "echo more > /opt/cache/more; "
        "echo lost > /opt/tree/file; echo lost > /opt/memory/x; test -S /opt/socket; echo lost > /opt/ours; "
        "echo lost > /dev/shm/x"
    )
    ran = sh(box, script, volumes=volumes, mounts=mounts)
    assert (ran.status, ran.out) == (0, "kept\nbound\nbound\nsecret\nlent\nours\n"), ran.err
    assert (ran.changes, left(ran)) == ({}, [])
    assert sorted(os.listdir(cache)) == ["kept", "more"]
    assert (trees / "inner/file").read_text() == "bound\n"
    assert (box.place / "socket").exists()
    assert not (ran.fs / "opt").exists()
    listening.close()


def test_what_the_image_has_in_the_place_of_mounts_is_back(box: Box) -> None:
    spec = box.spec(
        "/bin/sh",
        "-c",
        "rm /etc/resolv.conf; echo own > /etc/resolv.conf; echo > /dev/shm/x",
        lowers=(),
        snapshotter="copy",
        isolation="chroot",
    )
    box.worker.call("clone", [os.fsencode(box.root), spec.staging + b"/fs"])
    root = Path(os.fsdecode(spec.staging)) / "fs"
    for name in ("dev", "proc"):
        (root / name).mkdir()
        (root / name / "of-the-image").write_text("kept")
    (root / "etc/resolv.conf").symlink_to("nowhere")
    ran = box.finish(spec, *box.submit(spec))
    # The directory was written to, what was in it is as before
    assert ran.changes == {"etc": "d"}
    assert [(root / name / "of-the-image").read_text() for name in ("dev", "proc")] == ["kept", "kept"]
    assert (root / "etc/resolv.conf").readlink() == Path("nowhere")


def test_a_directory_that_was_removed_stays_so(box: Box) -> None:
    ran = sh(box, "rm -rf /etc", mounts=(FileMount("/etc/bundle", b"lent\n", lent=True),))
    assert (ran.status, ran.changes, left(ran)) == (0, {"etc": "w"}, [])


@pytest.mark.parametrize("target", ["/dev", "/proc/x", "/link/x"])
def test_places_of_the_sandbox_are_no_places_for_mounts(box: Box, own_root: Path, target: str) -> None:
    spec = box.spec("/bin/true", lowers=(), snapshotter="copy", isolation="chroot", volumes=(Memory(target.encode()),))
    box.worker.call("clone", [os.fsencode(box.root), spec.staging + b"/fs"])
    (Path(os.fsdecode(spec.staging)) / "fs/link").symlink_to("proc")
    ran = box.finish(spec, *box.submit(spec))
    assert "no place for a mount" in ran.result.end.problem
    assert left(ran) in ([], ["table"], ["table", "touched"])


def test_links_do_not_lead_out_of_the_tree(box: Box, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    spec = box.spec(
        "/bin/true",
        lowers=(),
        snapshotter="copy",
        isolation="chroot",
        volumes=(File(b"/link/file", b"x"), Memory(b"/up/memory")),
    )
    box.worker.call("clone", [os.fsencode(box.root), spec.staging + b"/fs"])
    root = Path(os.fsdecode(spec.staging)) / "fs"
    (root / "link").symlink_to(outside)
    (root / "up").symlink_to("../../../..")
    box.finish(spec, *box.submit(spec))
    assert os.listdir(outside) == []


def test_network_can_be_cut_off_where_namespaces_are(box: Box) -> None:
    ran = sh(box, "ip link show | grep -c '^[0-9]'", network="none")
    assert ran.out == "1\n"


def test_what_it_cannot_do_it_refuses(box: Box) -> None:
    assert "refused here" in sh(box, "true", insecure=True).result.end.problem


class Apart(Box):
    """A box whose specs are such, with a tree each."""

    def spec(self, *argv: str, **fields: Any) -> SandboxSpec:
        spec = super().spec(*argv, lowers=(), snapshotter="copy", isolation="chroot", **fields)
        self.worker.call("clone", [os.fsencode(self.root), spec.staging + b"/fs"])
        return spec


def test_terminal_is_one_of_the_system_outside(box: Box) -> None:
    apart = Apart(box.worker, box.root, box.place)
    session = Session(apart, "/bin/sh", "-c", "test -t 0 && test -t 1 && stty size; echo x > /dev/tty; exit 4")
    session.begin(33, 99)
    assert session.read().split("\n")[0] == "33 99"
    assert session.end().status == 4


def test_killed_job_leaves_no_process(box: Box) -> None:
    spec = box.spec(
        "/bin/sh", "-c", "setsid sleep 4329 & sleep 4329", lowers=(), snapshotter="copy", isolation="chroot"
    )
    box.worker.call("clone", [os.fsencode(box.root), spec.staging + b"/fs"])
    job, fds = box.submit(spec)
    child = processes.wait_for("sleep", "4329")
    parents = {process.pid: process.parent for process in processes.table()}
    pid = child.pid
    while parents[parents[pid]] != box.worker.pid:
        pid = parents[pid]
    os.kill(parents[pid], signal.SIGKILL)
    with pytest.raises(Exception, match="without an answer"):
        job.result(None)
    for fd in fds:
        os.close(fd)
    end = time.monotonic() + 10
    while processes.find("sleep", "4329"):
        assert time.monotonic() < end
        time.sleep(0.02)


BOUND = """
import os, signal, sys
sys.path[:] = {path!r}
from pybuild.sandbox import confine, syscalls
tree = os.open({tree!r}, os.O_RDONLY | os.O_DIRECTORY)
assert confine.prepare(tree)
def tried(action):
    try: action()
    except OSError as error: return error.strerror
    return "done"
print(tried(lambda: os.listdir({tree!r})), tried(lambda: os.listdir({outside!r})), sep=", ")
print(tried(lambda: os.rename({tree!r} + "/a/x", {tree!r} + "/b/x")), tried(lambda: os.kill(os.getppid(), 0)), sep=", ")
"""


def test_landlock_bounds_files_and_signals(tmp_path: Path) -> None:
    try:
        version = syscalls.landlock_version()
    except OSError as error:
        pytest.skip(f"this kernel has no Landlock: {error.strerror}")
    if version < 2:
        pytest.skip("this kernel's Landlock forbids to move files")
    for name in ("tree/a", "tree/b", "outside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "tree/a/x").touch()
    script = BOUND.format(path=sys.path, tree=str(tmp_path / "tree"), outside=str(tmp_path / "outside"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    signals = "Operation not permitted" if version >= 6 else "done"
    assert done.stdout.splitlines() == ["done, Permission denied", f"done, {signals}"], done.stderr
