"""A terminal in a sandbox: whose it is, what holds there, and how it ends."""

import fcntl
import os
import select
import socket
import struct
import termios
import time
from typing import Any

import msgspec
import pytest

from pybuild.engine.attach import Streams
from pybuild.sandbox import terminal
from pybuild.sandbox.spec import RunEnd
from pybuild.sandbox.worker import Job
from pybuild.tree.entry import DIR, FILE, WHITEOUT

from .conftest import Box

pytestmark = pytest.mark.userns

STATE = "grep -E '^(Cap|Seccomp|NoNewPrivs)' /proc/self/status"


class Session:
    """Something that runs on a terminal in a box."""

    def __init__(self, box: Box, *argv: str, **fields: Any) -> None:
        self.spec = box.spec(*argv, stdin="terminal", **fields)
        streams = Streams(terminal=True)
        self._console = socket.socket(fileno=streams.outer[0])
        self._job: Job = box.worker.submit("shell", [self.spec, box.worker.mode], [streams.stdout, streams.stderr])
        streams.close_inner()
        self.master = terminal.receive(self._console)

    def begin(self, rows: int = 24, columns: int = 80) -> None:
        assert self.master is not None
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._console.close()

    def read(self, until: bytes = b"") -> str:
        """Return what is shown until `until` comes, or else the end."""
        assert self.master is not None
        shown, end = b"", time.monotonic() + 30
        while not until or until not in shown:
            assert select.select([self.master], [], [], end - time.monotonic())[0], shown
            try:
                shown += os.read(self.master, 4096)
            except OSError:
                assert not until, shown
                break
        return shown.decode().replace("\r\n", "\n")

    def end(self) -> RunEnd:
        if self.master is not None:
            os.close(self.master)
        self._console.close()
        result: RunEnd = self._job.result(RunEnd)
        return result


def test_it_is_the_controlling_terminal_of_its_own_session(box: Box) -> None:
    session = Session(box, "/bin/sh", "-c", "tty; stty size; echo x > /dev/tty; cut -d' ' -f5-7 /proc/$$/stat; exit 4")
    session.begin(33, 99)
    name, size, echo, stat = session.read().split("\n")[:4]
    assert (name, size, echo) == ("/dev/pts/0", "33 99", "x")
    group, own_session, device = map(int, stat.split())
    assert group == own_session
    assert os.major(device) == 136
    assert session.end().status == 4


def test_nothing_begins_before_the_window_has_a_size(box: Box) -> None:
    session = Session(box, "/bin/sh", "-c", "echo begun")
    assert session.master is not None
    assert not select.select([session.master], [], [], 0.2)[0]
    session.begin()
    assert session.read() == "begun\n"
    session.end()


def test_what_holds_for_a_run_holds_there(box: Box) -> None:
    plain = box.sh(STATE).out
    session = Session(box, "/bin/sh", "-c", STATE)
    session.begin()
    assert session.read() == plain
    assert plain.count("\n") >= 7
    session.end()


def test_nothing_of_outside_is_reachable(box: Box) -> None:
    session = Session(box, "/bin/sh", "-c", "ls /proc/self/fd; ls /dev/pts")
    assert session.master is not None
    # It is one of the sandbox's own file system of terminals
    assert os.fstat(session.master).st_dev not in {os.stat(path).st_dev for path in ("/dev", "/dev/pts")}
    session.begin()
    # One of them is the directory that `ls` reads
    assert session.read().split() == ["0", "1", "2", "3", "0", "ptmx"]
    session.end()


def test_the_user_owns_it(full_box: Box) -> None:
    session = Session(full_box, "/bin/sh", "-c", "stat -c %u $(tty); echo ok > $(tty)", user="www")
    session.begin()
    assert session.read() == "33\nok\n"
    session.end()


def test_hanging_up_ends_what_runs(box: Box) -> None:
    session = Session(box, "/bin/sh", "-c", "echo ready; sleep 60")
    session.begin()
    session.read(b"ready")
    begun = time.monotonic()
    assert session.end().status == 129
    assert time.monotonic() - begun < 5


def test_a_sandbox_that_cannot_be_made_gives_none(box: Box) -> None:
    session = Session(box, "/bin/sh", cwd="/etc/passwd")
    assert session.master is None
    assert "working directory" in session.end().problem


def test_a_tree_that_is_there_is_gone_on_from(box: Box) -> None:
    first = box.spec("/bin/sh", "-c", "echo a > /tmp/a; chmod 711 /etc; rm /bin/vi; exit 3")
    ran = box.finish(first, *box.submit(first))
    # As one that was killed leaves it
    work = ran.fs.parent / "work"
    work.mkdir()
    again = box.spec("/bin/sh", "-c", "cat /tmp/a; stat -c %a /etc; ls /bin/vi || echo b > /tmp/b")
    again = msgspec.structs.replace(again, staging=first.staging)
    ran = box.finish(again, *box.submit(again))
    assert (ran.status, ran.out) == (0, "a\n711\n")
    assert ran.changes == {"tmp": DIR, "tmp/a": FILE, "tmp/b": FILE, "etc": DIR, "bin": DIR, "bin/vi": WHITEOUT}
    assert sorted(entry.name for entry in ran.fs.parent.iterdir()) == ["fs"]
