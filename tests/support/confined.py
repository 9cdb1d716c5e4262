"""Runs a command in a worse world: `python confined.py LACK COMMAND...`, each lack by the mechanism that causes it.

Not imported by tests but executed: what it does to itself cannot be undone.
"""

import os
import struct
import subprocess
import sys
import tempfile

from pybuild.sandbox import caps, idmap, syscalls
from pybuild.sandbox.machine import this_machine
from pybuild.sandbox.probe.trial import SECONDS

_FDCWD = -100


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _own_namespace() -> None:
    """Become root of a user namespace with one id, and have mounts of one's own."""
    uid, gid = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {uid} 1")
    _write("/proc/self/gid_map", f"0 {gid} 1")
    syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE)


def no_user_namespaces() -> None:
    """The sysctl user.max_user_namespaces, which each user namespace has of its own."""
    _own_namespace()
    _write("/proc/sys/user/max_user_namespaces", "0")


def seccomp() -> None:
    """A filter that answers EPERM to unshare, as containers have."""
    load, equal, give = 0x20, 0x15, 0x06
    rows = [
        (load, 0, 0, 0),
        (equal, 0, 1, this_machine().numbers["unshare"]),
        (give, 0, 0, 0x00050001),
        (give, 0, 0, 0x7FFF0000),
    ]
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.seccomp_filter(b"".join(struct.pack("HBBI", *row) for row in rows))


def _filter(*denied: str) -> None:
    """Answer EPERM to these calls, and to clone when it asks for a namespace; clone3 is answered ENOSYS."""
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    numbers = this_machine().numbers
    rows = [(load, 0, 0, 0)]
    for name in denied:
        rows += [(equal, 0, 1, numbers[name]), (give, 0, 0, 0x00050001)]
    rows += [(equal, 0, 1, numbers["clone3"]), (give, 0, 0, 0x00050026)]
    rows += [(equal, 0, 3, numbers["clone"]), (load, 0, 0, 16), (any_bit, 0, 1, 0x7E020000), (give, 0, 0, 0x00050001)]
    rows += [(give, 0, 0, 0x7FFF0000)]
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.seccomp_filter(b"".join(struct.pack("HBBI", *row) for row in rows))


def listener() -> None:
    """A filter that has a listener, as those of containers whose runtime answers some of their calls."""
    _own_namespace()
    # Nothing is asked; it stays open as long as this process lives
    syscalls.seccomp_listener(struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))


_MOUNTING = (
    "mount",
    "umount2",
    "pivot_root",
    "fsopen",
    "fsconfig",
    "fsmount",
    "open_tree",
    "move_mount",
    "mount_setattr",
)


def container() -> None:
    """Root of a container with Docker's capabilities and the calls its filter refuses: no namespaces, no mounts."""
    if os.geteuid() != 0:
        _own_namespace()
    caps.limit_bounding_set()
    caps.limit_own()
    _filter("unshare", "setns", *_MOUNTING)


def container_without_chroot() -> None:
    """As `container`, and the capability to change the root directory is missing too."""
    if os.geteuid() != 0:
        _own_namespace()
    caps.limit_bounding_set()
    kept = caps.KEPT & syscalls.capabilities() & ~(1 << caps.NUMBERS["SYS_CHROOT"])
    syscalls.prctl(syscalls.PR_CAPBSET_DROP, caps.NUMBERS["SYS_CHROOT"])
    syscalls.capset(kept, kept, 0)
    _filter("unshare", "setns", *_MOUNTING)


def no_mounts() -> None:
    """User namespaces may be made, and nothing be mounted in them."""
    _filter(*_MOUNTING)


def no_mount_descriptors() -> None:
    """Mounts can be made, but not by the calls for descriptors of them, as where a filter is older than they are."""
    _filter("fsopen", "fsconfig", "fsmount", "open_tree", "move_mount")


def chroot() -> None:
    """A root directory that is no mount, with all of this system in it."""
    _own_namespace()
    place = tempfile.mkdtemp()
    for name in os.listdir("/"):
        source = f"/{name}"
        if os.path.islink(source):
            os.symlink(os.readlink(source), place + source)
        elif os.path.isdir(source):
            os.mkdir(place + source)
            syscalls.mount(source.encode(), (place + source).encode(), b"", syscalls.MS_BIND | syscalls.MS_REC)
    os.chroot(place)
    os.chdir("/")


def masked_proc() -> None:
    """A /proc of which a part is covered by another mount."""
    _own_namespace()
    syscalls.mount(b"/dev/null", b"/proc/uptime", b"", syscalls.MS_BIND)


