"""Emulated root where only those who have left root are asked about the files they make: they are traced for it."""

import errno
import os
import re
import shutil
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pybuild.sandbox import bpf, syscalls
from pybuild.sandbox.emulate.filter import CREATES, MAKE, MARK, OPEN, full_filter, trace_filter
from pybuild.sandbox.emulate.tracing import can_trace
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.machine import MACHINES, this_machine

from .conftest import Box, Ran, open_box
from .test_emulate import ALLOW, NOTIFY, owners
from .test_emulate_processes import lowers as lowers
from .test_emulate_processes import python, run, supervisor_of, wait_for
from .test_seccomp import verdict

TRACE = 0x7FF00000

needs_tracing = pytest.mark.skipif(not can_trace(), reason="nobody is traced on this machine")


@pytest.fixture
def one(plain_root: Path, tmp_path: Path) -> Iterator[Box]:
    """A box with one id."""
    yield from open_box("single", plain_root, tmp_path / "box")


def run_loose(one: Box, lowers: tuple[bytes, ...], program: str) -> Ran:
    """Run a program with the loose filter; a few names for what many of them do come before it."""
    return run(one, lowers, KINDS + textwrap.dedent(program), **LOOSE)


LOOSE: dict[str, object] = {"set_gid": ()}
"""What makes the filter a loose one."""

KINDS = r"""
os.chmod(".", 0o777)
def filters():
    with open("/proc/self/status") as file:
        return int(dict(line.split(":") for line in file)["Seccomp_filters"])
def new(name, here="."):
    # One name for each call that makes something
    at = os.open(here, os.O_PATH)
    path = f"{here}/{name}".encode()
    mode = 0o640
    def done(result):
        assert result >= 0, (name, os.strerror(ctypes.get_errno()))
        return result
    libc.syscall.restype = ctypes.c_long
    for kind, args in {
        "open": (2, path + b"-open", os.O_CREAT | os.O_RDWR, mode),
        "openat": (257, at, f"{name}-openat".encode(), os.O_CREAT | os.O_EXCL | os.O_RDWR, mode),
        "creat": (85, path + b"-creat", mode),
        "openat2": (437, at, f"{name}-openat2".encode(), (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_RDWR, mode, 0), 24),
        "unnamed": (257, at, b".", os.O_TMPFILE | os.O_RDWR, mode),
    }.items():
        fd = done(libc.syscall(*args))
        if kind == "unnamed":
            done(libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, path + b"-unnamed", 0x400))
        os.write(fd, b"x")
        os.close(fd)
    done(libc.syscall(83, path + b"-mkdir", mode))
    done(libc.syscall(258, at, f"{name}-mkdirat".encode(), mode))
    done(libc.syscall(88, b"to", path + b"-symlink"))
    done(libc.syscall(266, b"to", at, f"{name}-symlinkat".encode()))
    os.mkfifo(path + b"-fifo")
    os.close(at)
def join(pid):
    assert os.waitpid(pid, 0)[1] == 0
def forked(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid
"""

ALL = {"open", "openat", "creat", "openat2", "unnamed", "mkdir", "mkdirat", "symlink", "symlinkat", "fifo"}


def owner_of(ran: Ran, name: str) -> tuple[int, ...]:
    """Return the owner that all that `new` made by a name has in the layer."""
    found = owners(ran)
    (owner,) = {found[f"srv/{name}-{kind}"][2:] for kind in ALL}
    return owner


