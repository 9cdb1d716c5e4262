"""The short way: most calls need only to be let through, and what that takes is asked in as few steps as can be.

A RUN asks some calls a file, and waits for each answer: here every step is counted. Nothing is decided on the short
way but that the kernel may carry a call out as it stands, and what becomes the owner of a file. All else, and all
that is unclear, goes the long way (`filecalls`).

That the place where the caller stands (`caller`) is its own, and with it who the caller is, counts only once something
was found from there.
"""

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from pybuild.sandbox.emulate import credentials as rules
from pybuild.sandbox.emulate.caller import AT_FDCWD, Caller, signed, where
from pybuild.sandbox.emulate.filecalls import tell
from pybuild.sandbox.emulate.files import NOTES
from pybuild.sandbox.emulate.filter import ACCESS, RENAME, UNNAMED
from pybuild.sandbox.emulate.memory import SHORT
from pybuild.sandbox.emulate.notify import Asked
from pybuild.sandbox.emulate.pidfd import getfd
from pybuild.tree.notes import OWNER_XATTR, owner_note

LONG = -1
"""The long way is to be gone."""

Quick = Callable[[Asked], int | None]
"""Returns the call's value, None to let the kernel carry it out, or LONG."""

_ARGS = 6
_MOST_NOTES = 1 << 10
_LOW = 0xFFFFFFFF
_CWD = AT_FDCWD & _LOW
_SLASH = ord("/")
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


_LISTS = {
    "listxattr": Shape(0),
    "llistxattr": Shape(0, always=_NOFOLLOW),
}


def quick_answers(caller: Caller) -> dict[str, Quick]:
    """Return the short ways by the names of calls."""
    return {
        **{name: _looking(caller, shape) for name, shape in _STATS.items()},
        **{name: _owning_named(caller, shape) for name, shape in _CHOWNS.items()},
        **{name: _creating(caller, shape) for name, shape in _CREATES.items()},
        **{name: _listing(caller, shape) for name, shape in _LISTS.items()},
        **{name: _accessing(caller) for name, _ in ACCESS},
        "fstat": _looking_open(caller),
        "flistxattr": _listing_open(caller),
        "execve": _executing(caller),
        "fchown": _owning(caller),
        **dict.fromkeys(RENAME, _letting),
    }


def _letting(_: Asked) -> None:
    """Let the kernel do it: what mattered was done before."""
    return


def _looking(caller: Caller, shape: Shape) -> Quick:
    """Tell about a file that is named, or let the kernel do it."""
    at_path, at_fd, at_flags = _places(shape)
    told, stands, pread = _telling(caller), caller.stands, os.pread
    buffer = at_path + 1 if shape.flags != 2 else _ARGS + 4
    extended = shape.flags == 2
    glanced = _glancing(caller)

    def quick(asked: Asked) -> int | None:
        flags = asked[at_flags] if at_flags else shape.always
        if asked[1] != caller.here and not stands(asked[1]):
            return glanced(asked, asked[at_path]) if flags & _EMPTY_PATH else LONG
        try:
            text = pread(caller.words, SHORT, asked[at_path])
        except (OSError, OverflowError):
            return LONG
        end = text.find(0)
        if end < 0:
            return _cut_short(caller, text)
        path = text[:end]
        follow = not flags & _NOFOLLOW
        if path[:1] == b"/":
            place = b"root" + path
        else:
            fd = asked[at_fd] & _LOW if at_fd else _CWD
            if not path and flags & _EMPTY_PATH:
                # A descriptor may be of a link, but there it is the way and not the end
                place, follow = b"cwd" if fd == _CWD else b"fd/%d" % fd, True
            else:
                place = b"cwd/" + path if fd == _CWD else b"fd/%d/%b" % (fd, path)
        how = (flags & _SYNC, asked[_ARGS + 3] & _LOW) if extended else None
        return told(asked, place, path, follow, asked[buffer], how)

    return quick


def _looking_open(caller: Caller) -> Quick:
    """Tell about an open file, or let the kernel do it."""
    told, stands, glanced = _telling(caller), caller.stands, _glancing(caller)

    def quick(asked: Asked) -> int | None:
        if asked[1] != caller.here and not stands(asked[1]):
            return glanced(asked, 0)
        return told(asked, b"fd/%d" % (asked[_ARGS] & _LOW), b"", True, asked[_ARGS + 1], None)

    return quick


def _glancing(caller: Caller) -> Callable[[Asked, int], int | None]:
    """Return what lets the kernel tell about an open file of a process for which no place was looked for yet.

    That is what the dynamic linker asks about each library, and many programs ask nothing else. The path, if the
    address is not 0, must be an empty one.
    """
    stays, text, listxattr, disjoint = caller.stays, caller.memory.text, os.listxattr, NOTES.isdisjoint

    def glanced(asked: Asked, address: int) -> int | None:
        pid = asked[1]
        try:
            if stays(pid) is None or (address and text(pid, address)):
                return LONG
            names = listxattr(b"../%d/fd/%d" % (pid, asked[_ARGS] & _LOW))
        except OSError:
            return LONG
        return None if disjoint(names) else LONG

    return glanced


