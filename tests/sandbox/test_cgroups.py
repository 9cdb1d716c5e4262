"""Where control groups may be made, told from trees that look like those of the kernel."""

import os
import subprocess
from pathlib import Path

import pytest

from pybuild.api.request import Limits
from pybuild.sandbox.cgroups import Limiter, find_places
from pybuild.sandbox.errors import LimitError


def make_v2(base: Path, *, enabled: str = "", procs: str = "") -> tuple[str, Path]:
    """Make a process in /user/session of a v2 tree; return its directory of /proc and that of the group."""
    proc, top = base / "proc", base / "cgroup"
    group = top / "user/session"
    proc.mkdir()
    group.mkdir(parents=True)
    (proc / "cgroup").write_text("0::/user/session\n")
    (proc / "mountinfo").write_text(f"30 20 0:25 / {top} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n")
    for directory in (group, group.parent):
        (directory / "cgroup.procs").write_text(procs if directory == group else "")
        (directory / "cgroup.controllers").write_text("cpu memory pids\n")
        (directory / "cgroup.subtree_control").write_text(enabled)
    return str(proc), group


def test_v2_group_that_is_divided_already_is_used(tmp_path: Path) -> None:
    proc, group = make_v2(tmp_path, enabled="memory pids\n", procs="1\n")
    [place] = find_places(["memory", "pids"], [], proc)
    assert (place.version, place.directory, place.controllers) == (2, str(group), {"memory", "pids"})


def test_v2_processes_of_ours_make_room_in_a_leaf(tmp_path: Path) -> None:
    proc, group = make_v2(tmp_path, procs="77\n")
    (group / "pybuild").mkdir()
    (group / "pybuild/cgroup.procs").touch()
    [place] = find_places(["memory"], [77], proc)
    assert place.directory == str(group)
    assert (group / "pybuild/cgroup.procs").read_text() == "77"
    assert (group / "cgroup.subtree_control").read_text() == "+memory"


def test_v2_group_with_others_in_it_is_left_alone(tmp_path: Path) -> None:
    proc, group = make_v2(tmp_path, procs="77\n78\n")
    [place] = find_places(["memory"], [77], proc)
    # The empty one above it can be divided
    assert place.directory == str(group.parent)
    assert not (group / "pybuild").exists()


def test_v2_limits_are_written(tmp_path: Path) -> None:
    proc, group = make_v2(tmp_path, enabled="cpu memory\n")
    limits = Limits(memory=64 << 20, memory_swap=96 << 20, cpu_quota=50_000)
    limiter = Limiter(limits, proc=proc)
    assert limiter.prepare() == []
    # A plain directory has no files yet, and the first that is missing is told
    with pytest.raises(LimitError, match=r"memory\.max"):
        limiter.group()
    assert not [path for path in group.iterdir() if path.is_dir()]


def test_machine_without_control_groups(tmp_path: Path) -> None:
    proc = str(tmp_path)
    limiter = Limiter(Limits(memory=64 << 20), proc=proc)
    [told] = limiter.prepare()
    assert "each process" in told
    assert limiter.ulimits == (("as", 64 << 20, 64 << 20),)
    with limiter.group() as group:
        assert (group.entries, group.out_of_memory()) == ([], False)
    with pytest.raises(LimitError, match="the choice of processors and processes"):
        Limiter(Limits(pids=5, cpuset_cpus="0"), proc=proc).prepare()
    [told] = Limiter(Limits(pids=5, best_effort=True), proc=proc).prepare()
    assert "not limited" in told


def test_groups_of_builds_that_were_killed_are_removed(tmp_path: Path) -> None:
    proc, group = make_v2(tmp_path, enabled="memory\n")
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in (f"pybuild-{ended.pid}-7f-1", f"pybuild-{os.getpid()}-7f-1", f"other-{ended.pid}-1", "pybuild"):
        (group / name).mkdir()
    assert Limiter(Limits(memory=64 << 20), proc=proc).prepare() == []
    left = {path.name for path in group.iterdir() if path.is_dir()}
    assert left == {f"pybuild-{os.getpid()}-7f-1", f"other-{ended.pid}-1", "pybuild"}