@pytest.mark.parametrize("name", MACHINES)
def test_loose_filter_asks_about_what_is_marked_and_the_other_lets_it_be_marked(name: str) -> None:
    machine = MACHINES[name]
    loose, strict, tracing = full_filter(machine, loose=True), full_filter(machine), trace_filter(machine)
    makes = [(call, -1, 0) for call in MAKE if call in machine.numbers]
    makes += [(call, at, os.O_CREAT) for call, at in OPEN if call in machine.numbers]
    for call, number in machine.numbers.items():
        if call not in MAKE:
            assert verdict(loose, number, machine.audit) == verdict(strict, number, machine.audit), call
            assert verdict(tracing, number, machine.audit) == ALLOW
    for call, at, flags in makes:
        args = [flags if place == at else 0 for place in range(6)]
        number = machine.numbers[call]
        assert verdict(strict, number, machine.audit, *args) == NOTIFY
        assert verdict(loose, number, machine.audit, *args) == ALLOW
        assert verdict(tracing, number, machine.audit, *args) == TRACE
        args[5] = MARK
        assert verdict(loose, number, machine.audit, *args) == NOTIFY
        if at >= 0:
            args[at], args[5] = CREATES & ~os.O_CREAT, 0
            assert verdict(loose, number, machine.audit, *args) == NOTIFY
    assert verdict(tracing, 1, 0x40000003) == ALLOW


