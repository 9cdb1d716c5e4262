"""Limits of memory, processors and processes by control groups that this user may make; else what comes nearest.

A group is made for one RUN beside the groups of the kernel's own bookkeeping: below the group this process is
in (v1 and v2), or in v2 further up where its user may do so. The sandbox's first process enters it by itself, over
descriptors of `cgroup.procs`; what the worker does stays outside of it.
"""

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

import msgspec

from pybuild.api.request import Limits
from pybuild.sandbox.errors import LimitError

PROC = "/proc/self"
DEFAULT_PERIOD = 100_000
"""Microseconds in which a quota of processor time is counted, as the kernel's own default."""

HINT = (
    "run it in a control group of its own (`systemd-run --user --scope -p Delegate=yes pybuild build --inline ...`), "
    "or pass `--limits=best-effort`"
)
_NAMES = {"memory": "memory", "cpu": "processor time", "cpuset": "the choice of processors", "pids": "processes"}
_LEAF = "pybuild"
_PREFIX = "pybuild-"
"""Names of groups go on with the process id of who made them."""
_REMOVE_SECONDS = 2.0


def wanted(limits: Limits) -> list[str]:
    """Return the controllers that enforce these limits."""
    given = {"memory": limits.memory, "cpu": limits.cpu_quota, "cpuset": limits.cpuset_cpus, "pids": limits.pids}
    return [name for name, value in given.items() if value]


class Place(msgspec.Struct, frozen=True):
    """A directory below which groups for `controllers` may be made; `version` is that of the interface."""

    version: int
    directory: str
    controllers: frozenset[str]


def find_places(needed: Iterable[str], own: Iterable[int], proc: str = PROC) -> list[Place]:
    """Return where groups for the controllers may be made; those that no place has cannot be enforced.

    `own` are processes of ours: in v2 they are moved to a leaf when they are all that is in a group, which may
    hold groups or processes but not both.
    """
    places: list[Place] = []
    missing = set(needed)
    for version, controllers, directory, _ in _memberships(proc):
        if version == 1:
            found = missing & controllers
            if found and os.access(directory, os.W_OK | os.X_OK):
                places.append(Place(1, directory, frozenset(found)))
                missing -= found
    for version, _, directory, top in _memberships(proc):
        if version == 2 and missing and (place := _find_v2(directory, top, missing, own)) is not None:
            places.append(place)
            missing -= place.controllers
    return places


