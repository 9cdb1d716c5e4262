"""Trials inside of the user namespace: the other namespaces, /proc, mounts, seccomp."""

import errno
import os

from pybuild.sandbox import advice, bpf, syscalls
from pybuild.sandbox.mounts import DEVICES
from pybuild.sandbox.probe.trial import Outcome, Steps, attempt
from pybuild.sandbox.run import seccomp_program

FALLBACK = "fall back"
"""The step of an outcome that is a lesser success."""

_FDCWD = -100
_KINDS = {
    "mount": syscalls.CLONE_NEWNS,
    "pid": syscalls.CLONE_NEWPID,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "net": syscalls.CLONE_NEWNET,
}


def namespace(steps: Steps, kind: str) -> None:
    """Make a namespace of a kind, and use its power."""
    steps(f"make a {kind} namespace")
    syscalls.unshare(_KINDS[kind])
    if kind == "mount":
        own_mounts(steps)
    elif kind == "uts":
        steps("name the host")
        syscalls.sethostname(b"pybuild")


def own_mounts(steps: Steps) -> None:
    """Part the mounts of this process, in a mount namespace, from those outside."""
    steps("separate the mount namespace")
    syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_SLAVE)
    steps("make a file system to mount")
    os.close(syscalls.fsopen(b"tmpfs"))


def proc(steps: Steps) -> Outcome:
    """Mount a /proc of a new pid namespace, or at least the one there is once more."""
    steps("make a mount and a pid namespace")
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID)
    own_mounts(steps)
    # Only a child is in the new pid namespace, and when the first one ends there can be no other
    return attempt(_proc)


def _proc(steps: Steps) -> Outcome:
    steps("mount a new /proc")
    try:
        os.close(syscalls.new_mount(b"proc"))
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    else:
        return Outcome()
    steps("bind /proc")
    os.close(syscalls.open_tree(_FDCWD, b"/proc", recursive=True))
    problem = "cannot mount a new /proc: Operation not permitted; the one that is there is used"
    return Outcome(FALLBACK, errno.EPERM, problem, advice.masked_proc())


def mounts(steps: Steps) -> None:
    """Mount the other things a RUN sees, on descriptors, and move the root."""
    namespace(steps, "mount")
    steps("make an ipc namespace")
    syscalls.unshare(syscalls.CLONE_NEWIPC)
    steps("mount a tmpfs")
    root = syscalls.new_mount(b"tmpfs", syscalls.MOUNT_ATTR_NOSUID, mode="0755")
    steps("mount devpts")
    os.close(syscalls.new_mount(b"devpts", ptmxmode="0666"))
    steps("mount mqueue")
    os.close(syscalls.new_mount(b"mqueue"))
    steps("bind devices")
    for name in DEVICES:
        os.close(syscalls.open_tree(_FDCWD, b"/dev/" + name.encode()))
    steps("bind /sys")
    sys = syscalls.open_tree(_FDCWD, b"/sys", recursive=True)
    steps("make a mount read-only")
    syscalls.mount_setattr(sys, syscalls.MOUNT_ATTR_RDONLY, recursive=True)
    steps("attach a mount")
    place = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    syscalls.move_mount(root, place)
    steps("move the root")
    os.fchdir(root)
    syscalls.pivot_root(b".", b".")
    syscalls.umount(b".", syscalls.MNT_DETACH)


def seccomp(steps: Steps) -> None:
    """Install the filter of a RUN the way that keeps set-uid programs working, which takes rights."""
    steps("install a seccomp filter")
    syscalls.seccomp_filter(seccomp_program())
    steps("be refused by it")
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
    except PermissionError:
        return
    raise OSError(0, "the filter has no effect")


def seccomp_notify(steps: Steps) -> None:
    """Can a filter ask another process?"""
    steps("find user notification among the actions of seccomp")
    syscalls.seccomp_offers(bpf.NOTIFY)
    steps("install a filter with a listener")
    # Without rights in a user namespace of its own it takes this promise
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    os.close(syscalls.seccomp_listener(bpf.op(bpf.RETURN, bpf.ALLOW)))
