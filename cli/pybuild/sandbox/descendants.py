"""Ending all that a process has started, where no pid namespace does it: of a subreaper, which gets the orphans too."""

import os
import signal
from collections.abc import Container
from contextlib import suppress


def children() -> list[int]:
    """Return the children of this process, which must have one thread: those it started, and orphans it adopted."""
    own = os.getpid()
    try:
        with open(f"/proc/self/task/{own}/children", "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:
        # A kernel without that file (CONFIG_PROC_CHILDREN)
        return [pid for pid in _processes() if _parent(pid) == own]


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def kill_children(spared: Container[int] = ()) -> None:
    """Kill all children but those; what they leave behind comes to this process as its next children."""
    for pid in children():
        if pid not in spared:
            # Not reaped yet by anybody but this process, so the number is still its own
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def end_children() -> None:
    """Kill and bury all children, until there are none."""
    while True:
        kill_children()
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
