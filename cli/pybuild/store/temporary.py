"""Names below `tmp/` that tell who made them, so that what a crash left behind can be told from work in progress."""

import os
from itertools import count
from pathlib import Path

_numbers = count()


def process_start(pid: int) -> str | None:
    """Return the start time of a process in clock ticks since boot, None when there is none (proc(5), stat)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]


_mine: dict[int, str] = {}


def temporary_name() -> str:
    """Return a name nobody else uses, of this process."""
    pid = os.getpid()
    if pid not in _mine:
        _mine[pid] = f"{pid}.{process_start(pid) or 0}"
    return f"{_mine[pid]}.{next(_numbers)}"


def is_abandoned(name: str) -> bool:
    """Is the process that made `name` gone? Names of another shape count as abandoned."""
    parts = name.split(".")
    if len(parts) < 3 or not parts[0].isdigit():
        return True
    return process_start(int(parts[0])) != parts[1]


def boot_id() -> str:
    """Return the identity of this run of the kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
