"""Answers to calls about files. Each takes a Caller and returns the call's value, PROCEED or GIVEN."""

import errno
import os
import stat
import struct
from collections.abc import Callable, Collection

from pybuild.sandbox import syscalls
from pybuild.sandbox.emulate import credentials as rules
from pybuild.sandbox.emulate import files
from pybuild.sandbox.emulate.caller import AT_FDCWD, Caller, signed, split, where
from pybuild.sandbox.emulate.filter import CREATES, UNNAMED
from pybuild.sandbox.emulate.identity import Identities
from pybuild.sandbox.emulate.notify import Asked
from pybuild.sandbox.emulate.rawstat import raw_stat, raw_statx
from pybuild.sandbox.machine import StatLayout, this_machine

PROCEED = None
GIVEN = -1
"""The call has got its descriptor already."""

_EMPTY_PATH = 0x1000
_FOLLOW = 0x400
_NOFOLLOW = 0x100
_SYNC = 0x6000
_LOW = 0xFFFFFFFF
_PATH = os.O_PATH
_MOST_LINKS = 40
"""As many as the kernel follows (path_resolution(7))."""
# Machines are little-endian: the low half of a mode is where it begins, and is all of it
_MODE, _ID, _LENGTH, _STATX_DEVICE = (struct.Struct(form) for form in ("<H", "<I", "<Q", "<II"))
_STATX = StatLayout(size=256, mode=28, uid=20, gid=24, rdev=128, length=40)


def chown(caller: Caller, name: str) -> int | None:
    """Note an owner. What the kernel does besides, such as taking set-id bits away, it does itself."""
    args = caller.args
    caller.enter()
    if name == "fchown":
        fd, path, flags = only_fd(args[0]), b"", _EMPTY_PATH
        wanted = args[1] & _LOW, args[2] & _LOW
    elif name == "fchownat":
        fd, flags = signed(args[0]), signed(args[4])
        path, wanted = path_at(caller, 1, flags), (args[2] & _LOW, args[3] & _LOW)
    else:
        fd, path, flags = AT_FDCWD, caller.text(0), _NOFOLLOW if name == "lchown" else 0
        wanted = args[1] & _LOW, args[2] & _LOW
    if caller.who.may(rules.CHOWN) and wanted == (0, 0) and not _noted(caller, fd, path, flags):
        return PROCEED
    held = open_at(caller, fd, path, flags)
    try:
        give_owner(caller, held, *wanted)
    finally:
        os.close(held)
    return 0


def give_owner(caller: Caller, fd: int, uid: int, gid: int) -> None:
    """Note the owner of what an O_PATH descriptor of ours is; raise OSError when the caller may not."""
    state = os.fstat(fd)
    who = caller.who
    root = who.may(rules.CHOWN)
    if not root or rules.UNCHANGED in (uid, gid):
        note = files.note_of(fd, state.st_mode, state.st_size)
        mine = note.uid == who.uids[3] and uid in (rules.UNCHANGED, note.uid)
        if not root and not (mine and (gid in (rules.UNCHANGED, note.gid) or who.in_group(gid))):
            raise rules.refused()
        uid = note.uid if uid == rules.UNCHANGED else uid
        gid = note.gid if gid == rules.UNCHANGED else gid
    caller.check()
    os.chown(files.magic(fd), 0, 0)
    files.set_owner(fd, state.st_mode, uid, gid)


def chmod(caller: Caller, name: str) -> int | None:
    """Make a directory set-gid and watch it; the kernel deals with all else."""
    args = caller.args
    caller.enter()
    if name == "fchmod":
        fd, path, flags, mode = only_fd(args[0]), b"", _EMPTY_PATH, args[1]
    elif name == "chmod":
        fd, path, flags, mode = AT_FDCWD, caller.text(0), 0, args[1]
    else:
        fd, flags, mode = signed(args[0]), signed(args[3]) if name == "fchmodat2" else 0, args[2]
        path = path_at(caller, 1, flags)
    try:
        held = open_at(caller, fd, path, flags)
    except OSError:
        # Whatever it is, the kernel will say so
        return PROCEED
    try:
        if not stat.S_ISDIR(os.fstat(held).st_mode) or flags & ~(_EMPTY_PATH | _NOFOLLOW):
            return PROCEED
        caller.check()
        os.chmod(files.magic(held), mode & 0o7777)
        caller.share(held)
    finally:
        os.close(held)
    return 0


