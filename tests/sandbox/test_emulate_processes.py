"""Emulated root and the stranger things that processes do: each is tried by a Python program inside of a RUN."""

import ctypes
import os
import re
import signal
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.sandbox.emulate.caller import AT_FDCWD, Caller
from pybuild.sandbox.emulate.credentials import initial
from pybuild.sandbox.emulate.files import OWNER_XATTR
from pybuild.sandbox.emulate.identity import Identities
from pybuild.sandbox.emulate.notify import Notification
from pybuild.sandbox.emulate.quick import LONG, quick_answers
from pybuild.sandbox.emulate.supervisor import Supervisor
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.machine import this_machine
from pybuild.tree.notes import link_note
from support import processes

from .conftest import Box, Ran, open_box
from .test_emulate import owners

pytestmark = pytest.mark.userns

PYTHON = "/bin/python3"


@pytest.fixture(scope="module")
def lowers(plain_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, ...]:
    """Layers with a Python: the host's /usr makes a root directory where /bin and /lib are links into it."""
    if not (os.path.realpath("/lib").startswith("/usr/") and os.access("/usr" + PYTHON, os.X_OK)):
        pytest.skip("there is no Python in a merged /usr")
    link = tmp_path_factory.mktemp("usr")
    (link / "usr").symlink_to(".")
    return b"/usr", os.fsencode(plain_root), os.fsencode(link)


@pytest.fixture
def one(plain_root: Path, tmp_path: Path) -> Iterator[Box]:
    """A box with one id."""
    yield from open_box("single", plain_root, tmp_path / "box")


PRELUDE = """\
import ctypes, os, random, resource, signal, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def ids(path, follow=True):
    found = os.stat(path, follow_symlinks=follow)
    return found.st_uid, found.st_gid
def make(path, uid=0, gid=0, mode=0o644):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode))
    os.chown(path, uid, gid)
    os.chmod(path, mode)
"""


def python(program: str) -> tuple[str, ...]:
    return PYTHON, "-I", "-S", "-c", PRELUDE + textwrap.dedent(program)


def run(one: Box, lowers: tuple[bytes, ...], program: str, **fields: object) -> Ran:
    ran = one.run(*python(program), lowers=lowers, emulation="full", cwd="/srv", **fields)
    assert ran.status == 0, ran.err or ran.result
    return ran