def nested() -> None:
    """As many user namespaces inside each other as the kernel allows."""
    for _ in range(40):
        try:
            _own_namespace()
        except OSError:
            return
    raise SystemExit("there is no limit")


def store_on_overlay() -> None:
    """A store on an overlay, as in a container."""
    _own_namespace()
    store = os.environ["PYBUILD_STORE"]
    os.makedirs(store, exist_ok=True)
    base = tempfile.mkdtemp(dir=os.path.dirname(store))
    for name in ("lower", "upper", "work"):
        os.mkdir(f"{base}/{name}")
    options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work,userxattr"
    syscalls.mount(b"overlay", store.encode(), b"overlay", 0, options.encode())


def read_only_store() -> None:
    """A store on a file system mounted read-only."""
    _own_namespace()
    store = os.environ["PYBUILD_STORE"].encode()
    os.makedirs(store, exist_ok=True)
    syscalls.mount(b"none", store, b"tmpfs", syscalls.MS_RDONLY)


def store_limits() -> None:
    """A store on a file system mounted nosuid, nodev and noexec."""
    _own_namespace()
    store = os.environ["PYBUILD_STORE"].encode()
    os.makedirs(store, exist_ok=True)
    syscalls.mount(b"none", store, b"tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)


USER = 12345


def _cover(text: str, mode: int, *paths: str) -> None:
    """Put a file of this content in the place of each path."""
    place = tempfile.mkdtemp()
    os.chmod(place, 0o755)
    _write(f"{place}/file", text)
    os.chmod(f"{place}/file", mode)
    for path in paths:
        syscalls.mount(f"{place}/file".encode(), path.encode(), b"", syscalls.MS_BIND)


def _become(user: int, group: int) -> None:
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def _own_mounts() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE)


def _with_helper(script: str, mode: int, ranges: str) -> None:
    """As root: become a user with `ranges` for whom newuidmap is `script`."""
    _own_mounts()
    _cover(script, mode, *map(_helper, ("newuidmap", "newgidmap")))
    _cover(ranges, 0o644, "/etc/subuid", "/etc/subgid")
    _become(USER, USER)


def _helper(name: str) -> str:
    return idmap.find_helper(name)


def failing_helper() -> None:
    """A newuidmap with the set-uid bit that exits with 1."""
    _with_helper("#!/bin/sh\necho no luck >&2\nexit 1\n", 0o4755, "12345:100000:65536\n")


def idle_helper() -> None:
    """A newuidmap with the set-uid bit that does nothing and says that all is well."""
    _with_helper("#!/bin/sh\n", 0o4755, "12345:100000:65536\n")


def powerless_helper() -> None:
    """A newuidmap without the set-uid bit."""
    _with_helper("#!/bin/sh\n", 0o755, "12345:100000:65536\n")


def no_ranges() -> None:
    """Helpers, and no range for this user."""
    _with_helper("#!/bin/sh\n", 0o4755, "somebody:100000:65536\n")


def no_control_groups() -> None:
    """Control groups that are there and cannot be reached."""
    _own_namespace()
    syscalls.mount(b"none", b"/sys/fs/cgroup", b"tmpfs", syscalls.MS_RDONLY)


def no_new_privileges() -> None:
    """Helpers and ranges, but set-uid programs get no rights here."""
    _with_helper("#!/bin/sh\n", 0o4755, "12345:100000:65536\n")
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


def other_group() -> None:
    """The helpers of this system, which want a user to have the group that is theirs."""
    _own_mounts()
    _cover(f"somebody:x:{USER}:{USER}::/:/bin/sh\n", 0o644, "/etc/passwd")
    _cover("somebody:100000:65536\n", 0o644, "/etc/subuid", "/etc/subgid")
    _become(USER, USER + 1)


def refused_helper() -> None:
    """The helpers of this system and a range, in a container whose ids do not include it."""
    _own_namespace()
    _cover("0:100000:65536\n", 0o644, "/etc/subuid", "/etc/subgid")


LACKS = {
    action.__name__: action
    for action in (
        *(no_user_namespaces, seccomp, chroot, masked_proc, nested, store_on_overlay, read_only_store, store_limits),
        *(failing_helper, idle_helper, powerless_helper, no_ranges, no_new_privileges, other_group, refused_helper),
        *(no_control_groups, container, container_without_chroot, no_mounts, no_mount_descriptors, listener),
    )
}

if __name__ == "__main__":
    LACKS[sys.argv[1]]()
    sys.exit(subprocess.run(sys.argv[2:], timeout=4 * SECONDS, check=False).returncode)
