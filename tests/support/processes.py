"""Who runs below this process, however far it has gone from its parent: nothing a test starts may outlive it."""

import ctypes
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Process:
    """A line of the process table."""

    pid: int
    parent: int
    session: int
    state: str
    command: tuple[str, ...]


def _read(pid: str) -> Process | None:
    try:
        stat = Path("/proc", pid, "stat").read_bytes()
        command = Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    words = tuple(word.decode(errors="replace") for word in command.split(b"\0")[:-1])
    return Process(int(pid), int(fields[1]), int(fields[3]), fields[0].decode(), words)


def table() -> list[Process]:
    """Return all processes that can be seen."""
    return [process for pid in os.listdir("/proc") if pid.isdigit() and (process := _read(pid))]


def below(root: int | None = None) -> list[Process]:
    """Return the living descendants of `root`, or of this process."""
    everyone = table()
    family = {root or os.getpid()}
    found: list[Process] = []
    grown = True
    while grown:
        new = [process for process in everyone if process.parent in family and process.pid not in family]
        family.update(process.pid for process in new)
        found += new
        grown = bool(new)
    return [process for process in found if process.state not in "ZX"]


def find(*words: str, root: int | None = None) -> list[Process]:
    """Return the descendants whose command holds all of `words` in this order, side by side."""
    return [
        process
        for process in below(root)
        if any(process.command[at : at + len(words)] == words for at in range(len(process.command)))
    ]


def wait_for(*words: str, root: int | None = None, seconds: float = 20) -> Process:
    """Return the first descendant with that command, waiting for it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := find(*words, root=root):
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"never started: {' '.join(words)}; there is {below(root)}")


def wait_until_gone(*words: str, seconds: float = 10) -> None:
    """Return when no descendant has that command (without words: when there is none at all); fail after a while."""
    end = time.monotonic() + seconds
    while left := (find(*words) if words else below()):
        if time.monotonic() > end:
            raise AssertionError(f"still running: {left}")
        time.sleep(0.02)


waited_for: set[int] = set()
"""Those that somebody else waits for: whoever started them here."""


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own, and bury those that end.

    Daemons lead a session of their own: only such are waited for here, so that no child is taken from `subprocess`;
    nor are those in `waited_for`.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot adopt orphans")
    _note_children()
    threading.Thread(target=_bury, name="reaper", daemon=True).start()


def _note_children() -> None:
    """Note what is started from here from now on: who started it waits for it, and orphans are the rest."""
    begin = subprocess.Popen.__init__

    def noting(self: Any, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        waited_for.add(self.pid)

    subprocess.Popen.__init__ = noting  # type: ignore[method-assign]


def _bury() -> None:
    own, session = os.getpid(), os.getsid(0)
    tasks = Path("/proc/self/task")
    while True:
        time.sleep(0.05)
        for task in tasks.iterdir():
            try:
                children = (task / "children").read_text().split()
            except OSError:
                continue
            for pid in children:
                process = _read(pid)
                if process is None or process.pid in waited_for:
                    continue
                if process.state == "Z" and process.parent == own and process.session != session:
                    try:
                        os.waitpid(process.pid, os.WNOHANG)
                    except ChildProcessError:
                        continue


def end_all(processes: list[Process]) -> None:
    """Kill these."""
    for process in processes:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
