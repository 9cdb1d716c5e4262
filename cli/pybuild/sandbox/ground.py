"""What the root of a RUN is made of: an overlay of layers, or one whole tree that is changed in place.

The latter is for stores that overlayfs cannot write to. Beside the tree, in the staging directory, lies what a mount
took the place of, for the time of the RUN, and afterwards the paths whose ctime was changed by that alone.
"""

import os
from collections.abc import Collection
from contextlib import suppress

import msgspec

from pybuild.sandbox import overlay, syscalls
from pybuild.sandbox.overlay import UPPER
from pybuild.sandbox.spec import SandboxSpec
from pybuild.sandbox.stubs import Made, put_back, remove_stubs
from pybuild.tree.notes import LENT

VARIABLE = "PYBUILD_SNAPSHOTTER"

TABLE = b"table"
"""Name of the note of how the tree was before; its content is the business of `layer`."""

_ASIDE = b"aside"
_TOUCHED = b"touched"
_FDCWD = -100
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def prepare(spec: SandboxSpec) -> int:
    """Make what is needed in the staging directory; return a descriptor of it. Raises OSError."""
    if spec.snapshotter == "overlay":
        return overlay.prepare(spec)
    staging = os.open(spec.staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    # Whoever used it before may have been killed
    _clear_aside(staging)
    os.mkdir(_ASIDE, 0o700, dir_fd=staging)
    return staging


def mount(spec: SandboxSpec) -> int:
    """Return the root as a detached mount; may change this process's working directory."""
    if spec.snapshotter == "overlay":
        return overlay.mount(spec)
    return syscalls.open_tree(_FDCWD, spec.staging + b"/" + UPPER)


def open_aside(spec: SandboxSpec, staging: int) -> int | None:
    """Return a descriptor of the directory for what is replaced, None where the layers below keep it."""
    if spec.snapshotter == "overlay":
        return None
    return os.open(_ASIDE, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging)


def finish(
    spec: SandboxSpec, staging: int, upper: int, made: Made, touched_too: Collection[bytes] = frozenset()
) -> None:
    """Take out of the tree `upper` what was made for mounts, and leave nothing else in `staging` that is not needed."""
    gone = remove_stubs(upper, made)
    if spec.snapshotter == "overlay":
        overlay.clear(staging)
        return
    with suppress(FileNotFoundError):
        os.unlink(LENT, dir_fd=staging)
    aside = os.open(_ASIDE, _DIRECTORY, dir_fd=staging)
    try:
        # What the RUN itself has removed or replaced is not as it was
        for path, name in made.aside:
            if path in gone:
                put_back(upper, path, aside, name)
    finally:
        os.close(aside)
    _clear_aside(staging)
    _note_touched(staging, made, touched_too)


def note(staging: int, name: bytes, data: bytes) -> None:
    """Write something down beside the tree, whole or not at all."""
    new = name + b".new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(new, flags, 0o600, dir_fd=staging), "wb") as file:
        file.write(data)
    os.rename(new, name, src_dir_fd=staging, dst_dir_fd=staging)


def noted(staging: int, name: bytes) -> bytes | None:
    """Return what was written down, None for nothing."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read()


def touched(staging: int) -> list[bytes]:
    """Return the paths whose ctime was changed by mounts."""
    data = noted(staging, _TOUCHED)
    return [] if data is None else msgspec.msgpack.decode(data, type=list[bytes])


class Lent:
    """The note of what was moved into a tree and is to be moved back, should the RUN's own job be killed."""

    def __init__(self, staging: int) -> None:
        self._staging = staging
        self._found: list[tuple[bytes, bytes, int]] = []

    def add(self, path: bytes, home: bytes, inode: int) -> None:
        """Note that the directory of that inode, from the path `home`, is about to be at `path` of the tree."""
        self._found.append((path, home, inode))
        note(self._staging, os.fsencode(LENT), msgspec.msgpack.encode(self._found))


def give_back(staging: int) -> None:
    """Move back what a killed RUN had in its tree, as far as it is there and is not made anew."""
    data = noted(staging, os.fsencode(LENT))
    if data is None:
        return
    for path, home, inode in msgspec.msgpack.decode(data, type=list[tuple[bytes, bytes, int]]):
        above, _, name = (UPPER + b"/" + path).rpartition(b"/")
        # What is gone is lost, and what is there again is newer
        with suppress(OSError):
            parent = syscalls.openat2(staging, above, os.O_RDONLY | os.O_DIRECTORY, syscalls.RESOLVE_NO_SYMLINKS)
            try:
                if os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino == inode:
                    os.rename(name, home, src_dir_fd=parent)
            finally:
                os.close(parent)


def forget(staging: int) -> None:
    """Remove what was noted: what comes next starts from the tree as it is."""
    for name in (TABLE, _TOUCHED):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=staging)


def _note_touched(staging: int, made: Made, more: Collection[bytes]) -> None:
    paths = [path for path, _ in (*made.files, *made.directories, *made.aside)] + [item.path for item in made.lent]
    parents = {path.rpartition(b"/")[0] for path in paths}
    known = set(touched(staging))
    found = known.union(parents, (path for path, _ in made.aside), more)
    if found != known:
        note(staging, _TOUCHED, msgspec.msgpack.encode(sorted(found)))


def _clear_aside(staging: int) -> None:
    try:
        aside = os.open(_ASIDE, _DIRECTORY, dir_fd=staging)
    except FileNotFoundError:
        return
    try:
        for name in map(os.fsencode, os.listdir(aside)):
            try:
                os.unlink(name, dir_fd=aside)
            except IsADirectoryError:
                overlay.remove_directory(aside, name)
    finally:
        os.close(aside)
    os.rmdir(_ASIDE, dir_fd=staging)