def link(caller: Caller, name: str) -> int | None:
    """Make a link in a set-gid directory: it is told of like a new file, and is none. The kernel makes all others."""
    args = caller.args
    caller.enter()
    if name == "link":
        (source_fd, target_fd), flags = (AT_FDCWD, AT_FDCWD), 0
        source, target = caller.text(0), caller.text(1)
    else:
        source_fd, target_fd, flags = signed(args[0]), signed(args[2]), signed(args[4])
        source, target = path_at(caller, 1, flags), caller.text(3)
    try:
        parent, new = caller.parent(target_fd, target)
    except OSError:
        return PROCEED
    try:
        if not os.fstat(parent).st_mode & stat.S_ISGID or flags & ~(_FOLLOW | _EMPTY_PATH):
            return PROCEED
        held = open_at(caller, source_fd, source, flags & _EMPTY_PATH | (0 if flags & _FOLLOW else _NOFOLLOW))
        try:
            caller.check()
            os.link(files.magic(held), new, dst_dir_fd=parent, follow_symlinks=True)
            caller.settle_now(os.fstat(held).st_ino)
        finally:
            os.close(held)
    finally:
        os.close(parent)
    return 0


def only_fd(value: int) -> int:
    """Return a descriptor that cannot be AT_FDCWD."""
    fd = signed(value)
    if fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return fd


def path_at(caller: Caller, number: int, flags: int) -> bytes:
    """Return the path that an argument points to; it may be none at all where an empty one is allowed."""
    return b"" if flags & _EMPTY_PATH and caller.args[number] == 0 else caller.text(number)


def _noted(caller: Caller, fd: int, path: bytes, flags: int) -> bool:
    """May anything be noted on a file? Where nothing is, or nothing can be found, the kernel's own answer is right."""
    follow = not flags & _NOFOLLOW
    here = where(fd, path)
    if not path and flags & _EMPTY_PATH:
        # A descriptor may be of a link, but there it is the way and not the end
        here, follow = here.rstrip(b"/"), True
    try:
        return caller.noted(here, follow=follow)
    except OSError as error:
        # Too long only with what was put before it; and what is in these is not the same for another process
        return error.errno == errno.ENAMETOOLONG or path.startswith((b"/proc/", b"/dev/"))


def look(caller: Caller, name: str) -> int | None:
    """Answer stat(2) and its kin where something is noted; the kernel answers for all other files."""
    args = caller.args
    caller.enter()
    if name == "fstat":
        fd, path, flags = only_fd(args[0]), b"", _EMPTY_PATH
    elif name in ("newfstatat", "statx"):
        fd, flags = signed(args[0]), signed(args[3 if name == "newfstatat" else 2])
        path = path_at(caller, 1, flags)
    else:
        fd, path, flags = AT_FDCWD, caller.text(0), _NOFOLLOW if name == "lstat" else 0
    if not _noted(caller, fd, path, flags):
        return PROCEED
    try:
        held = open_at(caller, fd, path, flags)
    except OSError:
        # Whatever it is, the kernel will say so
        return PROCEED
    try:
        address = args[4] if name == "statx" else args[2] if name == "newfstatat" else args[1]
        how = (flags & _SYNC, args[3] & _LOW) if name == "statx" else None
        return tell(caller, caller.asked, held, address, how)
    finally:
        os.close(held)


def tell(
    caller: Caller,
    asked: Asked,
    fd: int,
    address: int,
    extended: tuple[int, int] | None,
    names: Collection[str] = files.NOTES,
) -> int | None:
    """Write what stat(2) tells of a descriptor of ours, or statx(2) with `extended` flags and mask, if it is noted.

    `names` are the attributes that the file may have.
    """
    data = raw_statx(fd, *extended) if extended else raw_stat(fd)
    layout = _STATX if extended else this_machine().stat
    mode: int = _MODE.unpack_from(data, layout.mode)[0]
    note = files.note_of(fd, mode, _LENGTH.unpack_from(data, layout.length)[0], names)
    if note is files.PLAIN:
        return PROCEED
    _ID.pack_into(data, layout.uid, note.uid)
    _ID.pack_into(data, layout.gid, note.gid)
    if note.node:
        _MODE.pack_into(data, layout.mode, _device_mode(mode, note.node[0]))
        if extended:
            _STATX_DEVICE.pack_into(data, layout.rdev, *note.node[1:])
        else:
            _LENGTH.pack_into(data, layout.rdev, os.makedev(*note.node[1:]))
    caller.listener.check(asked)
    caller.memory.write(asked[1], address, data)
    return 0


