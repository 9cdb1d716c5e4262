"""A root file system, workers in each id mode this user can have, and a way to run things in them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pybuild.engine.jobs import RunResult
from pybuild.errors import PybuildError
from pybuild.sandbox import idmap
from pybuild.sandbox.spec import SandboxSpec
from pybuild.sandbox.worker import Job, Worker
from support import busybox, host

PASSWD = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/srv:/bin/sh\nodd:x:40:41::/home/odd:/bin/sh\n"
GROUP = "root:x:0:\nwww:x:33:\nstaff:x:50:other,www\ngames:x:60:www\n"


def modes() -> list[str]:
    """Return the id modes this user can have."""
    if os.geteuid() == 0:
        return ["root", "single"]
    return ["single"] if host.lacks_multiid() else ["multi", "single"]


def modes_in_turn() -> list[Any]:
    """Return parameters for the modes; all but the best are for when there is time."""
    best, *others = modes()
    return [best, *(pytest.param(mode, marks=pytest.mark.slow) for mode in others)]


def write_root(path: Path) -> Path:
    """Make a small root directory: busybox, users, no /proc, /sys, /dev and none of the files that get mounted."""
    for name in ("bin", "etc", "root", "srv", "tmp"):
        (path / name).mkdir(parents=True)
    path.chmod(0o755)
    (path / "tmp").chmod(0o1777)
    shutil.copy(busybox.BUSYBOX, path / "bin/busybox")
    (path / "bin/busybox").chmod(0o755)
    applets = subprocess.run([busybox.BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (path / "bin" / applet).symlink_to("busybox")
    (path / "etc/passwd").write_text(PASSWD)
    (path / "etc/group").write_text(GROUP)
    return path


@dataclass
class Ran:
    """How a run ended, with what it wrote."""

    status: int
    out: str
    err: str
    result: RunResult
    fs: Path

    @property
    def changes(self) -> dict[str, str]:
        """Path and type of each entry of the layer, less the three directories every root needs."""
        assert self.result.packed is not None
        found = {entry.path.decode(): entry.type for entry in self.result.packed.toc}
        return {path: kind for path, kind in found.items() if path not in ("dev", "proc", "sys")}


@dataclass
class Box:
    """A worker, a root directory, and a place for what runs leave."""

    worker: Worker
    root: Path
    place: Path
    count: int = 0

    def spec(self, *argv: str, **fields: Any) -> SandboxSpec:
        """Return a spec on the root with a staging directory of its own."""
        self.count += 1
        staging = self.place / f"staging{self.count}"
        staging.mkdir()
        fields.setdefault("lowers", (os.fsencode(self.root),))
        if fields.get("emulation") == "full":
            fields.setdefault("set_gid", ())
        return SandboxSpec(argv=argv, staging=os.fsencode(staging), **fields)

    def submit(self, spec: SandboxSpec) -> tuple[Job, list[int]]:
        """Start a run whose output goes to files; return the job and the files' descriptors."""
        fds = [os.open(self.place, os.O_TMPFILE | os.O_RDWR) for _ in range(3)]
        return self.worker.submit("run", [spec, self.worker.mode], fds), fds

    def finish(self, spec: SandboxSpec, job: Job, fds: list[int]) -> Ran:
        """Wait for a run and collect what it wrote."""
        try:
            result = job.result(RunResult)
            out, err = (os.pread(fd, 1 << 22, 0).decode(errors="backslashreplace") for fd in fds[:2])
        finally:
            for fd in fds:
                os.close(fd)
        return Ran(result.end.status, out, err, result, Path(os.fsdecode(spec.staging)) / "fs")

    def run(self, *argv: str, **fields: Any) -> Ran:
        """Run something to its end."""
        spec = self.spec(*argv, **fields)
        return self.finish(spec, *self.submit(spec))

    def sh(self, script: str, **fields: Any) -> Ran:
        """Run a shell script to its end."""
        return self.run("/bin/sh", "-c", script, **fields)


@pytest.fixture(scope="session")
def plain_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root directory nobody changes."""
    if not busybox.is_static():
        pytest.skip("there is no static busybox")
    return write_root(tmp_path_factory.mktemp("rootfs") / "root")


@pytest.fixture
def own_root(tmp_path: Path, plain_root: Path) -> Path:
    """A root directory of the test's own, without programs: the plain one goes below it."""
    path = tmp_path / "own"
    path.mkdir()
    return path


def open_box(mode: str, root: Path, place: Path) -> Iterator[Box]:
    """Yield a box and remove its place, whoever owns the files, in the end."""
    place.mkdir()
    with Worker.start(idmap.choose(mode)) as worker:
        yield Box(worker, root, place)
        # A test may have ended it
        with suppress(PybuildError):
            worker.call("remove", [os.fsencode(place)])
    if place.exists():
        with Worker.start(idmap.choose(mode)) as worker:
            worker.call("remove", [os.fsencode(place)])


@pytest.fixture(params=modes())
def box(request: pytest.FixtureRequest, plain_root: Path, tmp_path: Path) -> Iterator[Box]:
    """A box in every id mode there is."""
    yield from open_box(request.param, plain_root, tmp_path / "box")


@pytest.fixture
def full_box(plain_root: Path, tmp_path: Path) -> Iterator[Box]:
    """A box in the best mode, which must have more ids than one."""
    yield from open_box(modes()[0], plain_root, tmp_path / "box")