def _memberships(proc: str) -> list[tuple[int, set[str], str, str]]:
    """Return (version, controllers, directory, mount point) of each group this process is in."""
    paths: dict[str, str] = {}
    with suppress(OSError), open(f"{proc}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, _, rest = line.rstrip("\n").partition(":")
            names, _, path = rest.partition(":")
            for name in names.split(","):
                paths[name] = path
    found: list[tuple[int, set[str], str, str]] = []
    with suppress(OSError), open(f"{proc}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            fields, (kind, _, options) = before.split(), after.split()[:3]
            if kind not in ("cgroup", "cgroup2"):
                continue
            controllers = set(options.split(",")) & set(_NAMES) if kind == "cgroup" else {""}
            for path in {paths[name] for name in controllers if name in paths}:
                below = os.path.relpath(path, fields[3])
                if not below.startswith(".."):
                    directory = os.path.normpath(os.path.join(fields[4], below))
                    found.append((2 if kind == "cgroup2" else 1, controllers - {""}, directory, fields[4]))
    return found


def _find_v2(directory: str, top: str, needed: set[str], own: Iterable[int]) -> Place | None:
    """Return the nearest group upwards that this user may divide and that has a controller that is needed."""
    if os.path.basename(directory) == _LEAF:
        # Where an earlier build put this process
        directory = os.path.dirname(directory)
    while directory.startswith(top):
        files = ("", "cgroup.procs", "cgroup.subtree_control")
        if not all(os.access(f"{directory}/{name}", os.W_OK) for name in files):
            return None
        enabled = needed & set(_read(f"{directory}/cgroup.subtree_control").split())
        there = needed & set(_read(f"{directory}/cgroup.controllers").split())
        if there and there == enabled:
            return Place(2, directory, frozenset(enabled))
        inside = {int(pid) for pid in _read(f"{directory}/cgroup.procs").split()}
        if there and inside <= set(own):
            with suppress(OSError):
                _divide(directory, inside, there)
                return Place(2, directory, frozenset(there))
        if directory == top:
            return None
        directory = os.path.dirname(directory)
    return None


def _divide(directory: str, inside: set[int], controllers: set[str]) -> None:
    """Move processes out of a group into a leaf of it, so that controllers can be given to its groups."""
    leaf = f"{directory}/{_LEAF}"
    os.makedirs(leaf, exist_ok=True)
    for pid in inside:
        _write(f"{leaf}/cgroup.procs", str(pid))
    _write(f"{directory}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(controllers)))


class Group:
    """The groups of one RUN; `entries` are descriptors by which a process enters them. Use it with `with`."""

    def __init__(self) -> None:
        self.entries: list[int] = []
        self._directories: list[str] = []
        self._memory = ""

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, place: Place, name: str, limits: Limits) -> None:
        """Make one more group at a place; raise LimitError when the kernel does not take a limit."""
        directory = f"{place.directory}/{name}"
        at = directory
        try:
            os.mkdir(directory)
            self._directories.append(directory)
            settings = _v1(place, limits) if place.version == 1 else _v2(place, limits)
            for file, value, required in settings:
                at = f"{directory}/{file}"
                if required or os.path.exists(at):
                    _write(at, value)
            at = f"{directory}/cgroup.procs"
            self.entries.append(os.open(at, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            raise LimitError(f"cannot set a limit: {at}: {error.strerror}", HINT) from error
        if "memory" in place.controllers:
            self._memory = f"{directory}/{'memory.oom_control' if place.version == 1 else 'memory.events'}"

    def out_of_memory(self) -> bool:
        """Tell whether the kernel killed a process because of the memory limit."""
        lines = (line.split() for line in _read(self._memory).splitlines()) if self._memory else ()
        return any(line[0] == "oom_kill" and line[1] != "0" for line in lines if len(line) == 2)

    def close(self) -> None:
        """Remove the groups; the processes in them have ended."""
        for fd in self.entries:
            os.close(fd)
        self.entries.clear()
        for directory in self._directories:
            deadline = time.monotonic() + _REMOVE_SECONDS
            while True:
                try:
                    os.rmdir(directory)
                except FileNotFoundError:
                    break
                except OSError:
                    # The kernel counts a process a moment longer than its parent does
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.005)
                else:
                    break
        self._directories.clear()


def _v1(place: Place, limits: Limits) -> list[tuple[str, str, bool]]:
    """Return (file, value, must it be there) in the order the kernel wants them."""
    settings: list[tuple[str, str, bool]] = []
    if "memory" in place.controllers:
        swap = limits.memory_swap or limits.memory
        settings.append(("memory.limit_in_bytes", str(limits.memory), True))
        settings.append(("memory.memsw.limit_in_bytes", str(swap), False))
    if "cpu" in place.controllers:
        settings.append(("cpu.cfs_period_us", str(limits.cpu_period or DEFAULT_PERIOD), True))
        settings.append(("cpu.cfs_quota_us", str(limits.cpu_quota), True))
    if "cpuset" in place.controllers:
        settings.append(("cpuset.mems", _read(f"{place.directory}/cpuset.mems").strip(), True))
        settings.append(("cpuset.cpus", limits.cpuset_cpus, True))
    if "pids" in place.controllers:
        settings.append(("pids.max", str(limits.pids), True))
    return settings


def _v2(place: Place, limits: Limits) -> list[tuple[str, str, bool]]:
    """As `_v1`."""
    settings: list[tuple[str, str, bool]] = []
    if "memory" in place.controllers:
        swap = "max" if limits.memory_swap < 0 else str(max(0, limits.memory_swap - limits.memory))
        settings.append(("memory.max", str(limits.memory), True))
        settings.append(("memory.swap.max", swap, False))
    if "cpu" in place.controllers:
        settings.append(("cpu.max", f"{limits.cpu_quota} {limits.cpu_period or DEFAULT_PERIOD}", True))
    if "cpuset" in place.controllers:
        settings.append(("cpuset.cpus", limits.cpuset_cpus, True))
    if "pids" in place.controllers:
        settings.append(("pids.max", str(limits.pids), True))
    return settings


class Limiter(msgspec.Struct):
    """Makes groups for the limits of a build. `own` are the processes that may be moved for it."""

    limits: Limits
    own: Sequence[int] = ()
    proc: str = PROC
    ulimits: tuple[tuple[str, int, int], ...] = ()
    """What stands in for groups that cannot be had, set by `prepare`."""
    _places: list[Place] = msgspec.field(default_factory=list)
    _made: int = 0

    def prepare(self) -> list[str]:
        """Find out how to enforce the limits; return what the user should know of it.

        Raises LimitError for one that cannot be enforced, unless the best will do.
        """
        needed = wanted(self.limits)
        self._places = find_places(needed, self.own, self.proc) if needed else []
        for place in self._places:
            _sweep(place.directory)
        missing = set(needed).difference(*(place.controllers for place in self._places))
        notices: list[str] = []
        if "memory" in missing:
            missing.remove("memory")
            self.ulimits = (("as", self.limits.memory, self.limits.memory),)
            notices.append("the memory limit holds for each process by itself: no control group can be made here")
        if missing:
            what = " and ".join(_NAMES[name] for name in sorted(missing))
            if not self.limits.best_effort:
                raise LimitError(f"cannot limit {what}: no control group for it can be made here", HINT)
            notices.append(f"not limited, as no control group for it can be made here: {what}")
        return notices

    def group(self) -> Group:
        """Make a group for one RUN; raise LimitError."""
        group = Group()
        try:
            for place in self._places:
                self._made += 1
                group.add(place, f"{_PREFIX}{os.getpid()}-{id(self):x}-{self._made}", self.limits)
        except BaseException:
            group.close()
            raise
        return group


def _sweep(directory: str) -> None:
    """Remove the empty groups of builds that were killed."""
    with suppress(OSError):
        for name in os.listdir(directory):
            pid, *rest = name.removeprefix(_PREFIX).split("-")
            if name.startswith(_PREFIX) and rest and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
                with suppress(OSError):
                    os.rmdir(f"{directory}/{name}")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