def _device_mode(mode: int, kind: str) -> int:
    return stat.S_IMODE(mode) | (stat.S_IFCHR if kind == "c" else stat.S_IFBLK)


def open_at(caller: Caller, fd: int, path: bytes, flags: int) -> int:
    if path:
        return caller.open(fd, path, _PATH | (os.O_NOFOLLOW if flags & _NOFOLLOW else 0))
    if not flags & _EMPTY_PATH:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return caller.held(fd)


def _is_roots(caller: Caller, fd: int, directory: bytes) -> bool:
    """Is what the caller makes in a directory root's? The kernel can make it then. False when that is uncertain."""
    if caller.who.uids[3] or caller.who.gids[3]:
        return False
    try:
        return not caller.noted(where(fd, directory))
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG


def _owner_in(caller: Caller, parent: int) -> tuple[int, int]:
    """Return who owns what the caller makes in a directory, which may give its group on."""
    uid, gid = caller.who.uids[3], caller.who.gids[3]
    state = os.fstat(parent)
    if state.st_mode & stat.S_ISGID:
        gid = files.note_of(parent, state.st_mode, state.st_size).gid
    return uid, gid


def _made(caller: Caller, fd: int, path: bytes, kind: int, make: Callable[[bytes, int], None]) -> int | None:
    """Make a name of a type (as in modes) for the caller and note its owner; leave it to the kernel when that is root.

    A device's own name is always to be made.
    """
    device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    caller.enter()
    if not device and _is_roots(caller, fd, split(path)[0]):
        return PROCEED
    try:
        parent, name = caller.parent(fd, path)
    except OSError:
        return PROCEED
    try:
        owner = _owner_in(caller, parent)
        if owner == (0, 0) and not device:
            return PROCEED
        umask = caller.umask()
        caller.check()
        os.umask(umask)
        make(name, parent)
        files.set_owner_of_new(parent, name, stat.S_IFREG if device else kind, *owner)
    finally:
        os.close(parent)
    return 0


