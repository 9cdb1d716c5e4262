"""The overlay whose upper directory collects what a RUN changes (Documentation/filesystems/overlayfs.rst)."""

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress

from pybuild.sandbox import advice, syscalls
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.spec import SandboxSpec

UPPER = b"fs"
WORK = b"work"
_EMPTY = b"empty"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def prepare(spec: SandboxSpec) -> int:
    """Make the directories of the overlay in the staging directory; return a descriptor of it.

    The root directory of the merged tree is the upper one, so it takes after the topmost layer's. An upper directory
    that is there already is used as it is.
    """
    staging = os.open(spec.staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.mkdir(UPPER, 0o755, dir_fd=staging)
        new = True
    except FileExistsError:
        # Whoever used it before may have been killed
        clear(staging)
        new = False
    os.mkdir(WORK, 0o700, dir_fd=staging)
    if spec.lowers and new:
        take_after(spec.staging + b"/" + UPPER, spec.lowers[-1])
    if not spec.lowers:
        # The kernel insists on one
        os.mkdir(_EMPTY, 0o755, dir_fd=staging)
    return staging


def take_after(upper: bytes, lower: bytes) -> None:
    """Give the upper directory the owner and mode of the topmost layer's root."""
    state = os.stat(lower)
    os.chown(upper, state.st_uid, state.st_gid)
    os.chmod(upper, stat.S_IMODE(state.st_mode))


def clear(staging: int) -> None:
    """Leave only the upper directory. Must run in the namespace: overlayfs keeps a directory of mode 000."""
    for name in (WORK, _EMPTY):
        try:
            remove_directory(staging, name)
        except FileNotFoundError:
            continue


def remove_directory(parent: int, name: bytes) -> None:
    """Remove a directory that is not deep, with all that is in it."""
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        for child in map(os.fsencode, os.listdir(fd)):
            try:
                os.unlink(child, dir_fd=fd)
            except (IsADirectoryError, PermissionError):
                remove_directory(fd, child)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def mount(spec: SandboxSpec) -> int:
    """Return the overlay as a detached mount; changes this process's working directory."""
    lowers = spec.lowers or (spec.staging + b"/" + _EMPTY,)
    return mount_layers(lowers, spec.staging + b"/" + UPPER, spec.staging + b"/" + WORK)


def mount_layers(layers_below: Sequence[bytes], upper_path: bytes, work_path: bytes) -> int:
    """Return an overlay of these directories, bottom first; changes this process's working directory."""
    lowers = list(reversed(layers_below))
    paths = [*lowers, upper_path, work_path]
    # The process inside can read these paths in its /proc/mounts: relative ones tell nothing of the host
    common = os.path.commonpath(paths)
    os.chdir(common)
    *layers, upper, work = (os.path.relpath(path, common) for path in paths)
    try:
        return _by_parameters(layers, upper, work)
    except OSError as error:
        # Before 6.5 any parameter is taken, and refused at the end
        if error.errno != errno.EINVAL or error.filename not in ("fsconfig lowerdir+", "fsconfig create"):
            raise _explained(error) from error
    return by_options(lowers, paths[-2], paths[-1])


def _by_parameters(layers: list[bytes], upper: bytes, work: bytes) -> int:
    """The way of Linux 6.5 and later: each layer is a parameter of its own."""
    fd = syscalls.fsopen(b"overlay")
    try:
        for layer in layers:
            syscalls.fsconfig_string(fd, b"lowerdir+", layer)
        syscalls.fsconfig_string(fd, b"upperdir", upper)
        syscalls.fsconfig_string(fd, b"workdir", work)
        syscalls.fsconfig_flag(fd, b"userxattr")
        # The layer is read from the page cache and synced as a file; a crash leaves a work directory
        # that is never used again
        syscalls.fsconfig_flag(fd, b"volatile")
        syscalls.fsconfig_create(fd)
        return syscalls.fsmount(fd)
    finally:
        os.close(fd)


def trial(place: bytes) -> str:
    """Mount an overlay in the empty directory `place` and delete something in it; return why that fails, "" if not.

    The directory is empty again afterwards.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as report:
                report.write(b"." + os.fsencode(_try_in(place)))
        finally:
            # To unmount it takes the kernel a while, which is not waited for, as this process is not
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as report:
        said = report.read()
    return os.fsdecode(said[1:]) if said else "the process that tried an overlay was killed"


def _try_in(place: bytes) -> str:
    """Tell what is wrong with an overlay there; it stays open."""
    lower, upper, work = (place + b"/" + name for name in (b"lower", UPPER, WORK))
    try:
        for path in (lower, upper, work):
            os.mkdir(path, 0o755)
        os.close(os.open(lower + b"/file", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        tree = mount_layers([lower], upper, work)
        os.unlink(b"file", dir_fd=tree)
        state = os.stat(upper + b"/file")
        return "" if stat.S_ISCHR(state.st_mode) else "what is deleted in an overlay is not marked as such"
    except SandboxError as error:
        return advice.joined(error.message, error.hint)
    except OSError as error:
        return f"an overlay cannot be used: {error.strerror}"
    finally:
        with suppress(OSError):
            # By options it could only be mounted over that
            syscalls.umount(work, syscalls.MNT_DETACH)
        _empty_out(place)


def _empty_out(place: bytes) -> None:
    fd = os.open(place, _DIRECTORY)
    try:
        for name in map(os.fsencode, os.listdir(fd)):
            remove_directory(fd, name)
    finally:
        os.close(fd)


def by_options(lowers: list[bytes], upper: bytes, work: bytes) -> int:
    """Do the same for older kernels, with one string of options that may hold 4095 bytes; topmost layer first.

    The string names links, in a file system of ours, that have names as short as can be. Such a mount cannot
    be made detached: it comes to lie over the work directory, and a copy is returned.
    """
    links = syscalls.new_mount(b"tmpfs", mode="0700")
    os.fchdir(links)
    for number, path in enumerate(lowers):
        os.symlink(path, b"%x" % number)
    os.symlink(upper, b"u")
    os.symlink(work, b"w")
    layers = b":".join(b"%x" % number for number in range(len(lowers)))
    options = b"lowerdir=%b,upperdir=u,workdir=w,userxattr,volatile" % layers
    try:
        syscalls.mount(b"overlay", work, b"overlay", 0, options)
        return syscalls.open_tree(-100, work)
    except OSError as error:
        raise _explained(error) from error
    finally:
        os.close(links)


def _explained(error: OSError) -> SandboxError:
    return SandboxError(f"cannot mount the layers: {error.strerror}", advice.overlay(error.errno or 0))