@needs_tracing
@pytest.mark.userns
def test_who_leaves_root_makes_files_of_its_own(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run_loose(
        one,
        lowers,
        """
        new("root")
        before = filters()
        def user():
            os.setgroups([50])
            assert filters() == before
            os.setresgid(44, 44, 44)
            assert filters() == before + 1
            new("group")
            os.setresuid(33, 33, 0)
            new("user")
            # Of its children too, and their threads
            join(forked(lambda: (new("child"), join(forked(lambda: new("grandchild"))))))
            thread = threading.Thread(target=new, args=["thread"])
            thread.start()
            thread.join()
            subprocess.run(["/bin/sh", "-c", "echo > shell; mkdir shell-mkdir; /bin/sh -c 'echo > shells'"], check=True)
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)
            new("again")
            os.setresuid(40, 40, 40)
            new("other")
            assert filters() == before + 1
        join(forked(user))
        new("parent")
        assert filters() == before
        """,
    )
    expected = {"root": (0, 0), "group": (0, 44), "user": (33, 44), "child": (33, 44), "grandchild": (33, 44)}
    expected |= {"thread": (33, 44), "again": (0, 0), "other": (40, 0), "parent": (0, 0)}
    assert {name: owner_of(ran, name) for name in expected} == expected
    found = owners(ran)
    assert {found[f"srv/{name}"][2:] for name in ("shell", "shell-mkdir", "shells")} == {(33, 44)}


@needs_tracing
@pytest.mark.userns
def test_threads_leave_root_together(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run_loose(
        one,
        lowers,
        """
        before = filters()
        reader, writer = os.pipe()
        ready = threading.Barrier(5)
        def work(number):
            new(f"before{number}")
            ready.wait()
            os.read(reader, 1)
            new(f"after{number}")
            join(forked(lambda: new(f"child{number}")))
        threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
        for thread in threads: thread.start()
        ready.wait()
        # By libc, which lets each thread make the call
        os.setresuid(33, 33, 33)
        os.write(writer, b"1234")
        for thread in threads: thread.join()
        # And by one that is alone with it
        print(filters() - before)
        """,
    )
    assert 1 <= int(ran.out) <= 5
    for number in range(4):
        assert owner_of(ran, f"before{number}") == (0, 0)
        assert owner_of(ran, f"after{number}") == owner_of(ran, f"child{number}") == (33, 0)


@needs_tracing
@pytest.mark.userns
def test_programs_that_are_started_by_all_means_are_asked_about(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run_loose(
        one,
        lowers,
        """
        before = filters()
        shell = ["/bin/sh", "-c", "echo > $0-file; mkdir $0-dir; exec /bin/sh -c 'ln -s x $0-link' $0"]
        def user():
            os.setresuid(33, 33, 33)
            pid = os.posix_spawn(shell[0], [*shell, "spawned"], {"PATH": "/bin"})
            join(pid)
            # A thread that is not the first one gives its process to another program
            inner = [*shell, "thread"]
            thread = threading.Thread(target=os.execve, args=["/bin/sh", inner, {"PATH": "/bin"}])
            thread.start()
            thread.join()
        join(forked(user))
        # A set-id program that root starts
        import shutil
        shutil.copy("/bin/busybox", "busybox")
        os.chown("busybox", 40, 50)
        os.chmod("busybox", 0o6755)
        subprocess.run(["/srv/busybox", "touch", "by-set-id"], check=True)
        # Without a fork of its own memory
        subprocess.run(["/bin/sh", "-c", "echo > vforked"], user=41, group=51, extra_groups=[], check=True)
        assert filters() == before
        """,
    )
    found = {path.removeprefix("srv/"): entry[2:] for path, entry in owners(ran).items()}
    for name in "spawned", "thread":
        assert {found[f"{name}-{kind}"] for kind in ("file", "dir", "link")} == {(33, 0)}
    assert found["by-set-id"] == (40, 50)
    assert found["vforked"] == (41, 51)


@needs_tracing
@pytest.mark.userns
def test_signals_reach_who_is_traced(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run_loose(
        one,
        lowers,
        """
        def wait_for(pid, flag):
            _, status = os.waitpid(pid, flag)
            return status
        reader, writer = os.pipe()
        def user():
            caught = []
            signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
            os.setresuid(33, 33, 33)
            os.write(writer, b"x")
            number = 0
            while not caught:
                with open(f"made{number}", "x"):
                    number += 1
            # A child of a traced one is waited for as ever, and stops and goes on as it is told
            child = forked(lambda: [signal.pause() for _ in iter(int, 1)])
            os.kill(child, signal.SIGSTOP)
            assert os.WIFSTOPPED(wait_for(child, os.WUNTRACED))
            os.kill(child, signal.SIGCONT)
            assert os.WIFCONTINUED(wait_for(child, os.WCONTINUED))
            # That has no effect in a group that nobody controls
            os.setpgid(child, child)
            os.kill(child, signal.SIGTSTP)
            assert os.WSTOPSIG(wait_for(child, os.WUNTRACED)) == signal.SIGTSTP
            with open("state", "x"):
                pass
            os.kill(child, signal.SIGKILL)
            assert os.WTERMSIG(wait_for(child, 0)) == signal.SIGKILL
            told = []
            signal.signal(signal.SIGCHLD, lambda number, frame: told.append(number))
            join(forked(lambda: None))
            assert told == [signal.SIGCHLD]
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            forked(lambda: None)
            try:
                os.wait()
            except ChildProcessError:
                return
            raise AssertionError("there was something to wait for")
        child = forked(user)
        os.read(reader, 1)
        os.kill(child, signal.SIGSTOP)
        print(os.WSTOPSIG(wait_for(child, os.WUNTRACED)) == signal.SIGSTOP)
        os.kill(child, signal.SIGTERM)
        os.kill(child, signal.SIGCONT)
        join(child)
        # One that is killed while it makes files
        def endless():
            os.setresuid(33, 33, 33)
            os.write(writer, b"x")
            while True:
                os.mkdir("there")
                os.rmdir("there")
        child = forked(endless)
        os.read(reader, 1)
        os.kill(child, signal.SIGKILL)
        print(wait_for(child, 0))
        """,
    )
    assert ran.out.split() == ["True", "9"]
    found = owners(ran)
    assert {entry[2:] for path, entry in found.items() if path.startswith("srv/made")} <= {(33, 0)}
    assert found["srv/state"][2:] == (33, 0)


@needs_tracing
@pytest.mark.userns
def test_process_that_is_stopped_while_it_leaves_root_stays_so(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run_loose(
        one,
        lowers,
        """
        def user():
            for turn in range(30):
                # Only a process that has never left root has to be prepared
                join(forked(lambda: (os.setresuid(33, 33, 33), os.mkdir(f"d{turn}"))))
        reader, writer = os.pipe()
        child = forked(lambda: (os.read(reader, 1), user()))
        os.setpgid(child, child)
        os.write(writer, b"x")
        stops = 0
        while True:
            if stops < 100:
                os.killpg(child, signal.SIGSTOP)
            _, status = os.waitpid(child, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                break
            stops += 1
            os.killpg(child, signal.SIGCONT)
        print(status, stops > 0)
        """,
    )
    assert ran.out == "0 True\n"
    found = owners(ran)
    assert {found[f"srv/d{turn}"][2:] for turn in range(30)} == {(33, 0)}


@needs_tracing
@pytest.mark.userns
def test_many_leave_root_at_once(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run_loose(
        one,
        lowers,
        """
        def user(number):
            if number % 2:
                os.setresuid(number, number, number)
            for turn in range(5):
                os.mkdir(f"{number}-{turn}")
            os._exit(number)
        for pid in [forked(lambda: user(number)) for number in range(30)]:
            os.waitpid(pid, 0)
        """,
    )
    found = owners(ran)
    for number in range(30):
        assert {found[f"srv/{number}-{turn}"][2] for turn in range(5)} == {number if number % 2 else 0}


@needs_tracing
@pytest.mark.userns
def test_who_is_traced_by_somebody_else_stays_root(one: Box, lowers: tuple[bytes, ...]) -> None:
    ran = run_loose(
        one,
        lowers,
        """
        traceme = 0
        def refused(call):
            try:
                call()
            except PermissionError:
                return True
        def user():
            assert libc.ptrace(traceme, 0, 0, 0) == 0
            assert refused(lambda: os.setresuid(33, 33, 33))
            assert os.getresuid() == (0, 0, 0)
            os.setresuid(0, 0, 0)
            new("root")
        join(forked(user))
        def other():
            os.setresuid(33, 33, 33)
            assert libc.ptrace(traceme, 0, 0, 0) == -1
        join(forked(other))
        """,
    )
    assert owner_of(ran, "root") == (0, 0)


@needs_tracing
@pytest.mark.userns
def test_registers_are_as_before_the_call(one: Box, lowers: tuple[bytes, ...]) -> None:
    """Most of all the one of the sixth argument, which is where a call is marked."""
    ran = run_loose(
        one,
        lowers,
        """
        import mmap
        # Takes the address of eight words: the call's number and its arguments, and puts the registers back there
        code = bytes.fromhex(
            "53 48 89 fb 48 8b 03 48 8b 7b 08 48 8b 73 10 48 8b 53 18 4c 8b 53 20 4c 8b 43 28 4c 8b 4b 30"
            "0f 05 48 89 03 48 89 7b 08 48 89 73 10 48 89 53 18 4c 89 53 20 4c 89 43 28 4c 89 4b 30 5b c3"
        )
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
        def check(number, *args):
            args = [*args, *(0x1111111111111111 * k for k in range(len(args) + 1, 7))]
            words = (ctypes.c_uint64 * 7)(number, *(value & (1 << 64) - 1 for value in args))
            before = words[1:]
            call(words)
            assert words[1:] == before, (number, [hex(value) for value in words], before)
            return words[0]
        def name(text):
            buffers.append(ctypes.create_string_buffer(text))
            return ctypes.addressof(buffers[-1])
        buffers = []
        def user():
            # Its process gets a filter in between
            assert check(117, 33, 33, 33) == 0
            for turn in range(3):
                fd = check(257, -100, name(b"f%d" % turn), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
                assert fd < 100
                assert check(83, name(b"d%d" % turn), 0o700) == 0
                assert check(88, name(b"x"), name(b"l%d" % turn)) == 0
                assert check(83, name(b"d%d" % turn), 0o700) == (1 << 64) - 17
            # Who marks a call itself is asked about, and nothing else
            assert check(83, name(b"marked"), 0o700, 0, 0, 0, MARK) == 0
        join(forked(user))
        assert check(83, name(b"marked-by-root"), 0o700, 0, 0, 0, MARK) == 0
        """.replace("MARK", str(MARK)),
    )
    found = owners(ran)
    assert {found[f"srv/{kind}{turn}"][2:] for kind in "fdl" for turn in range(3)} == {(33, 0)}
    assert found["srv/marked"][2:] == (33, 0)
    assert found["srv/marked-by-root"][2:] == (0, 0)


@needs_tracing
@pytest.mark.userns
def test_who_is_traced_ends_with_the_supervisor(one: Box, lowers: tuple[bytes, ...]) -> None:
    program = """
        reader, writer = os.pipe()
        def user():
            os.setresuid(33, 33, 33)
            print("going", flush=True)
            os.read(reader, 1)
        child = forked(user)
        print(os.waitpid(child, 0)[1], flush=True)
        os._exit(0)
        """
    argv = python(KINDS + textwrap.dedent(program))
    spec = one.spec(*argv, lowers=lowers, emulation="full", cwd="/srv", **LOOSE)
    job, fds = one.submit(spec)
    wait_for(lambda: os.pread(fds[0], 5, 0) == b"going")
    os.kill(supervisor_of(one.worker.pid), signal.SIGKILL)
    with pytest.raises(SandboxError, match="the process that emulates root was ended by SIGKILL"):
        job.result(object)
    assert os.pread(fds[0], 100, 0) == b"going\n9\n"
    for fd in fds:
        os.close(fd)


@needs_tracing
def test_nobody_is_traced_where_that_is_refused() -> None:
    refusing = b"".join(
        [
            bpf.op(bpf.LOAD, bpf.NR),
            bpf.op(bpf.JUMP_EQUAL, this_machine().numbers["ptrace"], 0, 1),
            bpf.op(bpf.RETURN, bpf.ERRNO | errno.EPERM),
            bpf.op(bpf.RETURN, bpf.ALLOW),
        ]
    )
    child = os.fork()
    if child == 0:
        status = 1
        try:
            before = can_trace()
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            syscalls.seccomp_filter(refusing)
            after = can_trace()
            with suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
                os._exit(2)
            status = 0 if (before, after) == (True, False) else 3
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


HOSTILE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// Only calls of the kernel below: what shares memory, or is killed at any time, may leave locks of the library shut
static int depth;

static void be(int uid, const char *name) {
    char own[80];
    sprintf(own, "/tmp/by%d%s", uid, name);
    if (syscall(SYS_setresuid, uid, uid, uid) == 0) {
        syscall(SYS_mkdir, own, 0755);
        sprintf(own, "/srv/by%d%s", uid, name);
        syscall(SYS_symlink, "x", own);
    }
    syscall(SYS_exit_group, 0);
}

static long reap(int how) {
    int status;
    long pid = syscall(SYS_wait4, -1, &status, how | __WALL, 0);
    // One that wanted to be traced, and got a signal
    if (pid > 0 && WIFSTOPPED(status)) syscall(SYS_kill, pid, SIGKILL);
    return pid;
}

static int share(void *name) { be(41, name); return 0; }

static void *work(void *argument) {
    unsigned seed = (unsigned)(long)argument;
    char name[40];
    for (int turn = 0; turn < 50; turn++) {
        sprintf(name, "-%ld-%d", syscall(SYS_gettid), turn);
        long pid = 0;
        int number = rand_r(&seed) % 100;
        switch (rand_r(&seed) % 16) {
        case 0: syscall(SYS_setresuid, -1, 33, -1); break;
        case 1: syscall(SYS_setresuid, -1, 0, -1); break;
        case 2: syscall(SYS_setresgid, -1, number % 2 * 5, -1); break;
        case 3: syscall(SYS_setfsuid, number % 2 * 33); break;
        case 4: syscall(SYS_close, syscall(SYS_open, name + 1, O_CREAT | O_WRONLY, 0644)); break;
        case 5: syscall(SYS_symlink, "x", name + 1); break;
        case 6:
        case 7:
            if ((pid = syscall(SYS_fork)) == 0) be(40 + number % 3, name);
            if (number < 20) syscall(SYS_kill, pid, SIGKILL);
            break;
        case 8:
            if (syscall(SYS_clone, SIGCHLD | CLONE_UNTRACED, 0, 0, 0, 0) == 0) be(42, name);
            break;
        case 9:
        case 10: {
            char *stack = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            int child = clone(share, stack + 65536, CLONE_VM | (number % 2 ? CLONE_VFORK : SIGCHLD), name);
            if (child > 0) syscall(SYS_wait4, child, 0, __WALL, 0);
            munmap(stack, 65536);
            break;
        }
        case 11:
            if ((pid = syscall(SYS_fork)) == 0) { ptrace(PTRACE_TRACEME, 0, 0, 0); be(43, name); }
            break;
        case 12:
            if (number < 50) syscall(SYS_kill, getpid(), SIGSTOP);
            break;
        case 13: syscall(SYS_kill, 0, SIGUSR1); break;
        case 14:
            if (number < 5) syscall(SYS_kill, getpid(), SIGKILL);
            if (number > 95) syscall(SYS_exit, 0);
            break;
        case 15:
            if (number < 10 && depth < 3) {
                char next[] = {'1' + depth, 0}, mine[16];
                sprintf(mine, "%u", seed);
                char *argv[] = {"hostile", next, mine, 0}, *env[] = {0};
                syscall(SYS_execve, "/hostile", argv, env);
            }
        }
        while (reap(WNOHANG) > 0);
    }
    return 0;
}

static void nothing(int number) { (void)number; }

static int be_hostile(unsigned seed) {
    signal(SIGUSR1, nothing);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) pthread_create(threads + i, 0, work, (void *)(long)(seed * 10 + i));
    work((void *)(long)(seed * 10 + 9));
    while (reap(0) > 0);
    syscall(SYS_exit_group, 0);
    return 0;
}

int main(int count, char **args) {
    depth = count > 2 ? atoi(args[1]) : 0;
    if (depth) return be_hostile(atoi(args[2]));
    signal(SIGUSR1, SIG_IGN);
    // What stops itself is let go on
    int waker = fork();
    while (waker == 0) { usleep(2000); kill(-1, SIGCONT); }
    for (int i = 0; i < 40; i++) {
        if (fork() == 0) { setpgid(0, 0); depth = 1; be_hostile(i); }
        if (i % 4 == 3) for (int k = 0; k < 4; k++) wait(0);
    }
    kill(waker, SIGKILL);
    return write(1, "alive\n", 6) == 6 ? 0 : 1;
}
"""


@needs_tracing
@pytest.mark.userns
@pytest.mark.slow
def test_hostile_processes_neither_end_it_nor_hang_it(one: Box, tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    below = tmp_path / "below"
    below.mkdir()
    source = tmp_path / "hostile.c"
    source.write_text(HOSTILE)
    command = ["gcc", "-static", "-pthread", "-O", "-w", "-o", below / "hostile", source]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("no static C library")
    ran = one.sh(
        "cd /tmp; chmod 777 /srv; /hostile; touch after; chown 3:4 after; exit 0",
        lowers=(os.fsencode(one.root), os.fsencode(below)),
        emulation="full",
        **LOOSE,
    )
    assert (ran.status, ran.out) == (0, "alive\n"), ran.err
    found = {path: entry[2] for path, entry in owners(ran).items()}
    assert found["tmp/after"] == 3
    # Their names tell who made them; the others do not know who they are
    made = {path: owner for path, owner in found.items() if re.match("(srv|tmp)/by", path)}
    assert {path[:3] for path in made} == {"srv", "tmp"}
    assert [path for path, owner in made.items() if owner != int(path[6:8])] == []
