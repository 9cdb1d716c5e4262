"""User and group ids of the worker's namespace: which to map, and writing the maps from outside of it.

multi    id 0 is the user, 1 and up are the user's ranges in /etc/subuid and /etc/subgid; the set-uid helpers
         newuidmap and newgidmap write the maps
root     the caller is root and may map anything: every id is itself
single   only id 0, which is the user: files keep no other owners
"""

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, TypeGuard

from pybuild.sandbox import advice
from pybuild.sandbox.errors import IdMapError, SandboxError, UserNamespaceError

IdMode = Literal["multi", "root", "single"]
MODES: tuple[IdMode, ...] = ("multi", "root", "single")
Footing = Literal["namespaces", "ids", "bare"]
"""What a worker makes for itself: a user and a mount namespace, only the user namespace, or nothing."""
Extent = tuple[int, int, int]
"""First id inside, first id outside, how many: a line of uid_map (user_namespaces(7))."""

OVERRIDE = "PYBUILD_ID_MODE"
MAX_EXTENTS = 340
HELPER_SECONDS = 20
_HELPER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class IdMap(NamedTuple):
    """How the ids of a namespace relate to those outside; `helpers` are the programs that write the maps, if any."""

    mode: IdMode
    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]
    helpers: tuple[str, str] | None = None


def choose(wanted: str | None = None) -> IdMap:
    """Return the best map this user can have, or the `wanted` mode (also by $PYBUILD_ID_MODE).

    Raises IdMapError, with advice, when the wanted one cannot be had.
    """
    wanted = wanted or os.environ.get(OVERRIDE) or None
    if wanted is not None and not is_mode(wanted):
        raise IdMapError(f"unknown id mode: {wanted}", "known: multi, single, root")
    if wanted == "single":
        return _single()
    if wanted == "root" or (wanted is None and may_map_all()):
        return _root()
    try:
        return _multi()
    except IdMapError:
        if wanted == "multi":
            raise
        return _single()


def is_mode(text: object) -> TypeGuard[IdMode]:
    """Is it the name of an id mode?"""
    return text in MODES


def why_single() -> str:
    """Return why this user cannot map more than one id, and what would help; "" if they can."""
    if may_map_all():
        return ""
    try:
        _multi()
    except IdMapError as error:
        return explain(error)
    return ""


def explain(error: IdMapError) -> str:
    """Return an error and its hint in one line."""
    return advice.joined(error.message, error.hint)


def _single() -> IdMap:
    return IdMap("single", ((0, os.geteuid(), 1),), ((0, os.getegid(), 1),))


def may_map_all() -> bool:
    """May this process map ids that are not its own, and have groups in there?"""
    from pybuild.sandbox.caps import CAP_SETUID
    from pybuild.sandbox.syscalls import capabilities

    # Root of a namespace with one id is forbidden setgroups, and so is whatever it makes inside
    return os.geteuid() == 0 and bool(capabilities() & CAP_SETUID) and _first_line("/proc/self/setgroups") != "deny"


def _first_line(path: str) -> str:
    return next(iter(_lines(path)), "").strip()


def _root() -> IdMap:
    if not may_map_all():
        raise IdMapError("the id mode `root` is for root only", "leave PYBUILD_ID_MODE unset")
    return IdMap("root", _identity("/proc/self/uid_map"), _identity("/proc/self/gid_map"))


def _identity(path: str) -> tuple[Extent, ...]:
    with open(path, encoding="ascii") as file:
        rows = [line.split() for line in file]
    return tuple((int(inside), int(inside), int(count)) for inside, _, count in rows)


def _multi() -> IdMap:
    helpers = find_helper("newuidmap"), find_helper("newgidmap")
    user = _user_name()
    uids = own_ranges(_lines("/etc/subuid"), user, os.getuid())
    gids = own_ranges(_lines("/etc/subgid"), user, os.getuid())
    for ranges, path in ((uids, "/etc/subuid"), (gids, "/etc/subgid")):
        if not ranges:
            who = user or str(os.getuid())
            raise IdMapError(
                f"there are no subordinate ids for {who} in {path}",
                advice.add_ranges(who),
            )
    return IdMap("multi", chain(os.geteuid(), uids), chain(os.getegid(), gids), helpers)


