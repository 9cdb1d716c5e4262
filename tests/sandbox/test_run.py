"""What a process sees and can do in a sandbox, and what is left of it."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from pybuild.engine.jobs import RunResult
from pybuild.errors import PybuildError
from pybuild.layer.errors import LayerError
from pybuild.sandbox.spec import DEFAULT_PATH, FileMount
from pybuild.tree.entry import DIR, FILE, WHITEOUT

from .conftest import Box

pytestmark = pytest.mark.userns

EXIT_WITH_EUID = bytes.fromhex("b86b0000000f0589c7b83c0000000f05")
"""x86_64: geteuid, exit."""


def tiny_program(code: bytes) -> bytes:
    """Return an ELF file that runs some machine code."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    base = 0x400000
    fields = [(2, 2), (62, 2), (1, 4), (base + 120, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (1, 2), (0, 2)]
    fields += [(0, 2), (0, 2)]
    segment = [(1, 4), (5, 4), (0, 8), (base, 8), (base, 8), (120 + len(code), 8), (120 + len(code), 8), (4096, 8)]
    return head + b"".join(value.to_bytes(size, "little") for value, size in fields + segment) + code


# Ends


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_code_is_reported(box: Box, code: int) -> None:
    assert box.sh(f"exit {code}").status == code


@pytest.mark.parametrize("name", ["TERM", "SEGV", "KILL", "PIPE", "XFSZ"])
def test_death_by_signal_is_128_and_its_number(box: Box, name: str) -> None:
    assert box.sh(f"kill -{name} $$").status == 128 + signal.Signals[f"SIG{name}"]


def test_missing_program_is_127_and_says_so(box: Box) -> None:
    ran = box.run("/no/such")
    assert (ran.status, ran.result.packed) == (127, None)
    assert "/no/such" in ran.err
    assert "No such file" in ran.result.end.message


@pytest.mark.parametrize("program", ["/etc/passwd", "/etc", "/tmp/text"])
def test_what_cannot_be_executed_is_126(box: Box, own_root: Path, program: str) -> None:
    (own_root / "tmp").mkdir()
    (own_root / "tmp/text").write_text("not a program")
    (own_root / "tmp/text").chmod(0o755)
    assert box.run(program, lowers=(os.fsencode(box.root), os.fsencode(own_root))).status == 126


def test_program_is_found_by_the_path_of_its_environment(box: Box) -> None:
    assert box.run("true").status == 0
    assert box.run("true", env=(("PATH", "/nowhere:/bin"),)).status == 0
    assert box.run("true", env=(("PATH", "/nowhere"),)).status == 127


def test_program_behind_a_magic_link_is_refused(box: Box) -> None:
    for name in ("/proc/self/exe", "/proc/1/exe", "/proc/self/fd/0"):
        assert box.run(name).status == 126


def test_both_streams_arrive_apart(box: Box) -> None:
    ran = box.sh("echo one; echo two >&2")
    assert (ran.out, ran.err) == ("one\n", "two\n")


def test_nothing_is_to_be_read_from_standard_input(box: Box) -> None:
    assert box.sh("cat | wc -c").out.strip() == "0"


def test_sandbox_without_layers_runs_nothing_but_starts(box: Box) -> None:
    assert box.run("/bin/true", lowers=()).status == 127


# World


def test_environment_is_what_the_spec_says_with_path_and_home(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBUILD_TEST_SECRET", "canary")
    lines = box.run("/bin/env", env=(("A", "1"), ("B", "x=y"), ("A", "2"))).out.splitlines()
    assert sorted(lines) == ["A=2", "B=x=y", "HOME=/root", f"PATH={DEFAULT_PATH}"]


def test_environment_may_hold_what_utf_8_cannot(box: Box) -> None:
    value = os.fsdecode(b"\xff\xfe")
    assert box.run("/bin/env", env=(("ODD", value),)).out.splitlines()[-1] == "ODD=\\xff\\xfe"


def test_secrets_of_the_caller_are_nowhere_in_proc(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBUILD_TEST_SECRET", "canary")
    ran = box.sh("cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' | grep canary")
    assert (ran.status, ran.out) == (1, "")


def test_working_directory(box: Box) -> None:
    assert box.sh("pwd", cwd="/srv").out == "/srv\n"
    assert box.sh("pwd", cwd="srv").out == "/srv\n"


def test_working_directory_that_is_missing_is_made(box: Box) -> None:
    ran = box.sh("pwd; stat -c %a:%u /missing /missing/below; touch here", cwd="/missing/below")
    assert ran.out == "/missing/below\n755:0\n755:0\n"


@pytest.mark.parametrize("cwd", ["/proc/1/root/etc/x", "/proc/self/cwd/x", "/proc/x"])
def test_no_working_directory_is_made_through_links_of_proc(box: Box, cwd: str) -> None:
    ran = box.sh("pwd", cwd=cwd)
    assert "cannot enter the working directory" in ran.result.end.problem


@pytest.mark.parametrize("cwd", ["/etc/passwd", "/etc/passwd/x", "/proc/self/fd/0", "/proc/self/cwd", "/proc/1/root"])
def test_working_directory_that_is_none_is_an_error(box: Box, cwd: str) -> None:
    ran = box.sh("pwd", cwd=cwd)
    assert "working directory" in ran.result.end.problem
    assert ran.out == ""


def test_descriptors_of_the_caller_are_not_inherited(box: Box) -> None:
    with open("/etc/passwd", "rb") as leaked:
        os.set_inheritable(leaked.fileno(), True)
        ran = box.sh("exec ls /proc/self/fd")
    # ls has the directory open that it lists
    assert ran.out.split() == ["0", "1", "2", "3"]


def test_first_process_is_opaque(box: Box) -> None:
    ran = box.sh(
        "for name in exe root cwd; do readlink /proc/1/$name && echo leaked; done;"
        "cat /proc/1/environ /proc/1/maps; for fd in 0 1 2 3 4 5 6; do cat /proc/1/fd/$fd; done;"
        "kill -9 1; kill 1; kill -INT 1; echo alive"
    )
    assert ran.status == 0
    assert ran.out == "alive\n"


def test_only_processes_of_the_sandbox_are_visible(box: Box) -> None:
    # The shell itself looks, so that nothing is being started or buried meanwhile
    assert box.sh("echo /proc/[0-9]*").out == "/proc/1 /proc/2\n"


def test_hostname_and_hosts_file(box: Box) -> None:
    ran = box.sh("hostname; cat /etc/hostname /etc/hosts", hostname="made", extra_hosts=("db:10.0.0.7", "six:fd00::1"))
    assert ran.out.splitlines()[:3] == ["made", "made", "127.0.0.1\tlocalhost made"]
    assert ran.out.splitlines()[-2:] == ["10.0.0.7\tdb", "fd00::1\tsix"]


def test_name_servers_are_those_of_the_host(box: Box) -> None:
    there = Path("/etc/resolv.conf")
    assert box.sh("cat /etc/resolv.conf").out == (there.read_text() if there.exists() else "")
    assert box.sh("cat /etc/resolv.conf", network="none").out == ""


def test_network_none_has_a_loopback_and_nothing_else(box: Box) -> None:
    ran = box.sh("ls /sys/class/net; ip -o addr show lo; ping -c1 -W1 127.0.0.1 >/dev/null && echo up", network="none")
    assert ran.out.split()[0] == "lo"
    assert "127.0.0.1/8" in ran.out
    assert ran.out.split().count("lo") < 4
    names = box.sh("tail -n +3 /proc/net/dev | cut -d: -f1", network="none").out.split()
    assert names == ["lo"]


@pytest.mark.parametrize(("network", "reached"), [("none", False), ("host", True)])
def test_services_of_the_host_are_only_reached_over_its_network(box: Box, network: str, reached: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        box.sh(f"timeout 1 nc 127.0.0.1 {port} </dev/null", network=network)
        try:
            server.accept()[0].close()
            connected = True
        except TimeoutError:
            connected = False
    assert connected == reached


def test_devices(box: Box) -> None:
    ran = box.sh(
        "echo x >/dev/null && head -c 3 /dev/zero | wc -c && head -c 3 /dev/urandom | wc -c;"
        "echo y >/dev/full || echo full; readlink /dev/fd; readlink /dev/ptmx; stat -c %a /dev/shm /tmp; ls /dev/pts"
    )
    assert ran.out.split() == ["3", "3", "full", "/proc/self/fd", "pts/ptmx", "1777", "1777", "ptmx"]


def test_size_of_shared_memory(box: Box) -> None:
    assert box.sh("df -k /dev/shm | tail -1").out.split()[1] == str(64 << 10)
    assert box.sh("df -k /dev/shm | tail -1", shm_size=8 << 20).out.split()[1] == str(8 << 10)


def test_host_and_kernel_files_are_hidden_or_read_only(box: Box) -> None:
    ran = box.sh(
        "for name in keys timer_list interrupts; do cat /proc/$name; done 2>/dev/null | wc -c;"
        "ls -A /sys/firmware /proc/acpi 2>/dev/null | grep -v : | wc -w;"
        "for name in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/uevent_helper /proc/bus/x /etc/hosts; do"
        "  echo x 2>/dev/null >$name && echo written $name; done; mkdir /sys/x 2>/dev/null && echo made; true"
    )
    assert ran.out.split() == ["0", "0"]


def test_masks_are_not_made_of_the_images_devices(box: Box, own_root: Path) -> None:
    canary = own_root.parent / "canary"
    canary.write_text("canary")
    (own_root / "dev").mkdir()
    (own_root / "dev/null").symlink_to(canary)
    ran = box.sh(
        "cat /proc/keys; stat -c %t:%T /dev/null; echo x >/dev/null",
        lowers=(os.fsencode(box.root), os.fsencode(own_root)),
    )
    assert ran.out == "1:3\n"
    assert canary.read_text() == "canary"


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_image_whose_system_directory_is_a_link_is_refused(box: Box, own_root: Path, name: str) -> None:
    (own_root / name).symlink_to("/tmp")
    ran = box.run("/bin/true", lowers=(os.fsencode(box.root), os.fsencode(own_root)))
    assert f"/{name} is not a directory" in ran.result.end.problem


def test_old_root_cannot_be_reached(box: Box) -> None:
    ran = box.sh(f"ls {box.place}; cd ..; cd ..; ls; cat /proc/mounts | grep -c {box.place}")
    assert "staging" not in ran.out
    assert ran.out.split()[-1] == "0"


# Rights


def test_capabilities_are_the_usual_fourteen(box: Box) -> None:
    status = dict(line.split(":\t") for line in box.run("/bin/grep", "Cap", "/proc/self/status").out.splitlines())
    assert {name: int(value, 16) for name, value in status.items()} == {
        "CapInh": 0,
        "CapPrm": 0xA80425FB,
        "CapEff": 0xA80425FB,
        "CapBnd": 0xA80425FB,
        "CapAmb": 0,
    }


def test_new_namespaces_and_mounts_are_refused(box: Box) -> None:
    for command in ("unshare -U true", "unshare -m true", "mount -t tmpfs none /tmp", "umount /proc", "mknod /d b 8 0"):
        ran = box.sh(command)
        assert ran.status != 0
        assert "permitted" in ran.err or "permission denied" in ran.err


def test_files_a_mount_hides_cannot_be_uncovered(box: Box) -> None:
    ran = box.sh("umount /proc/keys; rm -f /etc/hosts; mv /etc/hosts /x; cat /proc/keys")
    assert ran.out == ""


@pytest.mark.multiid
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code for x86_64")
def test_set_user_id_programs_keep_their_meaning(full_box: Box, own_root: Path) -> None:
    (own_root / "bin").mkdir()
    program = own_root / "bin/euid"
    program.write_bytes(tiny_program(EXIT_WITH_EUID))
    program.chmod(0o755)
    lowers = (os.fsencode(full_box.root), os.fsencode(own_root))
    assert full_box.run("/bin/euid", user="www", lowers=lowers).status == 33
    program.chmod(0o4755)
    assert full_box.run("/bin/euid", user="www", lowers=lowers).status == 0


def test_ulimits(box: Box) -> None:
    ran = box.sh("ulimit -n; ulimit -c; ulimit -Hn", ulimits=(("nofile", 100, 200),))
    assert ran.out.split() == ["100", "0", "200"]
    assert box.sh("ulimit -f", ulimits=(("fsize", 1024, -1),)).out.split() == ["2"]


def test_ulimit_beyond_what_the_user_may_have_is_an_error(box: Box) -> None:
    ran = box.run("/bin/true", ulimits=(("nofile", 2_000_000_000, 2_000_000_000),))
    assert "nofile" in ran.result.end.problem
    assert "unknown ulimit" in box.run("/bin/true", ulimits=(("wings", 1, 1),)).result.end.problem


def test_umask_is_the_usual_one(box: Box) -> None:
    assert box.sh("umask").out == "0022\n"


def test_heredoc_scripts_are_there_and_can_be_executed(box: Box) -> None:
    scripts = (("EOF", b"#!/bin/sh\necho made $0\n"), ("second file", b"data"))
    ran = box.sh("/dev/pipes/EOF; cat '/dev/pipes/second file'; echo x >/dev/pipes/EOF", scripts=scripts)
    assert ran.out == "made /dev/pipes/EOF\ndata"
    assert ran.status == 1
    assert box.sh("/dev/pipes/EOF", scripts=scripts).changes == {}


# Changes


def test_changes_become_the_layer_in_order(box: Box) -> None:
    ran = box.sh("mkdir /new && echo hi >/new/file && rm /etc/group && chmod 700 /srv")
    assert ran.changes == {"etc": DIR, "etc/group": WHITEOUT, "new": DIR, "new/file": FILE, "srv": DIR}
    assert list(ran.changes) == sorted(ran.changes)
    assert (ran.fs / "new/file").read_text() == "hi\n"


def test_nothing_but_the_changes_is_left_in_the_staging_directory(box: Box) -> None:
    ran = box.sh("echo hi >/file")
    assert [path.name for path in ran.fs.parent.iterdir()] == ["fs"]


def test_files_in_tmp_are_part_of_the_layer(box: Box) -> None:
    assert "tmp/x" in box.sh("touch /tmp/x").changes


def test_places_to_mount_upon_leave_no_trace(box: Box) -> None:
    assert box.run("/bin/true").changes == {}
    assert box.sh("cat /etc/hosts /etc/resolv.conf /etc/hostname").changes == {}


def test_only_system_directories_the_image_lacks_stay(box: Box, own_root: Path) -> None:
    ran = box.run("/bin/true")
    assert ran.result.packed is not None
    assert [(entry.path, entry.type, entry.mode) for entry in ran.result.packed.toc] == [
        (b"dev", DIR, 0o755),
        (b"proc", DIR, 0o755),
        (b"sys", DIR, 0o755),
    ]
    for name in ("proc", "sys", "dev"):
        (own_root / name).mkdir()
    again = box.run("/bin/true", lowers=(os.fsencode(box.root), os.fsencode(own_root)))
    assert again.result.packed is not None
    assert again.result.packed.toc == []


def test_work_beside_a_stub_keeps_the_directory_but_not_the_stub(box: Box) -> None:
    assert box.sh("echo x >/etc/new").changes == {"etc": DIR, "etc/new": FILE}
    assert box.sh("chmod 700 /etc").changes == {"etc": DIR}
    # Made and removed: only its times tell
    assert box.sh("touch /etc/new; rm /etc/new").changes == {"etc": DIR}


def test_files_of_the_image_below_a_mount_stay_as_they_are(box: Box, own_root: Path) -> None:
    (own_root / "etc").mkdir()
    (own_root / "etc/hosts").write_text("image")
    ran = box.sh("cat /etc/hosts", lowers=(os.fsencode(box.root), os.fsencode(own_root)))
    assert "localhost" in ran.out
    assert ran.changes == {}


@pytest.mark.parametrize(
    "target", ["/run/systemd/resolve/stub-resolv.conf", "../tmp/there", "/dev/null", "resolv.conf"]
)
def test_linked_resolv_conf_is_replaced_and_comes_back(box: Box, own_root: Path, target: str) -> None:
    (own_root / "etc").mkdir()
    (own_root / "etc/resolv.conf").symlink_to(target)
    ran = box.sh(
        "test -f /etc/resolv.conf -a ! -L /etc/resolv.conf && echo file; touch /made",
        lowers=(os.fsencode(box.root), os.fsencode(own_root)),
    )
    assert ran.out == "file\n"
    assert ran.changes == {"made": FILE}


def test_directories_are_made_for_a_mounted_file_and_go_again(box: Box) -> None:
    mounts = (FileMount("/run/one/two/secret", b"secret", 0o400),)
    ran = box.sh("cat /run/one/two/secret; stat -c %a /run/one/two/secret", mounts=mounts)
    assert ran.out.split() == ["secret400"]
    assert ran.changes == {}
    kept = box.sh("touch /run/one/mine", mounts=mounts)
    assert kept.changes == {"run": DIR, "run/one": DIR, "run/one/mine": FILE}


def test_mounted_file_below_a_linked_directory_stays_in_the_image(box: Box, own_root: Path) -> None:
    outside = own_root.parent / "outside"
    outside.mkdir()
    (own_root / "run").symlink_to(outside)
    (own_root / "var").mkdir()
    (own_root / "var/run").symlink_to("../tmp")
    lowers = (os.fsencode(box.root), os.fsencode(own_root))
    ran = box.sh("cat /tmp/secret", lowers=lowers, mounts=(FileMount("/var/run/secret", b"secret"),))
    assert (ran.out, ran.changes) == ("secret", {})
    box.run("/bin/true", lowers=lowers, mounts=(FileMount("/run/secret", b"secret"),))
    assert list(outside.iterdir()) == []


def test_cleaning_up_does_not_follow_links_of_the_run(box: Box, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "secret").touch()
    mounts = (FileMount("/run/one/secret", b""),)
    ran = box.sh(f"mv /run/one /moved; rm -rf /run; ln -s {canary} /run; ls -l /", mounts=mounts)
    assert ran.result.end.problem == ""
    assert (canary / "secret").exists()


def test_file_with_a_name_that_means_deletion_is_an_error(box: Box) -> None:
    with pytest.raises(LayerError, match=r"\.wh\.etc"):
        box.sh("touch /.wh.etc")


def test_mode_and_owner_of_the_root_directory_come_from_the_top_layer(box: Box, own_root: Path) -> None:
    own_root.chmod(0o711)
    ran = box.sh("stat -c %a /", lowers=(os.fsencode(box.root), os.fsencode(own_root)))
    assert ran.out == "711\n"


@pytest.mark.multiid
def test_owners_are_those_inside(full_box: Box) -> None:
    ran = full_box.sh("touch /f && chown 33:50 /f")
    assert ran.result.packed is not None
    assert [(entry.uid, entry.gid) for entry in ran.result.packed.toc if entry.path == b"f"] == [(33, 50)]


def test_result_of_one_run_is_the_ground_of_the_next(box: Box) -> None:
    first = box.sh("echo one >/one; rm /etc/group")
    second = box.sh("cat /one; ls /etc", lowers=(os.fsencode(box.root), os.fsencode(first.fs)))
    assert second.out.split() == ["one", "hostname", "hosts", "passwd", "resolv.conf"]


@pytest.mark.parametrize("count", [60, 150, 499])
def test_many_layers(box: Box, tmp_path: Path, count: int) -> None:
    lowers = [os.fsencode(box.root)]
    for number in range(count):
        layer = tmp_path / f"a-name-as-long-as-those-of-snapshots-are-{number:040}" / "fs"
        layer.mkdir(parents=True)
        (layer / f"file{number}").touch()
        (layer / "top").write_text(str(number))
        lowers.append(os.fsencode(layer))
    ran = box.sh("ls / | grep -c file; cat /top", lowers=tuple(lowers))
    assert ran.out.split() == [str(count), str(count - 1)]


# Ends of everything


def test_background_processes_end_with_the_run(box: Box) -> None:
    began = time.monotonic()
    # Known by a number of our own: other tests run at the same time
    number = 900000000 + os.getpid()
    ran = box.sh(f"setsid sleep {number} & setsid sh -c 'sleep {number}; true' & trap '' TERM; exit 3")
    assert ran.status == 3
    assert time.monotonic() - began < 5
    assert not _running(str(number))


def test_background_process_does_not_keep_the_output_open(box: Box) -> None:
    reader, writer = os.pipe()
    spec = box.spec("/bin/sh", "-c", "setsid sleep 987656 & echo done")
    tar = os.open(box.place, os.O_TMPFILE | os.O_RDWR)
    result = box.worker.call("run", [spec, box.worker.mode], [writer, writer, tar], result=RunResult)
    os.close(writer)
    os.close(tar)
    assert os.read(reader, 100) == b"done\n"
    assert os.read(reader, 100) == b""
    os.close(reader)
    assert result.end.status == 0


def test_cancel_lets_the_process_clean_up(box: Box) -> None:
    spec = box.spec("/bin/sh", "-c", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done")
    job, fds = box.submit(spec)
    _wait_for_output(fds[0], b"ready")
    job.cancel()
    ran = box.finish(spec, job, fds)
    assert ran.result.end.cancelled
    assert ran.result.packed is None
    assert ran.out == "ready\nbye\n"


def test_cancel_kills_what_does_not_listen(box: Box) -> None:
    number = 800000000 + os.getpid()
    spec = box.spec(
        "/bin/sh", "-c", f"trap '' TERM; setsid sleep {number} & echo ready; sleep {number}; sleep {number}", grace=0.3
    )
    job, fds = box.submit(spec)
    _wait_for_output(fds[0], b"ready")
    began = time.monotonic()
    job.cancel()
    ran = box.finish(spec, job, fds)
    assert 0.25 < time.monotonic() - began < 3
    assert ran.result.end.cancelled
    assert not _running(str(number))


def test_cancel_by_descriptor(box: Box) -> None:
    reader, writer = os.pipe()
    said, out = os.pipe()
    # Not before it runs: what is cancelled on its way has nothing to tell
    threading.Thread(target=lambda: os.read(said, 1) and os.write(writer, b"x")).start()
    fds = [out, *(os.open(box.place, os.O_TMPFILE | os.O_RDWR) for _ in range(2))]
    spec = box.spec("/bin/sh", "-c", "echo; exec sleep 987659")
    result = box.worker.call("run", [spec, box.worker.mode], fds, result=RunResult, cancel_fd=reader)
    assert result.end.cancelled
    for fd in (*fds, reader, writer, said):
        os.close(fd)


def test_output_that_cannot_be_passed_on_ends_the_run_before_that_is_told(box: Box) -> None:
    said, out = os.pipe()
    fds = [out, *(os.open(box.place, os.O_TMPFILE | os.O_RDWR) for _ in range(2))]
    spec = box.spec("/bin/sh", "-c", "echo; exec sleep 987658")
    never, unused = os.pipe()

    def fail() -> bool:
        raise ZeroDivisionError

    job = box.worker.submit("run", [spec, box.worker.mode], fds)
    with pytest.raises(ZeroDivisionError):
        job.result(RunResult, never, readers={said: fail})
    assert not _running("987658")
    for fd in (*fds, said, never, unused):
        os.close(fd)


def test_runs_side_by_side(box: Box) -> None:
    specs = [box.spec("/bin/sh", "-c", f"sleep 0.5; echo {number} >/out; exit {number}") for number in range(6)]
    began = time.monotonic()
    jobs = [box.submit(spec) for spec in specs]
    statuses = [box.finish(spec, job, fds).status for spec, (job, fds) in zip(specs, jobs, strict=True)]
    assert statuses == list(range(6))
    assert time.monotonic() - began < 2.5


def test_nothing_stays_mounted(box: Box) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    box.run("/bin/true")
    assert Path("/proc/self/mountinfo").read_text() == before
    worker = Path(f"/proc/{box.worker.pid}/mountinfo")
    if os.geteuid() == 0:
        assert str(box.place) not in worker.read_text()


def test_large_output_is_not_cut(box: Box) -> None:
    assert len(box.sh("yes | head -c 3000000").out) == 3_000_000


def test_large_script_and_environment_arrive(box: Box) -> None:
    content = b"#" + b"x" * 5_000_000 + b"\nthe end\n"
    ran = box.sh("tail -1 /dev/pipes/big; echo ${#LONG}", scripts=(("big", content),), env=(("LONG", "y" * 100_000),))
    assert ran.out.split("\n") == ["the end", "100000", ""]


def test_problem_of_the_sandbox_is_told(box: Box, tmp_path: Path) -> None:
    with pytest.raises(PybuildError, match="No such file"):
        box.run("/bin/true", lowers=(os.fsencode(tmp_path / "missing"),))


def test_lower_directory_that_cannot_be_used_is_told(box: Box, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = box.run("/bin/true", lowers=(os.fsencode(tmp_path / "file"), os.fsencode(box.root)))
    assert "cannot mount the layers" in ran.result.end.problem
    assert ran.status == -1


def _wait_for_output(fd: int, text: bytes) -> None:
    end = time.monotonic() + 10
    while text not in os.pread(fd, 1000, 0):
        assert time.monotonic() < end
        time.sleep(0.01)


def _running(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            state = (path.parent / "stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if any(word.startswith(mark.encode()) for word in words) and state != b"Z":
            found.append(str(path))
    return found
