"""Trials of the place where the store is, or would be made."""

import os
import stat
import tempfile
from typing import NamedTuple

from pybuild.sandbox import overlay, syscalls
from pybuild.sandbox.probe.namespaces import namespace
from pybuild.sandbox.probe.trial import Steps
from pybuild.sandbox.spec import SandboxSpec

MOUNTS = "/proc/self/mountinfo"
_NETWORKED = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs")


class Mounted(NamedTuple):
    """The mount a path lies on."""

    kind: str
    options: frozenset[str]

    @property
    def networked(self) -> bool:
        """Does it lie on another machine?"""
        return self.kind in _NETWORKED

    def describe(self) -> str:
        """Return it for people: the file system and what limits it."""
        limits = [name for name in ("ro", "nosuid", "nodev", "noexec") if name in self.options]
        network = ", over the network" if self.networked else ""
        return f"{self.kind}{network}{f' ({chr(44).join(limits)})' if limits else ''}"


def existing(path: str) -> str:
    """Return the path, or the directory nearest above it that exists."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def mounted(path: str) -> Mounted:
    """Return what mount a path lies on, as /proc tells."""
    number = os.stat(path).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    path = os.path.realpath(path)
    best, found = -1, Mounted("unknown", frozenset())
    with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            words = fields.split()
            place = words[4].encode("utf-8", "surrogateescape").decode("unicode_escape", "replace")
            covers = path == place or path.startswith(place.rstrip("/") + "/")
            # Some file systems give their files other device numbers; the deepest mount wins then, the last of equals
            score = len(place) + (1 << 16 if words[2] == device else 0)
            if covers and score >= best:
                best, found = score, Mounted(rest.split()[0], frozenset(words[5].split(",")))
    return found


def writable(steps: Steps, place: str) -> str:
    """Make a directory and a file in the place, and try its links; tell what it lies on."""
    steps(f"make a directory in {place}")
    with tempfile.TemporaryDirectory(prefix=".pybuild-probe-", dir=place) as directory:
        steps("write a file there")
        with open(f"{directory}/file", "xb") as file:
            file.write(b"x")
        steps("make a hard link there")
        os.link(f"{directory}/file", f"{directory}/link")
    return mounted(place).describe()


def attributes(steps: Steps, directory: str) -> None:
    """Set the kind of extended attribute that owners and deleted directories are noted in."""
    path = f"{directory}/attributes"
    steps("write a file in the store")
    with open(path, "xb"):
        pass
    steps("set an extended attribute of a file in the store")
    os.setxattr(path, "user.pybuild.probe", b"x")


def layers(steps: Steps, directory: str) -> str:
    """Mount an overlay in the store and change things in it; tell by which interface it was mounted."""
    steps("make directories in the store")
    lower, staging = f"{directory}/lower", f"{directory}/staging"
    os.makedirs(f"{lower}/directory")
    with open(f"{lower}/file", "xb"):
        pass
    os.mkdir(staging)
    spec = SandboxSpec(argv=("true",), lowers=(os.fsencode(lower),), staging=os.fsencode(staging))
    namespace(steps, "mount")
    steps("prepare an overlay")
    staged = overlay.prepare(spec)
    try:
        steps("mount an overlay")
        tree = overlay.mount(spec)
        steps("remove a file of a lower layer")
        os.unlink("file", dir_fd=tree)
        steps("replace a directory of a lower layer")
        os.rmdir("directory", dir_fd=tree)
        os.mkdir("directory", dir_fd=tree)
        os.close(tree)
        steps("find what was removed in the upper layer")
        state = os.stat(f"{staging}/fs/file")
        if not stat.S_ISCHR(state.st_mode) or state.st_rdev != 0:
            raise OSError(0, "it is no deletion of overlayfs")
        return _interface(lower)
    finally:
        os.chdir("/")
        overlay.clear(staged)


def _interface(lower: str) -> str:
    fd = syscalls.fsopen(b"overlay")
    try:
        syscalls.fsconfig_string(fd, b"lowerdir+", os.fsencode(lower))
        # Older kernels take everything, to refuse it later
        syscalls.fsconfig_string(fd, b"no-such-parameter", b"x")
    except OSError as error:
        return "by mount options" if error.filename == "fsconfig lowerdir+" else "by `lowerdir+`"
    finally:
        os.close(fd)
    return "by mount options"