def test_threads_get_their_own_answers(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run(
        one,
        lowers,
        """
        wrong = []
        def work(number):
            for turn in range(40):
                path = f"{number}-{turn}"
                make(path, number, turn)
                if ids(path) != (number, turn) or os.getresuid() != (0, 0, 0):
                    wrong.append(path)
        threads = [threading.Thread(target=work, args=[number]) for number in range(1, 9)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(wrong)
        """,
    )
    assert ran.out == "[]\n"
    found = owners(ran)
    assert {found[f"srv/{number}-{turn}"][2:] == (number, turn) for number in range(1, 9) for turn in range(40)} == {
        True
    }


def test_memory_lent_by_vfork_is_not_taken_for_the_childs_own(one: Box, lowers: tuple[bytes, ...]) -> None:
    """The child uses its parent's memory until it executes something; what it executes has other words there."""
    ran = run(
        one,
        lowers,
        """
        if "AGAIN" not in os.environ:
            # All addresses alike in parent and child
            libc.personality(0x0040000)
            os.execve(sys.orig_argv[0], sys.orig_argv, {"AGAIN": "1"})
        make("mine", 5, 6)
        make("yours", 7, 8)
        look = "import os; print({(os.stat('yours').st_uid, os.stat('yours').st_gid) for _ in range(50)})"
        out = set()
        for turn in range(5):
            assert ids("mine") == (5, 6)
            out.add(subprocess.run(["/bin/python3", "-ISc", look], capture_output=True, text=True).stdout)
            try:
                os.posix_spawn("/missing", ["missing"], {})
            except FileNotFoundError:
                pass
            assert ids("yours") == (7, 8)
        print(out)
        """,
    )
    assert ran.out == "{'{(7, 8)}\\n'}\n"


def test_set_id_programs_become_who_is_noted(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run(
        one,
        lowers,
        """
        import shutil
        for name, uid, gid, mode in ("user", 40, 50, 0o4755), ("group", 40, 50, 0o2755), ("root", 0, 0, 0o4755):
            shutil.copy(os.path.realpath("/bin/python3"), name)
            os.chown(name, uid, gid)
            os.chmod(name, mode)
        with open("script", "w") as file:
            file.write("#!/bin/sh\\nid -u\\n")
        os.chown("script", 40, 40)
        os.chmod("script", 0o6755)
        who = "import os; print(os.getresuid(), os.getresgid(), flush=True); "
        def start(name, more=""):
            subprocess.run([f"/srv/{name}", "-I", "-S", "-c", who + more], check=True, env={"PYTHONHOME": "/"})
        start("user", "os.mkdir('/tmp/by-user')")
        start("group")
        print(subprocess.run(["/srv/script"], capture_output=True, text=True).stdout.strip(), flush=True)
        os.setgroups([])
        os.setresgid(33, 33, 33)
        os.setresuid(33, 33, 33)
        try:
            os.chown("user", 33, 33)
        except PermissionError:
            print("refused", flush=True)
        start("user")
        start("root", "os.chown('/srv/group', 1, 2)")
        # By a link, and from where it is
        os.symlink("/srv/user", "/tmp/link")
        subprocess.run(["/tmp/link", "-I", "-S", "-c", who], check=True, env={"PYTHONHOME": "/"})
        subprocess.run(["./user", "-I", "-S", "-c", who], check=True, env={"PYTHONHOME": "/"})
        """,
    )
    assert ran.out.splitlines() == [
        "(0, 40, 40) (0, 0, 0)",
        "(0, 0, 0) (0, 50, 50)",
        "0",
        "refused",
        "(33, 40, 40) (33, 33, 33)",
        "(33, 0, 0) (33, 33, 33)",
        *["(33, 40, 40) (33, 33, 33)"] * 2,
    ]
    found = owners(ran)
    assert found["tmp/by-user"][2:] == (40, 0)
    assert found["srv/group"][1:] == (0o755, 1, 2)


@pytest.mark.parametrize("set_gid", [(), None])
def test_group_of_a_directory_is_that_of_what_is_made_in_it_and_stays(
    set_gid: tuple[bytes, ...] | None, one: Box, lowers: tuple[bytes, ...]
) -> None:
    ran = run(
        one,
        lowers,
        """
        os.mkdir("g")
        make("g/before")
        os.chown("g", 7, 50)
        make("g/between")
        os.chmod("g", 0o2775)
        def new(path):
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            by_fd = os.fstat(fd)
            assert (by_fd.st_uid, by_fd.st_gid) == ids(path) == (0, 50), (path, ids(path))
            return fd
        new("g/file")
        os.mkdir("g/sub///")
        new("g/sub/file")
        os.symlink("file", "g/link")
        os.mkfifo("g/fifo")
        at = os.open("g", os.O_RDONLY)
        os.close(os.open("at", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=at))
        unnamed = os.open("g", os.O_TMPFILE | os.O_RDWR, 0o644)
        follow = 0x400
        assert libc.linkat(-100, b"/proc/self/fd/%d" % unnamed, -100, b"g/unnamed", follow) == 0
        # What is moved keeps its group, either way, and so does what is linked
        held = new("g/moved")
        os.rename("g/moved", "moved")
        os.link("g/file", "linked")
        make("inside")
        os.rename("inside", "g/inside")
        make("own")
        os.link("own", "g/own")
        new("g/given")
        os.chown("g/given", 0, 0)
        fd = new("g/given-by-fd")
        os.fchown(fd, 0, 0)
        now = os.fstat(held)
        print((now.st_uid, now.st_gid), ids("moved"), ids("g/link", False), ids("g/fifo"))
        print(oct(os.stat("g/sub").st_mode))
        # A directory that gives nothing on any more
        os.chmod("g", 0o775)
        make("g/after")
        """,
        set_gid=set_gid,
    )
    assert ran.out == "(0, 50) (0, 50) (0, 50) (0, 50)\n0o42755\n"
    found = {path.removeprefix("srv/"): entry[2:] for path, entry in owners(ran).items()}
    assert found["g"] == (7, 50)
    inherited = {path for path, owner in found.items() if owner == (0, 50)}
    assert inherited == {*("g/file", "g/sub", "g/sub/file", "g/link", "g/fifo", "g/at", "g/unnamed", "moved", "linked")}
    for path in "g/before", "g/between", "g/inside", "g/own", "g/given", "g/given-by-fd", "g/after":
        assert found[path] == (0, 0), path


def test_processes_of_several_users_take_turns(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run(
        one,
        lowers,
        """
        os.chmod(".", 0o777)
        ends = []
        def work(user, mine, next):
            if user:
                os.setresuid(user, user, user)
            for turn in range(40):
                os.read(mine, 1)
                with open(f"{user}-{turn}", "x"):
                    pass
                os.mkdir(f"{user}-{turn}d")
                assert ids(f"{user}-{turn}") == (user, 0)
                os.write(next, b"x")
        pipes = [os.pipe() for _ in range(3)]
        for number, user in enumerate((0, 33, 40)):
            if os.fork() == 0:
                work(user, pipes[number][0], pipes[(number + 1) % 3][1])
                os._exit(0)
        os.write(pipes[0][1], b"x")
        print([os.wait()[1] for _ in range(3)])
        """,
    )
    assert ran.out == "[0, 0, 0]\n"
    found = owners(ran)
    for user in 0, 33, 40:
        assert {found[f"srv/{user}-{turn}{more}"][2] for turn in range(40) for more in ("", "d")} == {user}


def test_thread_that_becomes_another_user_takes_its_process_along(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run(
        one,
        lowers,
        """
        os.chmod(".", 0o777)
        stop, made = threading.Event(), []
        def work(number):
            turn = 0
            while not stop.is_set() or turn < 5:
                who = os.geteuid()
                path = f"{number}-{turn}"
                with open(path, "x"):
                    pass
                made.append((who, ids(path)[0], os.geteuid()))
                turn += 1
        threads = [threading.Thread(target=work, args=[number]) for number in range(3)]
        for thread in threads: thread.start()
        time.sleep(0.05)
        leaving = threading.Thread(target=os.setresuid, args=[33, 33, 33])
        leaving.start()
        leaving.join()
        with open("last", "x"):
            pass
        stop.set()
        for thread in threads: thread.join()
        wrong = [one for one in made if one[0] == one[2] != one[1]]
        print(wrong, {one[0] for one in made} >= {0}, os.getresuid(), ids("last"))
        """,
    )
    assert ran.out == "[] True (33, 33, 33) (33, 0)\n"


def test_capabilities_go_with_root(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run(
        one,
        lowers,
        """
        import struct
        def held(version=0x20080522):
            header = ctypes.create_string_buffer(struct.pack("Ii", version, 0), 8)
            data = ctypes.create_string_buffer(b"z" * 24, 24)
            assert libc.capget(header, data) == 0
            return struct.unpack("6I", data.raw)
        root = held()
        assert root[0] == root[1] != 0
        os.setresuid(-1, 33, 0)
        print(held() == (0, root[1], 0, 0, 0, 0))
        os.setresuid(33, 33, 33)
        print(held(), held(0x19980330)[:3])
        print(libc.capget(ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0), 8), 8), ctypes.get_errno())
        """,
    )
    assert ran.out == "True\n(0, 0, 0, 0, 0, 0) (0, 0, 0)\n-1 14\n"


def test_traced_process_becomes_another_user(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run(
        one,
        lowers,
        """
        os.chmod(".", 0o777)
        child = os.fork()
        if child == 0:
            libc.ptrace(0, 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            make("as-root", 9, 9)
            os.setresuid(33, 33, 33)
            with open("as-user", "x"):
                pass
            os.mkdir("dir-as-user")
            os._exit(7)
        calls = 0
        while True:
            _, status = os.waitpid(child, 0)
            if os.WIFEXITED(status):
                break
            # From call to call, as strace does
            calls += 1
            libc.ptrace(24, child, 0, 0)
        print(os.WEXITSTATUS(status), calls > 10)
        """,
        # Where it is to be traced itself it would be refused
        set_gid=None,
    )
    assert ran.out == "7 True\n"
    found = owners(ran)
    assert found["srv/as-root"][2:] == (9, 9)
    assert found["srv/as-user"][2:] == found["srv/dir-as-user"][2:] == (33, 0)


def test_child_of_vfork_becomes_another_user_alone(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run(
        one,
        lowers,
        """
        os.chmod(".", 0o777)
        os.setresuid(33, 0, 0)
        for turn in range(5):
            program = f"import os; open('child{turn}', 'x'); os.mkdir('child{turn}d')"
            child = os.posix_spawn("/bin/python3", ["python3", "-ISc", program], {}, resetids=True)
            assert os.waitpid(child, 0)[1] == 0
            with open(f"parent{turn}", "x"):
                pass
        print(os.getresuid())
        """,
    )
    assert ran.out == "(33, 0, 0)\n"
    found = owners(ran)
    assert {found[f"srv/child{turn}{more}"][2] for turn in range(5) for more in ("", "d")} == {33}
    assert {found[f"srv/parent{turn}"][2] for turn in range(5)} == {0}


def test_supervisor_that_was_killed_at_the_very_end_is_noticed() -> None:
    supervisor = Supervisor()
    os.kill(supervisor._pid, signal.SIGKILL)
    with pytest.raises(SandboxError, match="the process that emulates root was ended by SIGKILL"):
        supervisor.end()
    Supervisor().end()


def test_what_another_user_makes_by_a_link_or_within_bounds_is_its_own(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run(
        one,
        lowers,
        """
        import struct
        os.chmod(".", 0o777)
        os.mkdir("d")
        os.mkdir("g")
        os.chown("g", 0, 50)
        os.chmod("g", 0o2777)
        os.chmod("d", 0o777)
        os.setresuid(33, 33, 33)
        def link(name, target):
            os.symlink(target, name)
            return name
        def write(path, flags=os.O_CREAT | os.O_WRONLY):
            try:
                os.close(os.open(path, flags, 0o644))
            except OSError as error:
                return error.strerror
            return ids(path)
        print(write(link("one", "made")), write(link("two", link("three", "/srv/d/made"))))
        print(write(link("d/up", "../g/made")), write("one"), write(link("loop", "loop")), write(link("no", "no-d/x")))
        print(write(link("new", "d/new"), os.O_CREAT | os.O_EXCL | os.O_WRONLY), write(link("dir", "d")))
        def openat2(path, resolve):
            how = struct.pack("QQQ", os.O_CREAT | os.O_WRONLY, 0o644, resolve)
            at = os.open("d", os.O_PATH)
            return libc.syscall(437, at, path, how, len(how)) >= 0
        beneath, in_root = 8, 16
        print([openat2(path, beneath) for path in (b"../out", b"/srv/out", b"in")], openat2(b"/../rooted", in_root))
        """,
    )
    assert ran.out.splitlines() == [
        "(33, 0) (33, 0)",
        "(33, 50) (33, 0) Too many levels of symbolic links No such file or directory",
        "File exists Is a directory",
        "[False, False, True] True",
    ]
    found = owners(ran)
    for path in "srv/made", "srv/d/made", "srv/d/in", "srv/d/rooted":
        assert found[path][2:] == (33, 0), path
    assert found["srv/g/made"][2:] == (33, 50)
    assert not {"srv/out", "srv/rooted", "rooted", "srv/d/new"} & found.keys()


def test_notes_are_not_copied_with_attributes(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run(
        one,
        lowers,
        """
        import shutil
        os.chmod(".", 0o777)
        make("noted", 40, 41)
        os.setxattr("noted", "user.more", b"x" * 10)
        make("plain")
        os.setxattr("plain", "user.more", b"x" * 10)
        os.mkdir("dir")
        os.chown("dir", 5, 5)
        os.symlink("noted", "link")
        os.chown("link", 6, 6, follow_symlinks=False)
        for path in "noted", "plain", "dir", "link", "/srv/noted":
            fd = os.open(path, os.O_RDONLY)
            print(os.listxattr(path), os.listxattr(path, follow_symlinks=False), os.listxattr(fd))
        room = ctypes.create_string_buffer(b"z" * 20, 20)
        libc.listxattr.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
        for size in 0, 9, 10, 20:
            ctypes.set_errno(0)
            print(libc.listxattr(b"noted", room if size else None, size), ctypes.get_errno(), room.raw[:12])
        # Below the address space, and nowhere at all
        print(libc.listxattr(b"noted", 1, 20), ctypes.get_errno(), libc.listxattr(b"missing", None, 0), flush=True)
        shutil.copy2("noted", "copy")
        os.setresuid(33, 33, 33)
        shutil.copy2("noted", "mine")
        """,
    )
    more, none = "['user.more']", "[]"
    assert ran.out.splitlines() == [
        f"{more} {more} {more}",
        f"{more} {more} {more}",
        f"{none} {none} {none}",
        f"{more} {none} {more}",
        f"{more} {more} {more}",
        "10 0 b'zzzzzzzzzzzz'",
        "-1 34 b'zzzzzzzzzzzz'",
        "10 0 b'user.more\\x00zz'",
        "10 0 b'user.more\\x00zz'",
        "-1 14 -1",
    ]
    found = owners(ran)
    assert found["srv/copy"][2:] == (0, 0)
    assert found["srv/mine"][2:] == (33, 0)


def test_notes_are_neither_written_nor_removed_by_name(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run(
        one,
        lowers,
        """
        import errno
        os.chmod(".", 0o777)
        make("noted", 40, 41)
        make("plain")
        os.symlink("noted", "link")
        os.chown("link", 6, 6, follow_symlinks=False)
        forged = bytes.fromhex("{forged}")
        capability = bytes.fromhex("01000002002000000000000000000000" + "00000000")
        def tried(call, *args, **how):
            try:
                call(*args, **how)
                return "done"
            except OSError as error:
                return errno.errorcode[error.errno]
        fd = os.open("noted", os.O_RDONLY)
        for file in "noted", "plain", fd:
            for name in "user.pybuild.owner", "user.pybuild.node", "user.pybuild.new":
                print(tried(os.setxattr, file, name, b"7:7"), tried(os.removexattr, file, name))
        print(tried(os.setxattr, "link", "security.capability", forged, follow_symlinks=False))
        print(tried(os.removexattr, "link", "security.capability", follow_symlinks=False))
        print("others")
        for file in "noted", "link", fd:
            print(tried(os.setxattr, file, "user.more", b"x" * 10), tried(os.setxattr, file, "user.more", b"", 1),
                  tried(os.removexattr, file, "user.more"), tried(os.removexattr, file, "user.more"))
        print(tried(os.setxattr, "missing", "user.more", b""), tried(os.setxattr, "noted", "u" * 256, b""),
              tried(os.setxattr, "noted", "user.more", b"", 4), tried(os.setxattr, "noted", "strange.more", b""),
              tried(os.setxattr, 99, "user.more", b""), tried(os.setxattr, "noted", "user.more", b"x" * 65537))
        at = f"/proc/self/fd/{os.open('.', os.O_RDONLY)}/noted"
        print(tried(os.setxattr, at, "user.more", b""), os.listxattr(at), tried(os.removexattr, at, "user.more"),
              tried(os.setxattr, at, "user.pybuild.owner", b"7:7"), tried(os.setxattr, at + "x", "user.more", b""))
        print(tried(os.setxattr, "plain", "security.capability", capability))
        os.setresuid(33, 33, 33)
        print(tried(os.setxattr, "plain", "security.capability", capability),
              tried(os.removexattr, "plain", "security.capability"), tried(os.setxattr, "noted", "user.mine", b"1"))
        """.replace("{forged}", link_note(9, 9).hex()),
    )
    own, others = ran.out.split("others\n")
    assert own.splitlines() == ["EPERM ENODATA"] * 9 + ["EPERM", "ENODATA"]
    assert others.splitlines() == [
        *["done EEXIST done ENODATA"] * 3,
        "ENOENT ERANGE EINVAL ENOTSUP EBADF E2BIG",
        "done ['user.more'] done EPERM ENOENT",
        "done",
        "EPERM EPERM done",
    ]
    found = owners(ran)
    assert [found[f"srv/{name}"][2:] for name in ("noted", "plain", "link")] == [(40, 41), (0, 0), (6, 6)]


def test_name_of_an_attribute_that_changes_meanwhile_forges_nothing(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run(
        one,
        lowers,
        """
        make("f")
        names = [b"user.pybuild.owner", b"user.harmless.name"]
        name = ctypes.create_string_buffer(names[1], 32)
        def flip():
            while not done:
                for text in names:
                    ctypes.memmove(name, text, len(text))
        done = False
        racer = threading.Thread(target=flip)
        racer.start()
        denied = 0
        for _ in range(3000):
            denied += libc.setxattr(b"f", name, b"7:7", ctypes.c_size_t(3), 0) != 0
        done = True
        racer.join()
        print(denied > 0)
        """,
    )
    assert owners(ran)["srv/f"][2:] == (0, 0)


def test_access_is_told_to_other_users_by_the_mode(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run(
        one,
        lowers,
        """
        make("mine", 33, 0, 0o640)
        make("groups", 0, 50, 0o060)
        make("roots", 0, 0, 0o604)
        make("closed", 33, 33, 0)
        os.symlink("mine", "link")
        os.chmod("/root", 0o700)
        def told(**how):
            for path in "mine", "groups", "roots", "closed", "link", ".", "/root", "/dev/null":
                may = [os.access(path, wanted, **how) for wanted in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)]
                print(path, "".join(letter if yes else "-" for letter, yes in zip("frwx", may)))
            print(os.access("missing", os.R_OK, **how), os.access("mine", os.R_OK | os.W_OK, **how),
                  os.access("roots", os.R_OK | os.W_OK, **how))
        told()
        os.setgroups([50])
        os.setresgid(33, 33, 33)
        print("effective")
        os.setresuid(0, 33, 0)
        told(effective_ids=True)
        print("real")
        told()
        print("gone")
        os.setresuid(33, 33, 33)
        told()
        at = os.open(".", os.O_RDONLY)
        print(os.access("roots", os.W_OK, dir_fd=at), os.access("mine", os.W_OK, dir_fd=at))
        """,
    )
    root, effective, real, gone = re.split(r"effective\n|real\n|gone\n", ran.out)
    assert root.split("\n")[0] == "mine frw-"
    assert root == real
    other = ["mine frw-", "groups frw-", "roots fr--", "closed f---", "link frw-", ". fr-x", "/root f---"]
    assert effective.splitlines() == [*other, "/dev/null frw-", "False True False"]
    assert gone == effective + "False True\n"


def test_root_directories_are_each_processes_own(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run(
        one,
        lowers,
        """
        os.makedirs("/tmp/r/x/deep")
        os.mkdir("/x")
        for place in "/x", "/tmp/r/x":
            make(place + "/f")
        os.symlink("/x/f", "/tmp/r/link")
        outside = os.open("/x", os.O_RDONLY)
        inside, told = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.chroot("/tmp/r")
            os.chdir("/x/deep")
            for turn in range(20):
                os.chown("/link", 10, turn)
                os.chown("../../../../x/deep", 11, turn)
                assert ids("/x/f") == (10, turn)
                os.write(told[1], b"x")
                os.read(inside[0], 1)
            # What was open before leads out, as ever
            os.chown("f", 12, 12, dir_fd=outside)
            os._exit(0)
        for turn in range(20):
            os.read(told[0], 1)
            os.chown("/x/f", 20, turn)
            assert ids("/tmp/r/x/f") == (10, turn)
            os.write(inside[1], b"x")
        print(os.waitpid(child, 0)[1], ids("/x/f"), ids("/tmp/r/x/deep"))
        """,
    )
    assert ran.out == "0 (12, 12) (11, 19)\n"


def test_cancelled_while_calls_are_being_answered(one: Box, lowers: tuple[bytes, ...]) -> None:
    program = """
        make("f")
        os.mkfifo("ready")
        for number in range(4):
            if os.fork() == 0:
                while True:
                    os.chown("f", number, random.randrange(99))
        print("going", flush=True)
        signal.pause()
        """
    spec = one.spec(*python(program), lowers=lowers, emulation="full", cwd="/srv", grace=0.2)
    job, fds = one.submit(spec)
    wait_for(lambda: os.pread(fds[0], 5, 0) == b"going")
    begin = time.monotonic()
    job.cancel()
    ran = one.finish(spec, job, fds)
    assert ran.result.end.cancelled
    assert ran.result.packed is None
    assert time.monotonic() - begin < 5
    assert not processes.find(PYTHON, root=one.worker.pid)


def wait_for(true: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


def test_nothing_comes_of_a_run_whose_supervisor_was_killed(one: Box, lowers: tuple[bytes, ...]) -> None:
    program = """
        make("f", 5, 5)
        print("going", flush=True)
        while True:
            try:
                os.chown("f", 6, 6)
            except OSError as error:
                print(error.strerror, flush=True)
                break
        # As if nothing had happened
        os._exit(0)
        """
    spec = one.spec(*python(program), lowers=lowers, emulation="full", cwd="/srv")
    job, fds = one.submit(spec)
    wait_for(lambda: os.pread(fds[0], 5, 0) == b"going")
    os.kill(supervisor_of(one.worker.pid), signal.SIGKILL)
    with pytest.raises(SandboxError, match="the process that emulates root was ended by SIGKILL"):
        job.result(object)
    assert os.pread(fds[0], 100, 0).decode() == "going\nFunction not implemented\n"
    for fd in fds:
        os.close(fd)


def supervisor_of(worker: int) -> int:
    """Return the one process below a job's that is not in a sandbox."""
    table = processes.table()
    jobs = {process.pid for process in table if process.parent == worker}
    found = [
        process.pid for process in table if process.parent in jobs and len(numbers(process.pid)) == len(numbers(worker))
    ]
    assert len(found) == 1, found
    return found[0]


def numbers(pid: int) -> list[str]:
    """Return the numbers a process has, one for each namespace it is in."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return line.split()[1:]
    return []


class _Nobody:
    """In the place of a listener: whoever asks still waits."""

    def check(self, asked: Notification) -> None:
        pass


def test_number_used_again_leads_to_its_new_owner(tmp_path: Path) -> None:
    """A number cannot be had again at will: the place of a process that is gone is put under that of another one."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    os.setxattr(tmp_path / "old/f", OWNER_XATTR, b"1:1")
    pid = os.fork()
    if pid == 0:
        # To change the working directory is not for the tests' own process
        status = 1
        try:
            status = _meet_again(tmp_path)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _meet_again(base: Path) -> int:
    def sleeper(name: str) -> int:
        pid = os.fork()
        if pid == 0:
            os.chdir(base / name)
            os.write(ready[1], b"x")
            signal.pause()
        os.read(ready[0], 1)
        return pid

    ready = os.pipe()
    old, new = sleeper("old"), sleeper("new")
    try:
        caller = Caller(_Nobody(), Identities(initial(0, 0, ())))  # type: ignore[arg-type]
        # Only root can change it, and may not want to
        caller._away = False
        caller.turn_to(_asked(old))
        caller.enter()
        assert caller.noted(b"cwd/f")
        os.kill(old, signal.SIGKILL)
        os.waitpid(old, 0)
        caller._places[new] = caller._places.pop(old)
        caller.here = new
        caller.turn_to(_asked(new))
        # Neither of what was the old one's, nor of nothing at all
        assert quick_answers(caller)["fchown"](_asked(new, 9, 5, 5)) == LONG
        assert not caller.noted(b"cwd/f")
        fd = caller.open(AT_FDCWD, b"f", os.O_PATH)
        assert os.stat(f"/proc/self/fd/{fd}").st_ino == (base / "new/f").stat().st_ino
        return 0
    finally:
        os.kill(new, signal.SIGKILL)
        os.waitpid(new, 0)


def test_open_files_of_a_new_process_are_looked_at_from_elsewhere(tmp_path: Path) -> None:
    for name in ("plain", "noted"):
        (tmp_path / name).write_text(name)
    os.setxattr(tmp_path / "noted", OWNER_XATTR, b"1:1")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = _glance(tmp_path)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _glance(base: Path) -> int:
    plain, noted = (os.open(base / name, os.O_RDONLY) for name in ("plain", "noted"))
    words = ctypes.create_string_buffer(b"\0x\0")
    ready = os.pipe()
    new = os.fork()
    if new == 0:
        os.write(ready[1], b"x")
        signal.pause()
    os.read(ready[0], 1)
    try:
        caller = Caller(_Nobody(), Identities(initial(0, 0, ())))  # type: ignore[arg-type]
        caller._away = False
        caller.turn_to(_asked(os.getpid()))
        caller.enter()
        short = quick_answers(caller)
        empty = ctypes.addressof(words)
        for fd, answer in ((plain, None), (noted, LONG), (999, LONG)):
            assert short["fstat"](_asked(new, fd)) == answer
            assert short["newfstatat"](_asked(new, fd, empty, 0, 0x1000)) == answer
        # With a path it is about another file, and without the flag not about this one
        assert short["newfstatat"](_asked(new, plain, empty + 1, 0, 0x1000)) == LONG
        assert short["newfstatat"](_asked(new, plain, empty, 0, 0)) == LONG
        assert caller.here == os.getpid()
        return 0
    finally:
        os.kill(new, signal.SIGKILL)
        os.waitpid(new, 0)


def _asked(pid: int, *args: int) -> Notification:
    return Notification(0, pid, 0, 0, 0, 0, *[*args, *[0] * 6][:6])


FUZZ = """
    CALLS = {calls}
    page = libc.mmap
    page.restype = ctypes.c_long
    page.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    start = page(None, 3 * 4096, 3, 0x22, -1, 0)
    libc.munmap(ctypes.c_void_p(start + 8192), 4096)
    words = (ctypes.c_char * 8192).from_address(start)
    end = start + 8192
    PATHS = [
        b"/proc/self/fd/1", b"/dev/stdin", b"/proc/thread-self/fd/0", b"/proc/1/root/etc", b"/proc/1/exe",
        b"/proc/self/exe", b"/proc/self/root/..", b"/proc/self/cwd/../../..", b"/proc/self/task/1/fd",
        b"../../../../../..{outside}", b"{outside}", b"swap", b"swap/f", b"fifo", b"noted", b"noted/", b"loop",
        b"x" * 300, b"a/" * 2040, b"//", b".", b"..", b"",
    ]
    NUMBERS = [
        0, 1, 2, 3, -1, -2, -100, 8, 33, 0x41, 0x42, 0x241, 0x1000, 0x1100, 0x2000, 0x410000, 0x410002, 65536, 65537,
        0o4755, 0o20666, 0o60000, 0o10644, 0x7fff0001,
        1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 4096,
    ]
    def hostile(chance):
        kind = chance.randrange(10)
        if kind < 4:
            return chance.choice(NUMBERS)
        if kind < 7:
            text = chance.choice(PATHS) + b"\\0"
            at = chance.choice([0, 100, 4096 - len(text) // 2, 8192 - len(text)]) % 8192
            text = text[:8192 - at]
            words[at:at + len(text)] = text
            return start + at
        # At the edge: without an end, beyond it, across pages
        return chance.choice([start, end - 1, end - 100, end, end + 4096, start + 4095, 1, 4096, -4096])
    def flip(stop):
        turn = 0
        while not stop.is_set():
            turn += 1
            words[0:16] = b"noted\\0swap/f\\0\\0\\0\\0" if turn & 1 else b"/etc/passwd" + b"x" * 5
            try:
                os.unlink("swap")
                os.symlink(PATHS[turn % len(PATHS)][:200] or b"d", b"swap")
            except OSError:
                pass
    def attack(seed):
        chance = random.Random(seed)
        stop = threading.Event()
        racers = [threading.Thread(target=flip, args=[stop], daemon=True) for _ in range(seed % 2)]
        for racer in racers: racer.start()
        for _ in range(200):
            call = chance.choice(CALLS)
            args = [ctypes.c_ulong(hostile(chance) & (1 << 64) - 1) for _ in range(6)]
            libc.syscall(ctypes.c_long(call), *args)
        stop.set()
    make("noted", 3, 3)
    os.mkdir("d")
    os.mkfifo("fifo")
    os.symlink("loop", "loop")
    libc.syscall.restype = ctypes.c_long
    hung = 0
    for seed in range({first}, {last}):
        child = os.fork()
        if child == 0:
            try:
                # What waits for a fifo's other end goes on; what waits for an answer that never comes does not
                signal.signal(signal.SIGALRM, lambda *_: None)
                signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
                attack(seed)
            finally:
                os._exit(0)
        deadline = time.monotonic() + 60
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                hung += 1
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            time.sleep(0.005)
    # It still answers, and rightly
    make("/root/after", 30, 40)
    print(hung, ids("/root/after"), os.getresuid(), flush=True)
"""

_UNASKED = ("open", "openat", "prctl", "access", "faccessat", "faccessat2")


def fuzz(one: Box, lowers: tuple[bytes, ...], tmp_path: Path, seeds: range) -> None:
    from pybuild.sandbox.emulate.filter import ALWAYS

    outside = tmp_path / "outside"
    outside.write_text("not theirs")
    before = outside.stat()
    calls = sorted(number for name, number in this_machine().numbers.items() if name in (*ALWAYS, *_UNASKED))
    program = textwrap.dedent(FUZZ)
    for name, value in (("calls", calls), ("outside", outside), ("first", seeds.start), ("last", seeds.stop)):
        program = program.replace(f"{{{name}}}", str(value))
    ran = one.run(*python(program), lowers=lowers, emulation="full", cwd="/srv")
    assert (ran.status, ran.out) == (0, "0 (30, 40) (0, 0, 0)\n"), ran.err or ran.result
    assert owners(ran)["root/after"][2:] == (30, 40)
    after = outside.stat()
    assert (after.st_ctime_ns, after.st_mode, os.listxattr(outside)) == (before.st_ctime_ns, before.st_mode, [])


def test_hostile_arguments_neither_end_nor_hang_nor_mislead_it(
    one: Box, lowers: tuple[bytes, ...], tmp_path: Path
) -> None:
    fuzz(one, lowers, tmp_path, range(4))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_hostile_arguments(one: Box, lowers: tuple[bytes, ...], tmp_path: Path) -> None:
    fuzz(one, lowers, tmp_path, range(1000, 1120))


def test_nothing_outside_is_given_away_by_way_of_other_processes(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run(
        one,
        lowers,
        """
        for path in "/proc/1/exe", "/proc/1/root", "/proc/1/root/etc", "/proc/1/cwd", "/proc/1/fd/0":
            os.symlink(path, "way")
            for name in path, "way", "../" + path:
                try:
                    os.chown(name, 5, 5)
                except OSError as error:
                    continue
                print("given", name)
            os.unlink("way")
        # What it has open itself it may give by any name
        held = os.open("own", os.O_CREAT | os.O_RDWR)
        os.chown(f"/proc/self/fd/{held}", 5, 6)
        print(ids("own"))
        """,
    )
    assert ran.out == "(5, 6)\n"
    assert OWNER_XATTR.decode() not in os.listxattr(os.path.realpath("/proc/self/exe"))
