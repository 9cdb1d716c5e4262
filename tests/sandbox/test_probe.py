"""`pybuild doctor` in worlds that lack something, each made by what causes the lack elsewhere."""

import errno
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pybuild.sandbox import advice
from pybuild.sandbox.probe import everything, limits, store
from pybuild.sandbox.probe.report import Ability, Report, level_of
from pybuild.sandbox.probe.trial import Steps, attempt
from support import confined

SOURCE = Path(everything.__file__).parents[3]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide system files for a test")


def doctor(place: Path, *lack: str, code: int, options: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what the doctor says where there is a lack, and check its exit status."""
    command = [sys.executable, "-m", "pybuild", "doctor", "--json", *options]
    if lack:
        command = [sys.executable, str(confined.__file__), *lack, *command]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYBUILD_ID_MODE"},
        "PYBUILD_STORE": str(place / "store"),
        "PYTHONPATH": str(SOURCE),
    }
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == code, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    found["by_name"] = {ability["name"]: ability for ability in found["abilities"]}
    return found


@pytest.mark.userns
def test_where_all_is_well(tmp_path: Path) -> None:
    found = doctor(tmp_path, code=0)
    assert found["mode"] in ("multi", "root", "single")
    required = [ability for ability in found["abilities"] if ability["need"] == "required"]
    assert [ability for ability in required if ability["state"] != "ok"] == []
    assert (found["isolation"], found["snapshotter"]) == ("namespaces", "overlay")
    assert os.listdir(tmp_path) == []


@pytest.mark.userns
def test_strict_wants_more_than_one_id(tmp_path: Path) -> None:
    lesser = doctor(tmp_path, code=0)["level"] != "best"
    doctor(tmp_path, code=int(lesser), options=("--strict",))


@pytest.mark.userns
@pytest.mark.parametrize(
    ("lack", "error", "words"),
    [
        ("no_user_namespaces", "ENOSPC", "user.max_user_namespaces"),
        ("seccomp", "EPERM", "seccomp"),
        ("chroot", "EPERM", "chroot"),
        ("nested", "ENOSPC", "nested"),
    ],
)
def test_no_user_namespaces_at_all(
    lack: str, error: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYBUILD_ISOLATION", "namespaces")
    found = doctor(tmp_path, lack, code=1)
    ability = found["by_name"]["user-namespace"]
    assert (found["mode"], found["level"], found["isolation"], found["snapshotter"]) == ("none",) * 4
    assert (ability["state"], ability["error"], ability["need"]) == ("missing", error, "required")
    assert ability["step"] == "make a user namespace"
    assert words in ability["fix"]
    assert words in found["by_name"]["isolation"]["fix"]
    assert "overlay" not in found["by_name"]


@pytest.mark.userns
@pytest.mark.parametrize("lack", ["no_user_namespaces", "chroot", "container", "no_mounts", "no_mount_descriptors"])
def test_chroot_is_what_is_left(lack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a container: else root has to ask for it
    monkeypatch.setenv("container", "of-a-test")
    found = doctor(tmp_path, lack, code=0)
    assert (found["level"], found["isolation"], found["snapshotter"]) == ("lesser", "chroot", "copy")
    isolation, snapshotter = found["by_name"]["isolation"], found["by_name"]["snapshotter"]
    assert isolation["problem"].startswith("by chroot, less isolated: cannot ")
    assert isolation["fix"]
    assert found["by_name"]["private-network"]["state"] == "missing"
    assert (snapshotter["state"], snapshotter["problem"]) == ("degraded", "copies of layers: nothing can be mounted")
    assert [item for item in found["abilities"] if item["need"] == "required" and item["state"] == "missing"] == []
    doctor(tmp_path, lack, code=1, options=("--strict",))


@pytest.mark.userns
def test_nothing_is_left_without_the_right_to_change_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    found = doctor(tmp_path, "container_without_chroot", code=1)
    assert (found["isolation"], found["by_name"]["isolation"]["state"]) == ("none", "missing")
    assert "seccompProfile: {type: Unconfined}" in found["by_name"]["isolation"]["fix"]


@pytest.mark.userns
def test_one_id_needs_to_answer_calls(tmp_path: Path) -> None:
    found = doctor(tmp_path, "listener", code=1)
    ability = found["by_name"]["seccomp-notify"]
    assert (ability["state"], ability["error"], ability["need"]) == ("missing", "EBUSY", "required")
    assert "--root-emulation=fake" in ability["fix"]


@pytest.mark.userns
def test_masked_proc_is_a_lesser_one(tmp_path: Path) -> None:
    found = doctor(tmp_path, "masked_proc", code=0)
    ability = found["by_name"]["proc"]
    assert (ability["state"], ability["error"], found["level"]) == ("degraded", "EPERM", "lesser")
    assert ability["fix"] == advice.masked_proc()
    doctor(tmp_path, "masked_proc", code=1, options=("--strict",))


@pytest.mark.userns
def test_store_on_an_overlay(tmp_path: Path) -> None:
    found = doctor(tmp_path, "store_on_overlay", code=0)
    ability = found["by_name"]["overlay"]
    assert (ability["state"], ability["step"], ability["need"]) == ("missing", "mount an overlay", "wanted")
    assert "PYBUILD_STORE" in ability["fix"]
    assert (found["level"], found["isolation"], found["snapshotter"]) == ("lesser", "namespaces", "copy")
    assert found["by_name"]["snapshotter"]["fix"] == ability["fix"]
    assert found["by_name"]["store"]["detail"].startswith("overlay")


@pytest.mark.userns
def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    ability = doctor(tmp_path, "read_only_store", code=1)["by_name"]["store"]
    assert (ability["state"], ability["error"]) == ("missing", "EROFS")
    assert "PYBUILD_STORE" in ability["fix"]


@pytest.mark.userns
def test_limits_of_the_store_are_told_and_do_not_matter(tmp_path: Path) -> None:
    found = doctor(tmp_path, "store_limits", code=0)
    assert found["by_name"]["store"]["detail"] == "tmpfs (nosuid,nodev,noexec)"
    assert found["by_name"]["overlay"]["state"] == "ok"


@needs_root
@pytest.mark.parametrize(
    ("lack", "problem", "fix"),
    [
        ("failing_helper", "`newuidmap` failed: no luck", "must be set-uid root"),
        ("powerless_helper", "not set-uid root", "chmod u+s"),
        ("no_ranges", "no subordinate ids", "usermod --add-subuids"),
        ("no_new_privileges", "cannot become root here", "set-uid programs have no effect"),
        ("other_group", "owned by a different user", "as after `newgrp`"),
    ],
)
def test_one_id_only(lack: str, problem: str, fix: str, tmp_path: Path) -> None:
    place = Path("/dev/shm") / f"pybuild-{os.getpid()}-{lack}"
    place.mkdir()
    os.chown(place, 12345, 12345)
    try:
        found = doctor(place, lack, code=0)
    finally:
        place.rmdir()
    ability = found["by_name"]["subordinate-ids"]
    assert (found["mode"], ability["state"], ability["need"]) == ("single", "missing", "wanted")
    assert problem in ability["problem"]
    assert fix in ability["fix"]


@pytest.mark.userns
@pytest.mark.skipif(not shutil.which("newuidmap"), reason="newuidmap is not installed")
def test_helpers_that_the_kernel_refuses(tmp_path: Path) -> None:
    found = doctor(tmp_path, "refused_helper", code=0)
    ability = found["by_name"]["subordinate-ids"]
    assert (found["mode"], found["level"], ability["state"]) == ("single", "lesser", "missing")
    assert ability["step"] == "map ids"
    assert "`newuidmap` failed" in ability["problem"]
    assert "SETUID and SETGID" in ability["fix"]


@pytest.mark.userns
@pytest.mark.parametrize(("lack", "words"), [("no_user_namespaces", "user.max_user"), ("seccomp", "seccomp")])
def test_a_worker_gives_the_same_advice(lack: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from pybuild.sandbox.worker import Worker\n"
        "from pybuild.sandbox.errors import SandboxError\n"
        "try: Worker.start()\n"
        "except SandboxError as error: print(error.hint)\n"
    )
    command = [sys.executable, str(confined.__file__), lack, sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout.strip()
    assert words in told
    monkeypatch.setenv("PYBUILD_ISOLATION", "namespaces")
    assert told == doctor(tmp_path, lack, code=1)["by_name"]["user-namespace"]["fix"]


@pytest.mark.userns
def test_a_worker_starts_as_root_of_one_id(tmp_path: Path) -> None:
    code = "from pybuild.sandbox.worker import Worker\nwith Worker.start() as worker: print(worker.mode)\n"
    command = [sys.executable, str(confined.__file__), "masked_proc", sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    environment.pop("PYBUILD_ID_MODE", None)
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert told.stdout.strip() == "single", told.stderr
    assert doctor(tmp_path, "masked_proc", code=0)["mode"] == "single"


def test_apparmor_gets_a_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_map(_: object, __: object) -> Any:
        return everything.Outcome("map ids", 1, "cannot map ids"), {}

    monkeypatch.setenv("PYBUILD_ISOLATION", "namespaces")
    monkeypatch.setattr(advice, "apparmor_restricts", lambda: True)
    monkeypatch.setattr(everything, "inside", no_map)
    report = everything.probe(str(tmp_path))
    assert f'"{everything.program()}"' in report.profile
    assert "userns," in report.profile
    assert any("AppArmor" in fix for fix in report.fixes)


def test_containers_have_fixes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(advice, "status", lambda field: "2")
    monkeypatch.setattr(advice, "sysctl", lambda name: "")
    assert "hostUsers: false" in advice.user_namespaces(1, after_unshare=False)
    assert "procMount" in advice.masked_proc()


def test_old_debian_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "sysctl", lambda name: "0" if name.endswith("unprivileged_userns_clone") else "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "sysctl -w kernel.unprivileged_userns_clone=1" in advice.user_namespaces(1, after_unshare=False)


def test_an_attempt_names_the_step_that_failed() -> None:
    def body(steps: Steps) -> None:
        steps("walk")
        steps("fly")
        os.stat("/nowhere/at/all")

    outcome = attempt(body)
    assert (outcome.ok, outcome.step, outcome.number) == (False, "fly", 2)


def test_an_attempt_that_dies_is_no_success() -> None:
    def body(steps: Steps) -> None:
        os.kill(os.getpid(), 9)

    outcome = attempt(body)
    assert not outcome.ok
    assert "SIGKILL" in outcome.problem


def test_an_attempt_that_breaks_is_no_success() -> None:
    def body(steps: Steps) -> None:
        raise ValueError("a bug")

    assert not attempt(body).ok


def test_fixes_come_once_and_the_most_needed_first() -> None:
    abilities = (
        Ability("a", "missing", "optional", "", fix="small"),
        Ability("b", "missing", "required", "", fix="big"),
        Ability("c", "degraded", "wanted", "", fix="big"),
        Ability("d", "ok", "required", "", fix="none"),
    )
    report = Report(1, "none", "none", "", abilities)
    assert list(report.fixes.items()) == [("big", ["b", "c"]), ("small", ["a"])]
    assert level_of("multi", abilities[:1]) == "best"
    assert level_of("multi", abilities[2:3]) == "lesser"
    assert level_of("single", ()) == "lesser"


def test_the_mount_a_path_lies_on() -> None:
    assert store.mounted("/proc").kind == "proc"
    assert store.existing("/proc/no/such") == "/proc"


@pytest.mark.userns
def test_store_over_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = os.stat(tmp_path).st_dev
    line = f"90 30 {os.major(device)}:{os.minor(device)} / {tmp_path} rw,nosuid shared:1 - nfs4 server:/home rw\n"
    (tmp_path / "mountinfo").write_text(line)
    monkeypatch.setattr(store, "MOUNTS", str(tmp_path / "mountinfo"))

    def refuse(steps: Steps, directory: str) -> str:
        # As overlayfs does of an upper directory there
        steps("mount an overlay")
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(store, "layers", refuse)
    report = everything.probe(str(tmp_path))
    by_name = {ability.name: ability for ability in report.abilities}
    assert by_name["store"].detail == "nfs4, over the network (nosuid)"
    assert by_name["overlay"].fix == advice.networked_store("nfs4")
    assert (report.isolation, report.snapshotter, report.level) == ("namespaces", "copy", "lesser")
    assert next(iter(report.fixes)) == by_name["overlay"].fix


def test_control_groups_of_version_2(tmp_path: Path) -> None:
    group = tmp_path / "tree/user.slice/app"
    group.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/user.slice/app\n")
    for directory in (tmp_path / "tree", group):
        (directory / "cgroup.controllers").write_text("cpu memory pids\n")
    body = partial(limits.control_groups, tree=str(tmp_path / "tree"), own=str(tmp_path / "own"))
    assert attempt(body).step == "open cgroup.subtree_control for writing"
    (group / "cgroup.subtree_control").touch()
    assert attempt(body).detail == "version 2: cpu memory pids"
    assert [path.name for path in group.iterdir() if path.is_dir()] == []


@pytest.mark.userns
def test_people_are_told_what_would_help(tmp_path: Path) -> None:
    command = [sys.executable, str(confined.__file__), "seccomp", sys.executable, "-m", "pybuild", "doctor"]
    environment = {**os.environ, "PYBUILD_STORE": str(tmp_path), "PYTHONPATH": str(SOURCE)}
    environment["PYBUILD_ISOLATION"] = "namespaces"
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stdout.startswith("Mode    none: RUN does not work here")
    told, _, fixes = ended.stdout.partition("What would help:\n")
    assert "cannot make a user namespace: Operation not permitted [EPERM]" in told
    assert "  user-namespace, isolation: a seccomp filter forbids it" in fixes
