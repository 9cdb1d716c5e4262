"""Mounting volumes in the root of a RUN.

As everything in that root it happens on descriptors: sources are opened inside of what they are in, targets inside the
image, and another RUN that moves links about in a shared directory meanwhile changes at most which of its own files
are seen.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import assert_never

from pybuild.sandbox import overlay, syscalls
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.ownership import give
from pybuild.sandbox.spec import SandboxSpec
from pybuild.sandbox.stubs import Stubs
from pybuild.sandbox.syscalls import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
)
from pybuild.sandbox.volumes import Directory, File, HostDevice, HostPath, Layers, Memory, Socket, Volume
from pybuild.tree.notes import OWNER_XATTR

_SAFE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
_ATTRIBUTES = {
    "ro": MOUNT_ATTR_RDONLY,
    "nosuid": MOUNT_ATTR_NOSUID,
    "nodev": MOUNT_ATTR_NODEV,
    "noexec": MOUNT_ATTR_NOEXEC,
}
_FDCWD = -100
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_OWN = (b"dev", b"proc", b"sys")


class Attaching:
    """Mounts volumes below `root`. `files` is a file system of ours that the RUN never sees as a whole."""

    def __init__(self, spec: SandboxSpec, root: int, files: int, stubs: Stubs) -> None:
        self._spec = spec
        self._root = root
        self._files = files
        self._stubs = stubs
        self._count = 0

    def attach_all(self) -> None:
        """Mount everything, directories above before those below; raise SandboxError."""
        for volume in sorted(self._spec.volumes, key=lambda volume: volume.target):
            target = os.fsdecode(volume.target)
            with _told(f"cannot make the mount for {target}"):
                mount = self._make(volume)
            try:
                is_directory = stat.S_ISDIR(os.fstat(mount).st_mode)
                with _told(f"cannot make a place for the mount: {target}"):
                    place = self._stubs.place(volume.target, directory=is_directory)
                try:
                    check_target(self._stubs.path_of(place), target)
                    # Before it is hidden
                    self._stubs.settle()
                    with _told(f"cannot mount on {target}"):
                        syscalls.move_mount(mount, place)
                finally:
                    os.close(place)
            finally:
                os.close(mount)

    def _make(self, volume: Volume) -> int:
        """Return what is to be mounted, detached."""
        match volume:
            case Layers():
                mount = self._part(self._attach_layers(volume), volume.source, volume.target)
                read_only = volume.read_only
            case Directory():
                directory = os.open(volume.path, _PLACE | os.O_NOFOLLOW)
                mount = self._part(directory, volume.source, volume.target)
                read_only = volume.read_only
            case Memory():
                size = {"size": str(volume.size)} if volume.size else {}
                mount = syscalls.new_mount(b"tmpfs", MOUNT_ATTR_NOSUID, mode="1777", **size)
                read_only = volume.read_only
            case File():
                mount = self._file(volume)
                syscalls.mount_setattr(mount, _SAFE)
                read_only = True
            case Socket():
                give(volume.path, volume.uid, volume.gid, self._spec.emulation)
                mount = syscalls.open_tree(_FDCWD, volume.path)
                syscalls.mount_setattr(mount, _SAFE)
                read_only = False
            case HostDevice():
                mount = self._host(volume, recursive=False)
                syscalls.mount_setattr(mount, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
                read_only = False
            case HostPath():
                # What is mounted in there comes along: a part without it is what the kernel would refuse
                mount = self._host(volume, recursive=True)
                for name in volume.attributes:
                    syscalls.mount_setattr(mount, _ATTRIBUTES[name], recursive=True)
                read_only = False
            case _ as unreachable:
                assert_never(unreachable)
        if read_only:
            syscalls.mount_setattr(mount, MOUNT_ATTR_RDONLY)
        return mount

    def _host(self, volume: HostDevice | HostPath, *, recursive: bool) -> int:
        with _told(f"cannot mount {os.fsdecode(volume.path)} of this machine"):
            return syscalls.open_tree(_FDCWD, volume.path, recursive=recursive)

    def _attach_layers(self, volume: Layers) -> int:
        upper = volume.scratch + b"/" + overlay.UPPER
        overlay.take_after(upper, volume.lowers[-1])
        with suppress(OSError):
            os.setxattr(upper, OWNER_XATTR, os.getxattr(volume.lowers[-1], OWNER_XATTR))
        tree = overlay.mount_layers(volume.lowers, upper, volume.scratch + b"/" + overlay.WORK)
        # Attached somewhere: binds of detached mounts came late to the kernel
        name = self._name()
        os.mkdir(name, dir_fd=self._files)
        place = os.open(name, _PLACE, dir_fd=self._files)
        syscalls.move_mount(tree, place)
        os.close(place)
        return tree

    def _part(self, tree: int, source: bytes, target: bytes) -> int:
        """Return a bind of `source` inside of the directory `tree`, which is closed."""
        try:
            part = syscalls.openat2(tree, source or b".", os.O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SandboxError(
                f"source of the mount {os.fsdecode(target)} does not exist: /{os.fsdecode(source)}"
            ) from error
        finally:
            os.close(tree)
        try:
            mode = os.fstat(part).st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise SandboxError(f"source of a mount is neither file nor directory: /{os.fsdecode(source)}")
            return syscalls.open_tree(part, b"")
        finally:
            os.close(part)

    def _file(self, volume: File) -> int:
        name = self._name()
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._files)
        try:
            view = memoryview(volume.content)
            while view:
                view = view[os.write(fd, view) :]
            give(fd, volume.uid, volume.gid, self._spec.emulation)
            os.fchmod(fd, volume.mode)
        finally:
            os.close(fd)
        return syscalls.open_tree(self._files, name)

    def _name(self) -> bytes:
        self._count += 1
        return b"volume%d" % self._count


def check_target(path: bytes, target: str) -> None:
    """Raise SandboxError if that path in the image, to which `target` leads, cannot be mounted upon."""
    if path in _OWN or path.startswith(b"proc/"):
        raise SandboxError(f"this is no place for a mount: {target}", "/proc, /sys and /dev belong to the sandbox")


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = ""
        if error.errno == errno.EROFS:
            hint = "it is in a mount that is read-only and lacks it: make it there, or mount that with `rw`"
        raise SandboxError(f"{what}: {error.strerror}", hint) from error
