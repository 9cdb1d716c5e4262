"""The short way: most calls need only to be let through, and what that takes is asked in as few steps as can be.

A RUN asks some calls a file, and waits for each answer: here every step is counted. Nothing is decided on the short
way but that the kernel may carry a call out as it stands, and what becomes the owner of an open file. All else, and
all that is unclear, goes the long way (`filecalls`).
"""

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from pybuild.sandbox.emulate import credentials as rules
from pybuild.sandbox.emulate.caller import AT_FDCWD, Caller, signed, where
from pybuild.sandbox.emulate.filecalls import give_owner, tell
from pybuild.sandbox.emulate.files import NOTES
from pybuild.sandbox.emulate.filter import UNNAMED
from pybuild.sandbox.emulate.memory import SHORT
from pybuild.sandbox.emulate.notify import Notification
from pybuild.tree.notes import OWNER_XATTR, owner_note

LONG = -1
"""The long way is to be gone."""

Quick = Callable[[Notification], int | None]
"""Returns the call's value, None to let the kernel carry it out, or LONG."""

pread = os.pread
_ARGS = 6
_LOW = 0xFFFFFFFF
_CWD = AT_FDCWD & _LOW
_EMPTY_PATH = 0x1000
_NOFOLLOW = 0x100
_SYNC = 0x6000
# What is in these differs from process to process
_APART = (b"/proc/", b"/dev/")


class Shape(NamedTuple):
    """Which arguments of a call are what; -1 for what it has not. `always` are the flags of those that take none."""

    path: int
    fd: int = -1
    flags: int = -1
    always: int = 0


_STATS = {
    "stat": Shape(0),
    "lstat": Shape(0, always=_NOFOLLOW),
    "newfstatat": Shape(1, 0, 3),
    "statx": Shape(1, 0, 2),
}
_CREATES = {
    "open": Shape(0, flags=1),
    "openat": Shape(1, 0, flags=2),
    "creat": Shape(0),
    "mkdir": Shape(0),
    "mkdirat": Shape(1, 0),
    "symlink": Shape(1),
    "symlinkat": Shape(2, 1),
}
_CHOWNS = {
    "chown": Shape(0),
    "lchown": Shape(0, always=_NOFOLLOW),
    "fchownat": Shape(1, 0, 4),
}


def quick_answers(caller: Caller) -> dict[str, Quick]:
    """Return the short ways by the names of calls."""
    return {
        **{name: _looking(caller, shape) for name, shape in _STATS.items()},
        **{name: _owning_named(caller, shape) for name, shape in _CHOWNS.items()},
        **{name: _creating(caller, shape) for name, shape in _CREATES.items()},
        "fchown": _owning(caller),
    }