def make(caller: Caller, name: str) -> int | None:
    """Answer mkdir(2), symlink(2), mknod(2) and their kin."""
    args = caller.args
    if name.startswith("symlink"):
        at = name == "symlinkat"
        target = caller.text(0)
        fd = signed(args[1]) if at else AT_FDCWD
        path = caller.text(2 if at else 1)
        return _made(caller, fd, path, stat.S_IFLNK, lambda new, parent: os.symlink(target, new, dir_fd=parent))
    at = name.endswith("at")
    fd = signed(args[0]) if at else AT_FDCWD
    path, mode = caller.text(int(at)), args[1 + at] & 0o177777
    if name.startswith("mkdir"):
        return _made(caller, fd, path, stat.S_IFDIR, lambda new, parent: os.mkdir(new, mode & 0o7777, dir_fd=parent))
    kind = stat.S_IFMT(mode)
    if kind not in (stat.S_IFCHR, stat.S_IFBLK):
        if kind not in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
            return PROCEED
        kind = kind or stat.S_IFREG
        return _made(caller, fd, path, kind, lambda new, parent: os.mknod(new, mode, dir_fd=parent))
    if not caller.who.may(rules.MKNOD):
        raise rules.refused()
    number = args[2 + at] & _LOW
    major, minor = os.major(number), os.minor(number)
    # 0:0 is what overlayfs marks deletions with
    if major >= 1 << 12 or minor >= 1 << 20 or (kind == stat.S_IFCHR and number == 0):
        raise rules.refused()

    def device(new: bytes, parent: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        out = os.open(new, flags, mode & 0o7777, dir_fd=parent)
        try:
            files.set_node(out, "c" if kind == stat.S_IFCHR else "b", major, minor)
        except OSError:
            os.unlink(new, dir_fd=parent)
            raise
        finally:
            os.close(out)

    return _made(caller, fd, path, kind, device)


def create(caller: Caller, name: str) -> int | None:
    """Answer open(2) and its kin when they would make a file that is not root's."""
    args = caller.args
    fd, resolve = AT_FDCWD, 0
    if name == "creat":
        at, flags, mode = 0, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, args[1]
    elif name == "open":
        at, flags, mode = 0, args[1], args[2]
    elif name == "openat":
        fd, at, flags, mode = signed(args[0]), 1, args[2], args[3]
    else:
        fd, at = signed(args[0]), 1
        flags, mode, resolve = struct.unpack("QQQ", caller.memory.read(caller.pid, args[2], 24))
    flags &= 0x7FFFFFFF
    if not flags & CREATES or flags & os.O_PATH:
        return PROCEED
    path = caller.text(at)
    caller.enter()
    above, new = (path, b".") if flags & UNNAMED else split(path)
    if (not resolve and _is_roots(caller, fd, above)) or path.endswith(b"/"):
        return PROCEED
    try:
        parent = caller.open(fd, above, _PATH | os.O_DIRECTORY, resolve=resolve)
    except OSError:
        return PROCEED
    follow = not flags & (UNNAMED | os.O_EXCL | os.O_NOFOLLOW) and not resolve
    made = _open_new(caller, parent, new, flags, mode & 0o7777, _MOST_LINKS if follow else 0)
    if made is None:
        return PROCEED
    try:
        caller.listener.give(caller.asked, made, close_on_exec=bool(flags & os.O_CLOEXEC))
    finally:
        os.close(made)
    return GIVEN


def _open_new(caller: Caller, parent: int, name: bytes, flags: int, mode: int, links: int) -> int | None:
    """Return a descriptor of a new file whose owner is noted; None when it is there, or to be made by the kernel.

    What it is to be made in, `parent`, is closed. At most so many `links` are followed to what is not there yet.
    """
    while True:
        try:
            return _open_new_in(caller, parent, name, flags, mode)
        except FileExistsError:
            beyond = _beyond(parent, name) if links else None
        finally:
            os.close(parent)
        if beyond is None:
            return None
        parent, name = beyond
        links -= 1


def _open_new_in(caller: Caller, parent: int, name: bytes, flags: int, mode: int) -> int | None:
    owner = _owner_in(caller, parent)
    if owner == (0, 0):
        return None
    umask = caller.umask()
    caller.check()
    os.umask(umask)
    only = 0 if flags & UNNAMED else os.O_EXCL
    made = syscalls.openat2(parent, name, flags | only, syscalls.RESOLVE_NO_MAGICLINKS, mode)
    try:
        # Better no file than one that is root's
        files.set_owner_of_opened(made, *owner)
    except BaseException:
        os.close(made)
        raise
    return made


def _beyond(parent: int, name: bytes) -> tuple[int, bytes] | None:
    """Return the directory and the name that a symbolic link leads to; None for all else, and when it leads nowhere."""
    try:
        above, name = split(os.readlink(name, dir_fd=parent))
        return syscalls.openat2(parent, above, _PATH | os.O_DIRECTORY, syscalls.RESOLVE_NO_MAGICLINKS), name
    except OSError:
        return None


def execute(caller: Caller, name: str, identities: Identities) -> None:
    """Note what a program starts with; whether it can be executed the kernel finds out."""
    try:
        _execute(caller, name, identities)
    finally:
        caller.forget()


def _execute(caller: Caller, name: str, identities: Identities) -> None:
    args = caller.args
    caller.enter()
    try:
        if name == "execve":
            fd = caller.open(AT_FDCWD, caller.text(0), _PATH)
        else:
            flags = signed(args[4])
            fd = open_at(caller, signed(args[0]), path_at(caller, 1, flags), flags)
    except OSError:
        return
    try:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode) or not state.st_mode & 0o111:
            return
        uid = gid = None
        if state.st_mode & (stat.S_ISUID | stat.S_ISGID) and not _is_script(fd):
            note = files.note_of(fd, state.st_mode, state.st_size)
            uid = note.uid if state.st_mode & stat.S_ISUID else None
            gid = note.gid if state.st_mode & stat.S_ISGID and state.st_mode & stat.S_IXGRP else None
    finally:
        os.close(fd)
    new = rules.after_exec(caller.who, uid, gid)
    if new != caller.who:
        caller.check()
        identities.assign(caller.pid, new)


def _is_script(fd: int) -> bool:
    try:
        inner = os.open(files.magic(fd), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.read(inner, 2) == b"#!"
    finally:
        os.close(inner)
