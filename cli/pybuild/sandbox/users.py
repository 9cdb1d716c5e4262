"""The USER of an image, looked up in the image's own files by our own reader.

Nothing of the host is asked, and no library of the image is loaded: its name service could be hostile.
"""

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from pybuild.sandbox import syscalls
from pybuild.sandbox.errors import ImageUserError

READ_LIMIT = 1 << 20
"""Most bytes read of /etc/passwd or /etc/group."""

MAX_ID = 2**32 - 2


class Identity(NamedTuple):
    """Ids of a process and the home directory that belongs to them. `groups` holds `gid` too."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve_user(root_fd: int, user: str) -> Identity:
    """Return who `user[:group]` is in the image whose root is `root_fd`; "" is root.

    A number that is no user's has group 0. Without a group the user's supplementary groups are
    included, with one only that group. Raises ImageUserError for a name that is not there.
    """
    name, colon, group = user.partition(":")
    uid, gid, home, known = _user(root_fd, name or "0")
    if colon and group:
        gid = _group(root_fd, group)
        return Identity(uid, gid, (gid,), home)
    others = [] if known is None else _memberships(root_fd, known)
    return Identity(uid, gid, tuple(dict.fromkeys((gid, *others))), home)


def _user(root_fd: int, name: str) -> tuple[int, int, str, str | None]:
    number = _number(name)
    by_number: tuple[int, int, str, str | None] | None = None
    for fields in _rows(root_fd, b"etc/passwd", 4):
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is None or gid is None:
            continue
        found = (uid, gid, (fields[5] if len(fields) > 5 else "") or "/", fields[0])
        if fields[0] == name:
            return found
        if uid == number and by_number is None:
            by_number = found
    if by_number is not None:
        return by_number
    if number is None:
        raise ImageUserError(
            f"no such user in the image's /etc/passwd: {name}", "create the user in a RUN before, or use its number"
        )
    if number > MAX_ID:
        raise ImageUserError(f"user id is out of range: {name}")
    return number, 0, "/root" if number == 0 else "/", None


def _group(root_fd: int, name: str) -> int:
    for fields in _rows(root_fd, b"etc/group", 3):
        gid = _number(fields[2])
        if fields[0] == name and gid is not None:
            return gid
    number = _number(name)
    if number is None:
        raise ImageUserError(
            f"no such group in the image's /etc/group: {name}", "create the group in a RUN before, or use its number"
        )
    if number > MAX_ID:
        raise ImageUserError(f"group id is out of range: {name}")
    return number


def _memberships(root_fd: int, user: str) -> list[int]:
    return [
        gid
        for fields in _rows(root_fd, b"etc/group", 4)
        if user in fields[3].split(",") and (gid := _number(fields[2])) is not None and gid <= MAX_ID
    ]


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def _rows(root_fd: int, path: bytes, least: int) -> Iterator[list[str]]:
    for line in read_file(root_fd, path).decode(errors="surrogateescape").split("\n"):
        fields = line.strip("\r").split(":")
        if len(fields) >= least and not line.startswith("#"):
            yield fields


def read_file(root_fd: int, path: bytes) -> bytes:
    """Return a small file of the image, b"" when absent; links are followed inside the image.

    Raises ImageUserError for what is no regular file (a device would never end, a fifo never begin) or
    larger than READ_LIMIT.
    """
    shown = "/" + path.decode()
    try:
        fd = syscalls.openat2(
            root_fd,
            path,
            os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY,
            syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS,
        )
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise ImageUserError(f"cannot read the image's {shown}: {error.strerror}") from error
    try:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode):
            raise ImageUserError(f"the image's {shown} is not a regular file")
        if state.st_size > READ_LIMIT:
            raise ImageUserError(f"the image's {shown} is over {READ_LIMIT} bytes")
        return os.read(fd, READ_LIMIT)
    finally:
        os.close(fd)