def _looking(caller: Caller, shape: Shape) -> Quick:
    """Let the kernel tell about files on which nothing is noted."""
    there, unnoted = _Words(shape), _unnoted(caller)
    buffer = there.path + 1 if shape.flags != 2 else _ARGS + 4
    extended = shape.flags == 2

    def quick(asked: Notification) -> int | None:
        pid = asked[1]
        if pid != caller.here:
            return LONG
        flags = asked[there.flags] if there.flags else shape.always
        try:
            path, end, _ = pread(caller.words, SHORT, asked[there.path]).partition(b"\0")
        except (OSError, OverflowError):
            return LONG
        if not end:
            return _cut_short(caller, path)
        follow = not flags & _NOFOLLOW
        if path[:1] == b"/":
            place = b"root" + path
        else:
            fd = asked[there.fd] & _LOW if there.fd else _CWD
            if not path and flags & _EMPTY_PATH:
                # A descriptor may be of a link, but there it is the way and not the end
                place, follow = b"cwd" if fd == _CWD else b"fd/%d" % fd, True
            else:
                place = b"cwd/" + path if fd == _CWD else b"fd/%d/%b" % (fd, path)
        value = unnoted(place, path, follow)
        if value is None or path.startswith(_APART):
            return value
        try:
            held = os.open(place, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
        except OSError:
            return LONG
        try:
            how = (flags & _SYNC, asked[_ARGS + 3] & _LOW) if extended else None
            return tell(caller, held, asked[buffer], how)
        finally:
            os.close(held)

    return quick


def _creating(caller: Caller, shape: Shape) -> Quick:
    """Will what root makes be root's, as nothing is noted on the directory?"""
    there, unnoted = _Words(shape), _unnoted(caller)

    def quick(asked: Notification) -> int | None:
        pid = asked[1]
        who = caller.who
        if pid != caller.here or who.uids[3] or who.gids[3] or (there.flags and asked[there.flags] & UNNAMED):
            return LONG
        try:
            path, end, _ = pread(caller.words, SHORT, asked[there.path]).partition(b"\0")
        except (OSError, OverflowError):
            return LONG
        if not end:
            return _cut_short(caller, path)
        above, _, name = path.rpartition(b"/")
        if not name:
            return LONG
        if path[:1] == b"/":
            place = b"root" + above
        else:
            fd = asked[there.fd] & _LOW if there.fd else _CWD
            place = b"cwd/" + above if fd == _CWD else b"fd/%d/%b" % (fd, above)
        value = unnoted(place, path, True)
        if value is None:
            return None
        try:
            # Only then a directory gives its group on
            return LONG if os.stat(place).st_mode & stat.S_ISGID else None
        except OSError:
            return LONG

    return quick


def _cut_short(caller: Caller, path: bytes) -> int:
    if not path:
        # Memory that is no more: another thread of the process has executed a program
        caller.forget()
    return LONG


def _owning_named(caller: Caller, shape: Shape) -> Quick:
    """Note the owner of a file that is named; what becomes root's, and is, the kernel can deal with."""
    there, unnoted = _Words(shape), _unnoted(caller)
    ids = there.path + 1

    def quick(asked: Notification) -> int | None:
        uid, gid = asked[ids] & _LOW, asked[ids + 1] & _LOW
        if (
            asked[1] != caller.here
            or uid == rules.UNCHANGED
            or gid == rules.UNCHANGED
            or not caller.who.effective & rules.CHOWN
        ):
            return LONG
        flags = asked[there.flags] if there.flags else shape.always
        try:
            path, end, _ = pread(caller.words, SHORT, asked[there.path]).partition(b"\0")
        except (OSError, OverflowError):
            return LONG
        if not end:
            return _cut_short(caller, path)
        if not path:
            return LONG
        fd = signed(asked[there.fd]) if there.fd else AT_FDCWD
        if not uid | gid:
            value = unnoted(where(fd, path), path, not flags & _NOFOLLOW)
            if value is None:
                return None
        # If it is not, that was not its path
        if not caller.is_there():
            return LONG
        held = caller.open(fd, path, os.O_PATH | (os.O_NOFOLLOW if flags & _NOFOLLOW else 0))
        try:
            give_owner(caller, held, uid, gid)
        finally:
            os.close(held)
        return 0

    return quick


def _owning(caller: Caller) -> Quick:
    """Note the owner of a file that is open, without opening it: what is found by `here` is the caller's own."""
    unnoted = _unnoted(caller)

    def quick(asked: Notification) -> int | None:
        uid, gid = asked[_ARGS + 1] & _LOW, asked[_ARGS + 2] & _LOW
        if (
            asked[1] != caller.here
            or uid == rules.UNCHANGED
            or gid == rules.UNCHANGED
            or not caller.who.effective & rules.CHOWN
        ):
            return LONG
        place = b"fd/%d" % (asked[_ARGS] & _LOW)
        if not uid | gid:
            return unnoted(place, b"", True)
        try:
            # The kernel's part, such as to take set-id bits away
            os.chown(place, 0, 0)
            os.setxattr(place, OWNER_XATTR, owner_note(uid, gid))
        except OSError:
            # The long way tells why
            return LONG
        return 0

    return quick


def _unnoted(caller: Caller) -> Callable[[bytes, bytes, bool], int | None]:
    """Return what lets a call through when nothing is noted on the file at a place; `path` is the caller's word."""
    listxattr, disjoint, alive = os.listxattr, NOTES.isdisjoint, caller.is_there

    def unnoted(place: bytes, path: bytes, follow: bool) -> int | None:
        try:
            names = listxattr(place, follow_symlinks=follow)
        except FileNotFoundError:
            return None if alive() and not path.startswith(_APART) else LONG
        except OSError:
            return LONG
        return None if not names or disjoint(names) else LONG

    return unnoted


class _Words:
    """Where a shape's arguments are in a notification, 0 for none."""

    __slots__ = ("fd", "flags", "path")

    def __init__(self, shape: Shape) -> None:
        self.path, self.fd, self.flags = (_ARGS + at if at >= 0 else 0 for at in (shape.path, shape.fd, shape.flags))
