"""What emulated root adds to single calls: microseconds a call, as root and as another user.

`python tests/benchmarks/emulated_calls.py [--calls N] [--in DIR]`, as any user that may make user namespaces. Caller
and supervisor take turns, so both are kept on one processor: on two, each call takes as long as waking the other one.
"""

import argparse
import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "cli"))

from pybuild.sandbox import syscalls
from pybuild.sandbox.emulate import install
from pybuild.sandbox.emulate.supervisor import Supervisor
from pybuild.sandbox.users import Identity

KINDS = (
    ("none", None, False),
    ("root", 0, False),
    ("user", 33, False),
    ("root, loose", 0, True),
    ("user, traced", 33, True),
)
"""Who calls: nobody emulated, root and a user from the start, and both where only users are asked about new files."""


def become_root() -> None:
    """Have one id, root's, in a user namespace."""
    uid, gid = os.getuid(), os.getgid()
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", name).write_text(text)
    syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE)


def mount_overlay(base: Path) -> Path:
    """Mount an overlay as a RUN's root is one; return where."""
    lower, upper, work, merged = (base / name for name in ("lower", "upper", "work", "merged"))
    for path in (lower, upper, work, merged):
        path.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
    syscalls.mount(b"overlay", os.fsencode(merged), b"overlay", 0, options.encode())
    return merged


def measure(place: Path, who: int | None, calls: int, *, loose: bool) -> dict[str, float]:
    """Return microseconds a call in a directory, by what is called; `who` calls, None for root without emulation.

    With the `loose` filter, another user is one that root has become.
    """
    reader, writer = os.pipe()
    supervisor = None if who is None else Supervisor(() if loose else None)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(place)
            if supervisor is not None:
                syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
                begins = 0 if loose else who or 0
                install.install_full(supervisor.handover.fileno(), Identity(begins, begins, (), "/"), watched=loose)
                if loose and who:
                    os.setresgid(who, who, who)
                    os.setresuid(who, who, who)
            for name, call in _calls(33 if supervisor else 0, not who, calls):
                begin = time.perf_counter()
                for number in range(calls):
                    call(number)
                os.write(writer, f"{name}={(time.perf_counter() - begin) / calls * 1e6}\n".encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    if supervisor is not None:
        supervisor.handover.close()
    with open(reader) as told:
        lines = told.read().splitlines()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the calls failed")
    if supervisor is not None:
        supervisor.end()
    return {name: float(value) for name, _, value in (line.partition("=") for line in lines)}


def _calls(owner: int, root: bool, calls: int) -> list[tuple[str, Callable[[int], object]]]:
    names = [f"{number:05}" for number in range(calls)]

    def create(number: int) -> None:
        os.close(os.open(names[number], os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def make_again(number: int) -> None:
        with suppress(FileExistsError):
            os.mkdir("again")

    create(0)
    os.unlink(names[0])
    os.mkdir("again")
    held = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    table: list[tuple[str, Callable[[int], object]]] = [
        ("create a file", create),
        ("mkdir", lambda number: os.mkdir(f"{names[number]}d")),
        ("mkdir of what is there", make_again),
        ("stat", lambda number: os.stat("/proc")),
        ("stat of its own file", lambda number: os.stat(names[0])),
        ("fstat of its own file", lambda number: os.fstat(held)),
        ("listxattr", lambda number: os.listxattr(names[0])),
        ("getuid", lambda number: os.getuid()),
    ]
    if root:
        table += [
            ("fchown to root", lambda number: os.fchown(held, 0, 0)),
            ("fchown to another", lambda number: os.fchown(held, owner, owner)),
            ("chown to root", lambda number: os.chown(names[1], 0, 0)),
            ("chown to another", lambda number: os.chown(names[0], owner, owner)),
            ("stat of another's file", lambda number: os.stat(names[0])),
        ]
    return table


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--in", dest="place", help="a directory of the file system to measure on")
    asked = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    become_root()
    base = Path(tempfile.mkdtemp(prefix="pbc-", dir=asked.place))
    install.build_programs()
    gc.disable()
    try:
        place = mount_overlay(base)
        found = []
        for name, who, loose in KINDS:
            (place / name).mkdir()
            (place / name).chmod(0o777)
            found.append(measure(place / name, who, asked.calls, loose=loose))
        syscalls.umount(os.fsencode(place), syscalls.MNT_DETACH)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    none, *others = found
    print(f"{'microseconds more':28}" + "".join(f"{name:>14}" for name, _, _ in KINDS[1:]))
    for name, least in none.items():
        print(f"{name:28}" + "".join(f"{some[name] - least:14.1f}" if name in some else "" for some in others))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