def _telling(caller: Caller) -> Callable[[Asked, bytes, bytes, bool, int, tuple[int, int] | None], int | None]:
    """Return what lets the kernel tell about a file at a place on which nothing is noted, and tells about others."""
    listxattr, disjoint, alive = os.listxattr, NOTES.isdisjoint, caller.is_there

    def told(
        asked: Asked, place: bytes, path: bytes, follow: bool, address: int, extended: tuple[int, int] | None
    ) -> int | None:
        try:
            names = listxattr(place) if follow else listxattr(place, follow_symlinks=False)
            if not names or disjoint(names):
                return None
            if path.startswith(_APART):
                return LONG
            held = os.open(place, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
        except FileNotFoundError:
            return None if alive() and not path.startswith(_APART) else LONG
        except OSError:
            return LONG
        try:
            return tell(caller, asked, held, address, extended, names)
        finally:
            os.close(held)

    return told


def _listing(caller: Caller, shape: Shape) -> Quick:
    """Let the kernel list the attributes of a file that is named, as none of them is a note."""
    at_path, _, _ = _places(shape)
    unnoted, stands, pread = _unnoted(caller), caller.stands, os.pread

    def quick(asked: Asked) -> int | None:
        if asked[1] != caller.here and not stands(asked[1]):
            return LONG
        try:
            text = pread(caller.words, SHORT, asked[at_path])
        except (OSError, OverflowError):
            return LONG
        end = text.find(0)
        if end < 0:
            return _cut_short(caller, text)
        path = text[:end]
        return unnoted((b"root" if path[:1] == b"/" else b"cwd/") + path, path, not shape.always)

    return quick


def _listing_open(caller: Caller) -> Quick:
    """Let the kernel list the attributes of an open file, as none of them is a note."""
    unnoted, stands = _unnoted(caller), caller.stands

    def quick(asked: Asked) -> int | None:
        if asked[1] != caller.here and not stands(asked[1]):
            return LONG
        return unnoted(b"fd/%d" % (asked[_ARGS] & _LOW), b"", True)

    return quick


def _creating(caller: Caller, shape: Shape) -> Quick:
    """Will what root makes be root's, whoever owns the directory?"""
    at_path, at_fd, at_flags = _places(shape)
    alive, stands, pread, status = caller.is_there, caller.stands, os.pread, os.stat
    shared, is_root = caller.shared, caller.is_root

    def quick(asked: Asked) -> int | None:
        if shared.watching and is_root(asked[1]) and not (at_flags and asked[at_flags] & UNNAMED):
            # What it is made in is looked at only if it has to be
            return None
        if asked[1] != caller.here and not stands(asked[1]):
            return LONG
        who = caller.who
        if who.uids[3] or who.gids[3] or (at_flags and asked[at_flags] & UNNAMED):
            return LONG
        try:
            text = pread(caller.words, SHORT, asked[at_path])
        except (OSError, OverflowError):
            return LONG
        end = text.find(0)
        if end < 0:
            return _cut_short(caller, text)
        cut = text.rfind(b"/", 0, end)
        if cut + 1 == end:
            # Slashes at the end are of no account, but there must be a name before them
            end = len(text[:end].rstrip(b"/"))
            cut = text.rfind(b"/", 0, end)
            if not end:
                return LONG
        if text[0] == _SLASH:
            place = b"root" + text[:cut]
        else:
            fd = asked[at_fd] & _LOW if at_fd else _CWD
            above = text[:cut] if cut > 0 else b""
            place = b"cwd/" + above if fd == _CWD else b"fd/%d/%b" % (fd, above)
        try:
            # Only then a directory gives its group on
            return LONG if status(place).st_mode & stat.S_ISGID else None
        except FileNotFoundError:
            return None if alive() and not text.startswith(_APART) else LONG
        except OSError:
            return LONG

    return quick


def _cut_short(caller: Caller, text: bytes) -> int:
    if not text:
        # Memory that is no more: another thread of the process has executed a program
        caller.drop(caller.here)
    return LONG


def _owning_named(caller: Caller, shape: Shape) -> Quick:
    """Note the owner of a file that is named; what becomes root's, and is, the kernel can deal with."""
    at_path, at_fd, at_flags = _places(shape)
    unnoted, stands, pread = _unnoted(caller), caller.stands, os.pread
    chown, setxattr = os.chown, os.setxattr

    def quick(asked: Asked) -> int | None:
        uid, gid = asked[at_path + 1] & _LOW, asked[at_path + 2] & _LOW
        if (asked[1] != caller.here and not stands(asked[1])) or not _may_give(caller, uid, gid):
            return LONG
        flags = asked[at_flags] if at_flags else shape.always
        try:
            text = pread(caller.words, SHORT, asked[at_path])
        except (OSError, OverflowError):
            return LONG
        end = text.find(0)
        if end < 0:
            return _cut_short(caller, text)
        if not end:
            return LONG
        path = text[:end]
        place = where(signed(asked[at_fd]) if at_fd else AT_FDCWD, path)
        follow = not flags & _NOFOLLOW
        if not uid | gid:
            return unnoted(place, path, follow)
        if path[:1] == b"/" and not caller.is_there():
            # That was not its path
            return LONG
        try:
            # The kernel's part, such as to take set-id bits away
            chown(place, 0, 0, follow_symlinks=follow)
            setxattr(place, OWNER_XATTR, owner_note(uid, gid), follow_symlinks=follow)
        except OSError:
            # It is neither file nor directory, or the long way tells why
            return LONG
        return 0

    return quick


def _may_give(caller: Caller, uid: int, gid: int) -> bool:
    """May the caller give files to anybody, and are both ids told?"""
    return uid != rules.UNCHANGED and gid != rules.UNCHANGED and bool(caller.who.effective & rules.CHOWN)


def _owning(caller: Caller) -> Quick:
    """Note the owner of a file that is open, by a copy of the caller's own descriptor."""
    unnoted, stands = _unnoted(caller), caller.stands
    fchown, setxattr, close = os.fchown, os.setxattr, os.close
    copy = getfd()
    # Files that come together have few owners
    notes: dict[tuple[int, ...], bytes] = {}

    def quick(asked: Asked) -> int | None:
        if asked[1] != caller.here and not stands(asked[1]):
            return LONG
        if not caller.who.effective & rules.CHOWN:
            return LONG
        note = notes.get(asked[_ARGS + 1 : _ARGS + 3])
        if note is None:
            uid, gid = asked[_ARGS + 1] & _LOW, asked[_ARGS + 2] & _LOW
            if rules.UNCHANGED in (uid, gid):
                return LONG
            if len(notes) >= _MOST_NOTES:
                notes.clear()
            note = notes[asked[_ARGS + 1 : _ARGS + 3]] = owner_note(uid, gid) if uid | gid else b""
        if not note:
            return unnoted(b"fd/%d" % (asked[_ARGS] & _LOW), b"", True)
        fd = copy(caller.process, asked[_ARGS] & _LOW) if caller.process >= 0 or caller.hold() else -1
        if fd < 0:
            return LONG
        try:
            # The kernel's part, such as to take set-id bits away
            fchown(fd, 0, 0)
            setxattr(fd, OWNER_XATTR, note)
        except OSError:
            # The long way tells why
            return LONG
        finally:
            close(fd)
        return 0

    return quick


def _executing(caller: Caller) -> Quick:
    """Let a program be executed that changes nothing of who its process is.

    It is most often the first call of a new process: for this one no place is looked for.
    """
    stays, text, status = caller.stays, caller.memory.text, os.stat
    same: dict[rules.Credentials, bool] = {}

    def quick(asked: Asked) -> int | None:
        who = stays(asked[1])
        if who is None:
            return LONG
        if who not in same:
            same[who] = rules.after_exec(who, None, None) == who
        try:
            path = text(asked[1], asked[_ARGS])
            if not same[who] or path[:1] != b"/" or path.startswith(_APART):
                return LONG
            if status(path).st_mode & (stat.S_ISUID | stat.S_ISGID):
                return LONG
        except FileNotFoundError:
            return None
        except OSError:
            return LONG
        caller.drop(asked[1])
        return None

    return quick


def _accessing(caller: Caller) -> Quick:
    """Let the kernel tell root what it may do."""
    stays = caller.stays

    def quick(asked: Asked) -> int | None:
        who = stays(asked[1])
        return LONG if who is None or who.uids[0] or who.uids[3] else None

    return quick


def _unnoted(caller: Caller) -> Callable[[bytes, bytes, bool], int | None]:
    """Return what lets a call through when nothing is noted on the file at a place; `path` is the caller's word."""
    listxattr, disjoint, alive = os.listxattr, NOTES.isdisjoint, caller.is_there

    def unnoted(place: bytes, path: bytes, follow: bool) -> int | None:
        try:
            names = listxattr(place) if follow else listxattr(place, follow_symlinks=False)
        except FileNotFoundError:
            return None if alive() and not path.startswith(_APART) else LONG
        except OSError:
            return LONG
        return None if not names or disjoint(names) else LONG

    return unnoted


def _places(shape: Shape) -> list[int]:
    """Return where a shape's arguments are in a notification, 0 for none."""
    return [_ARGS + at if at >= 0 else 0 for at in (shape.path, shape.fd, shape.flags)]