def chain(own: int, ranges: Sequence[tuple[int, int]]) -> tuple[Extent, ...]:
    """Return extents that map 0 to `own` and the ids from 1 on to the (start, count) ranges in turn."""
    extents: list[Extent] = [(0, own, 1)]
    inside = 1
    for start, count in ranges[: MAX_EXTENTS - 1]:
        extents.append((inside, start, count))
        inside += count
    return tuple(extents)


def own_ranges(lines: Iterable[str], user: str, uid: int) -> list[tuple[int, int]]:
    """Return the (start, count) ranges that lines of /etc/subuid give to a user, by name or number (subuid(5))."""
    found: list[tuple[int, int]] = []
    for line in lines:
        fields = line.strip().split(":")
        if len(fields) != 3 or fields[0] not in (user, str(uid)) or not fields[0]:
            continue
        if fields[1].isdigit() and fields[2].isdigit() and int(fields[2]) > 0:
            extent = int(fields[1]), int(fields[2])
            if extent not in found:
                found.append(extent)
    return found


def find_helper(name: str) -> str:
    """Return the absolute path of a helper; raise IdMapError with advice when it is absent or has no power.

    Only the system's directories count: a program of that name elsewhere is not the one we mean.
    """
    for directory in _HELPER_PATH.split(":"):
        path = f"{directory}/{name}"
        if os.path.isfile(path) and os.access(path, os.X_OK):
            break
    else:
        raise IdMapError(f"`{name}` is not installed", advice.INSTALL_HELPERS)
    try:
        state = os.stat(path)
        powerful = (state.st_uid == 0 and bool(state.st_mode & stat.S_ISUID)) or _has_capability(path)
        mounted_without = bool(os.statvfs(path).f_flag & os.ST_NOSUID)
    except OSError as error:
        raise IdMapError(f"cannot look at `{path}`: {error.strerror}") from error
    if os.geteuid() != 0 and not powerful:
        raise IdMapError(f"`{path}` is not set-uid root", f"an administrator can do `chmod u+s {path}`")
    if os.geteuid() != 0 and (mounted_without or advice.status("NoNewPrivs") == "1"):
        raise IdMapError(f"`{path}` cannot become root here", "set-uid programs have no effect in this environment")
    return path


def _has_capability(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:
        return []


def write_maps(ids: IdMap, pid: int, run: Callable[[Sequence[str]], tuple[int, str]]) -> None:
    """Map the ids of the user namespace that process `pid` has just entered.

    Must be called outside of that namespace and while `pid` is still dumpable (its files in /proc would
    belong to another user otherwise). `run` executes a helper and returns its status and what it wrote to
    standard error. Raises IdMapError, and UserNamespaceError when the system forbids the namespace to be used.
    """
    if ids.helpers is not None:
        for helper, extents in zip(ids.helpers, (ids.uids, ids.gids), strict=True):
            words = [str(number) for extent in extents for number in extent]
            status, said = run([helper, str(pid), *words])
            if status != 0:
                name = os.path.basename(helper)
                told = " ".join(said.split()).removeprefix(f"{name}: ")
                raise IdMapError(f"`{name}` failed: {told or f'status {status}'}", advice.failed_helper(helper, told))
        if not _lines(f"/proc/{pid}/uid_map"):
            name = os.path.basename(ids.helpers[0])
            raise IdMapError(f"`{name}` ended well and has mapped nothing", advice.failed_helper(ids.helpers[0], ""))
        return
    try:
        if ids.mode == "single":
            # The kernel wants this before an ordinary user maps a group: leaving a group could give rights
            _write(f"/proc/{pid}/setgroups", "deny")
        for name, extents in (("uid_map", ids.uids), ("gid_map", ids.gids)):
            lines = (f"{inside} {outside} {count}\n" for inside, outside, count in extents)
            _write(f"/proc/{pid}/{name}", "".join(lines))
    except OSError as error:
        raise UserNamespaceError(
            f"cannot map ids in a user namespace: {error.strerror}",
            advice.user_namespaces(error.errno or 0, after_unshare=True),
        ) from error


def _write(path: str, text: str) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(text.encode())


def refused(step: str, number: int) -> SandboxError:
    """Return the error for a step of entering the namespace that failed with errno `number`."""
    message = f"cannot {step}: {os.strerror(number)}"
    return UserNamespaceError(
        message, advice.user_namespaces(number, after_unshare=not step.startswith("make a user namespace"))
    )
