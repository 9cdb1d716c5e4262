"""Root for a user with one id, seen from inside of RUNs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.sandbox.emulate import credentials as rules
from pybuild.sandbox.emulate.filter import ALWAYS, fake_filter, full_filter
from pybuild.sandbox.machine import MACHINES
from pybuild.tree.notes import link_note, read_link

from .conftest import Box, open_box
from .test_seccomp import ALLOW, ERRNO, verdict

NOTIFY = 0x7FC00000


@pytest.fixture
def one(plain_root: Path, tmp_path: Path) -> Iterator[Box]:
    """A box with one id."""
    yield from open_box("single", plain_root, tmp_path / "box")


# The model


def test_leaving_root_is_for_good_unless_capabilities_are_kept() -> None:
    root = rules.initial(0, 0, ())
    gone = rules.with_uids(root, rules.set_id(root.uids, 33, True))
    assert (gone.uids, gone.permitted, gone.effective) == ((33,) * 4, 0, 0)
    with pytest.raises(PermissionError):
        rules.set_id(gone.uids, 0, gone.may(rules.SETUID))
    kept = rules.with_uids(root._replace(keep_caps=True), (33,) * 4)
    assert kept.permitted
    assert not kept.effective
    assert rules.with_capabilities(kept, rules.SETGID, rules.SETGID).may(rules.SETGID)
    assert rules.after_exec(kept, None, None).permitted == 0
    assert rules.after_exec(gone, 0, None).may(rules.CHOWN)


def test_effective_id_comes_back() -> None:
    root = rules.initial(0, 0, ())
    away = rules.with_uids(root, rules.set_res(root.uids, rules.UNCHANGED, 33, rules.UNCHANGED, True))
    assert (away.uids, away.effective) == ((0, 33, 0, 33), 0)
    back = rules.with_uids(away, rules.set_re(away.uids, rules.UNCHANGED, 0, False))
    assert (back.uids[1], back.effective) == (0, root.effective)


@pytest.mark.parametrize("name", MACHINES)
def test_filter_asks_about_what_it_lists(name: str) -> None:
    machine = MACHINES[name]
    program = full_filter(machine)
    for call, number in machine.numbers.items():
        assert verdict(program, number, machine.audit) == (NOTIFY if call in ALWAYS else ALLOW), call
    assert verdict(program, machine.numbers["openat"], machine.audit, 0, 0, os.O_CREAT) == NOTIFY
    assert verdict(program, machine.numbers["openat"], machine.audit, 0, 0, os.O_DIRECTORY) == ALLOW
    assert verdict(program, machine.numbers["prctl"], machine.audit, 8) == NOTIFY
    assert verdict(program, 1, 0x40000003) == ALLOW


@pytest.mark.parametrize("name", MACHINES)
def test_fake_filter_lets_owners_and_devices_succeed(name: str) -> None:
    machine = MACHINES[name]
    program = fake_filter(machine)
    assert verdict(program, machine.numbers["fchownat"], machine.audit) == ERRNO
    for mode, answer in ((0o020644, ERRNO), (0o060644, ERRNO), (0o010644, ALLOW), (0o100644, ALLOW)):
        assert verdict(program, machine.numbers["mknodat"], machine.audit, 0, 0, mode) == answer


def test_links_carry_owners_as_capabilities() -> None:
    assert read_link(link_note(5, 7)) == (5, 7)
    assert read_link(bytes(20)) is None


# Inside


def owners(ran: object) -> dict[str, tuple[str, int, int, int]]:
    packed = ran.result.packed  # type: ignore[attr-defined]
    assert packed is not None, ran
    return {os.fsdecode(entry.path): (entry.type, entry.mode, entry.uid, entry.gid) for entry in packed.toc}


@pytest.mark.userns
def test_owners_and_devices_get_into_the_layer(one: Box) -> None:
    ran = one.sh(
        "set -e; cd /srv; touch f; chmod 6755 f; chown 33:50 f; mkdir d; chown :60 d; ln -s f l; chown -h 5:6 l;"
        "mkfifo p; chown 7:8 p; mknod dev c 1 3; mknod blk b 7 1; mv l l2; stat -c '%u:%g %a %F' f d l2 p dev",
        emulation="full",
    )
    assert ran.status == 0, ran.err
    found = owners(ran)
    assert found["srv/f"] == ("f", 0o755, 33, 50)
    assert found["srv/d"] == ("d", 0o755, 0, 60)
    assert found["srv/l2"][2:] == (5, 6)
    assert found["srv/p"][2:] == (7, 8)
    assert (found["srv/dev"][0], found["srv/blk"][0]) == ("c", "b")
    lines = ran.out.splitlines()
    assert lines[0].startswith("33:50 755")
    assert lines[2].startswith("5:6")
    assert "character special" in lines[4]


@pytest.mark.userns
def test_a_user_makes_files_of_its_own_and_cannot_be_root_again(one: Box) -> None:
    ran = one.sh(
        "cd /tmp; id -u; id -g; umask 027; echo x > f; mkdir d; ln -s f l; mkfifo p; chown 5 f 2>/dev/null || echo no;"
        "cat f; echo y >> f; chgrp 60 f && echo yes; (id -u); umask 777; echo z > closed; echo z > /dev/shm/z",
        emulation="full",
        user="www",
    )
    assert ran.out.split() == ["33", "33", "no", "x", "yes", "33"], ran.err
    found = owners(ran)
    assert found["tmp/f"] == ("f", 0o640, 33, 60)
    assert found["tmp/d"] == ("d", 0o750, 33, 33)
    assert found["tmp/closed"] == ("f", 0, 33, 33)
    assert ran.status == 0, ran.err
    assert found["tmp/l"][2:] == found["tmp/p"][2:] == (33, 33)


@pytest.mark.userns
def test_a_change_of_root_directory_is_followed(one: Box) -> None:
    ran = one.sh(
        "mkdir -p /tmp/r/bin /tmp/r/x && cp /bin/busybox /tmp/r/bin/ && chroot /tmp/r /bin/busybox sh -c "
        "'echo > /x/f; busybox chown 9:9 /x/f; cd /x; busybox chown 8 ../x'",
        emulation="full",
        env=(("PATH", "/bin"),),
    )
    assert ran.status == 0, ran.err
    found = owners(ran)
    assert found["tmp/r/x/f"][2:] == (9, 9)
    assert found["tmp/r/x"][2:] == (8, 0)


@pytest.mark.userns
def test_group_of_a_directory_goes_to_what_root_makes_in_it(one: Box) -> None:
    ran = one.sh("mkdir /srv/g; chown :50 /srv/g; chmod 2775 /srv/g; echo > /srv/g/f; mkdir /srv/g/d", emulation="full")
    found = owners(ran)
    assert found["srv/g/f"][3] == found["srv/g/d"][3] == 50


@pytest.mark.userns
def test_owner_of_a_mounted_directory_alone_is_a_change(one: Box) -> None:
    assert owners(one.sh("chown 5 /etc", emulation="full"))["etc"][2] == 5


@pytest.mark.userns
def test_errors_are_the_kernels(one: Box) -> None:
    ran = one.sh("chown 1 /missing; stat /missing; mkdir /etc; mkdir /a/b; chown 1 /proc/version", emulation="full")
    assert ran.err.count("No such file") == 3
    assert "File exists" in ran.err


@pytest.mark.userns
def test_fake_only_seems_to(one: Box) -> None:
    ran = one.sh("touch /srv/f && chown 33 /srv/f && mknod /srv/n c 1 3", emulation="fake", user="www")
    assert ran.status == 0, ran.err
    assert owners(ran)["srv/f"][2:] == (0, 0)
    assert "srv/n" not in owners(ran)


@pytest.mark.userns
def test_orphans_stay_who_they_were(one: Box) -> None:
    ran = one.sh(
        "su www -c '(sleep 0.3; touch /tmp/o; id -u > /tmp/who) &'; touch /tmp/r; sleep 1;cat /tmp/who; id -u",
        emulation="full",
    )
    assert ran.out.split() == ["33", "0"], ran.err
    found = owners(ran)
    assert (found["tmp/o"][2], found["tmp/r"][2]) == (33, 0)


FUZZ = r"""
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>
#include <sys/syscall.h>
#include <stdlib.h>
#include <unistd.h>
int main(void) {
    long calls[] = {CALLS};
    int count = sizeof calls / sizeof *calls;
    for (unsigned seed = 0; seed < 60; seed++) {
        if (fork() == 0) {
            alarm(5);
            srandom(seed);
            char *page = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            munmap(page + 4096, 4096);
            for (int i = 0; i < 4096; i++) page[i] = "/.ax\0"[random() % 5];
            for (int i = 0; i < 400; i++) {
                long a[6];
                for (int k = 0; k < 6; k++) {
                    long values[] = {0, -1, -100, 1, 3, random(), (long)page, (long)page + 4095, (long)page + 4000,
                        (long)page + 4096, (long)-1 << 12, 0x1000, 0x8000000000000000, 0x41, 0x2141, 0x20000};
                    a[k] = values[random() % 16];
                }
                syscall(calls[random() % count], a[0], a[1], a[2], a[3], a[4], a[5]);
            }
            _exit(0);
        }
        wait(0);
    }
    return write(1, "alive\n", 6) == 6 ? 0 : 1;
}
"""


@pytest.mark.userns
@pytest.mark.slow
def test_senseless_calls_neither_end_it_nor_hang_it(one: Box, tmp_path: Path) -> None:
    import shutil
    import subprocess

    from pybuild.sandbox.machine import this_machine

    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    numbers = this_machine().numbers
    calls = [number for name, number in numbers.items() if name in (*ALWAYS, "open", "openat", "prctl")]
    below = tmp_path / "fuzz"
    below.mkdir()
    source = tmp_path / "fuzz.c"
    source.write_text(FUZZ.replace("CALLS", ", ".join(map(str, calls))))
    built = subprocess.run(["gcc", "-static", "-O", "-w", "-o", below / "fuzz", source], check=False)
    if built.returncode:
        pytest.skip("no static C library")
    ran = one.sh(
        "/fuzz; touch /srv/after; chown 3:4 /srv/after; sleep 0; exit 0",
        lowers=(os.fsencode(one.root), os.fsencode(below)),
        emulation="full",
    )
    assert "alive" in ran.out, ran.err
    assert ran.status == 0
    assert owners(ran)["srv/after"][2:] == (3, 4)


def test_files_of_the_kernel_are_as_they_are(one: Box) -> None:
    """Some belong to nobody here, and may not even be looked into for notes."""
    ran = one.sh(
        "ls /proc /sys /dev > /dev/null && stat -c %a /proc/kmsg && ls -ln /proc > /dev/null", emulation="full"
    )
    assert (ran.status, ran.out, ran.err) == (0, "400\n", "")
