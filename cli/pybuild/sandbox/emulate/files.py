"""Files as the image means them: real ones with the notes on them. Descriptors may be of O_PATH.

A descriptor is reached through /proc/self/fd, which leads to the very file, a symbolic link included. The root
directory being a caller's, that of the host's /proc is a step up from the working directory (see `caller`).
"""

import errno
import os
import stat
from collections.abc import Collection
from typing import NamedTuple

from pybuild.tree.notes import (
    LINK_XATTR,
    NODE_XATTR,
    OWNER_XATTR,
    link_note,
    node_note,
    owner_note,
    read_link,
    read_node,
    read_owner,
)

_OWNER, _NODE, _LINK = (os.fsdecode(name) for name in (OWNER_XATTR, NODE_XATTR, LINK_XATTR))
NOTES = frozenset((_OWNER, _NODE, _LINK))
"""The names of all attributes that may be notes."""
_NOTHING = (errno.ENODATA, errno.EOPNOTSUPP)


class Note(NamedTuple):
    """What is noted on a file."""

    uid: int = 0
    gid: int = 0
    node: tuple[str, int, int] | None = None


PLAIN = Note()


def magic(fd: int) -> bytes:
    """Return a path that leads to what a descriptor refers to."""
    return b"../self/fd/%d" % fd


def _get(path: bytes, name: bytes) -> bytes:
    try:
        return os.getxattr(path, name)
    except OSError as error:
        # Files of other users, as there are in /proc, are not the image's and have no notes
        if error.errno in (*_NOTHING, errno.EACCES, errno.EPERM):
            return b""
        raise


def note_of(fd: int, mode: int, size: int, names: Collection[str] = NOTES) -> Note:
    """Return what is noted on a file of a mode (with its type) and size, PLAIN when nothing is.

    `names` are the attributes that it may have.
    """
    kind = stat.S_IFMT(mode)
    path = magic(fd)
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        owner = read_owner(_get(path, OWNER_XATTR)) if _OWNER in names else None
        # Only an empty file can stand for a device, so most need no second look
        empty = kind == stat.S_IFREG and size == 0 and _NODE in names
        node = read_node(_get(path, NODE_XATTR)) if empty else None
    elif kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK):
        owner, node = read_link(_get(path, LINK_XATTR)), None
    else:
        return PLAIN
    if owner is None and node is None:
        return PLAIN
    return Note(*(owner or (0, 0)), node)


def attributes(fd: int) -> list[bytes] | None:
    """Return the names of a file's attributes that are no notes; None when none of them is a note."""
    path = magic(fd)
    try:
        names = os.listxattr(path)
    except OSError:
        return None
    noted = {_OWNER, _NODE}.intersection(names)
    if _LINK in names and read_link(_get(path, LINK_XATTR)) is not None:
        noted.add(_LINK)
    return [os.fsencode(name) for name in names if name not in noted] if noted else None


def set_owner(fd: int, kind: int, uid: int, gid: int) -> None:
    """Note an owner; root's need no note. Nothing happens where notes cannot be, which is in no layer either."""
    _set(magic(fd), kind, uid, gid, follow=True)


def set_owner_of_new(parent: int, name: bytes, kind: int, uid: int, gid: int) -> None:
    """Note the owner of what was just made in a directory, as `set_owner` does."""
    _set(b"%b/%b" % (magic(parent), name), kind, uid, gid, follow=False)


def set_owner_of_opened(fd: int, uid: int, gid: int) -> None:
    """Note the owner of a regular file of which this is not an O_PATH descriptor, as `set_owner` does."""
    _set(fd, stat.S_IFREG, uid, gid, follow=True)


def _set(path: int | bytes, kind: int, uid: int, gid: int, *, follow: bool) -> None:
    plain = stat.S_ISREG(kind) or stat.S_ISDIR(kind)
    name = OWNER_XATTR if plain else LINK_XATTR
    try:
        if uid or gid:
            note = owner_note(uid, gid) if plain else link_note(uid, gid)
            os.setxattr(path, name, note, follow_symlinks=follow)
        else:
            os.removexattr(path, name, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in _NOTHING:
            raise


def set_node(fd: int, kind: str, major: int, minor: int) -> None:
    """Let an empty file stand for a device."""
    os.setxattr(magic(fd), NODE_XATTR, node_note(kind, major, minor))
