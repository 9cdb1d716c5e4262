"""Linux system calls Python does not offer (or not in 3.11): a few lines each over libc, all raise OSError.

Constants carry the kernel's names, less the prefix that the function's name says already.
"""

import ctypes
import os
import struct

from pybuild.sandbox.machine import this_machine

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_CLOSE_RANGE_CLOEXEC = 4
_LANDLOCK_CREATE_RULESET_VERSION = 1
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_GET_ACTION_AVAIL = 2
_SECCOMP_NEW_LISTENER = 8
_SECCOMP_WAIT_KILLABLE = 32

_libc = ctypes.CDLL(None, use_errno=True)
# Keeps the interpreter's lock, which a cloned process must find held by itself
_pylibc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_pylibc.syscall.restype = ctypes.c_long
_long = ctypes.c_long
# Used so often that its arguments are described once and not at each call
_openat2 = ctypes.CDLL(None, use_errno=True).syscall
_openat2.restype = _long
_openat2.argtypes = [_long, _long, ctypes.c_char_p, ctypes.c_char_p, _long]


def _check(result: int, what: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what or None)
    return result


def _call(name: str, *args: int | bytes | None) -> int:
    given = [_long(arg) if isinstance(arg, int) else ctypes.c_char_p(arg) for arg in args]
    return int(_libc.syscall(_long(this_machine().numbers[name]), *given))


def clone(flags: int) -> int:
    """Fork into new namespaces: return 0 in the child and its pid in the parent.

    Only legal in a process with one thread. Nothing that hangs on os.fork happens.
    """
    # The order of the last arguments differs between architectures, but all of them are 0
    zero = _long(0)
    signal_on_exit = 17
    return _check(
        _pylibc.syscall(_long(this_machine().numbers["clone"]), _long(flags | signal_on_exit), zero, zero, zero, zero),
        "clone",
    )


def unshare(flags: int) -> None:
    """Move this process into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Move this process into the namespace `fd` refers to; `kind` is one CLONE_NEW flag."""
    _check(_libc.setns(fd, kind), "setns")


def mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes = b"") -> None:
    """mount(2). The kernel cuts `data` at 4095 bytes without a word: raises OSError(E2BIG) instead."""
    if len(data) > 4095:
        raise OSError(7, os.strerror(7), "mount")
    _check(_libc.mount(source, target, kind, ctypes.c_ulong(flags), data), "mount")


def umount(target: bytes, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(target, flags), "umount")


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """pivot_root(2)."""
    _check(_call("pivot_root", new_root, put_old), "pivot_root")


def fsopen(kind: bytes) -> int:
    """Return a descriptor on which a new file system of `kind` is configured."""
    return _check(_call("fsopen", kind, 1), "fsopen " + kind.decode())


def fsconfig_string(fd: int, key: bytes, value: bytes) -> None:
    """Set one parameter, of at most 255 bytes."""
    _check(_call("fsconfig", fd, _FSCONFIG_SET_STRING, key, value, 0), "fsconfig " + key.decode())


def fsconfig_flag(fd: int, key: bytes) -> None:
    """Set a parameter that has no value."""
    _check(_call("fsconfig", fd, _FSCONFIG_SET_FLAG, key, None, 0), "fsconfig " + key.decode())


def fsconfig_create(fd: int) -> None:
    """Make the file system; until then no parameter takes effect."""
    _check(_call("fsconfig", fd, _FSCONFIG_CMD_CREATE, None, None, 0), "fsconfig create")


def fsmount(fd: int, attributes: int = 0) -> int:
    """Return a detached mount of the file system made on `fd`."""
    return _check(_call("fsmount", fd, 1, attributes), "fsmount")


def new_mount(kind: bytes, attributes: int = 0, **parameters: str) -> int:
    """Return a detached mount of a new file system."""
    fd = fsopen(kind)
    try:
        for key, value in parameters.items():
            fsconfig_string(fd, key.encode(), value.encode())
        fsconfig_create(fd)
        return fsmount(fd, attributes)
    finally:
        os.close(fd)


def open_tree(dir_fd: int, path: bytes, *, recursive: bool = False) -> int:
    """Return a detached bind mount of `path`; b"" is what `dir_fd` refers to."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return _check(_call("open_tree", dir_fd, path, flags | (0 if path else _AT_EMPTY_PATH)), "open_tree")


def move_mount(fd: int, target_fd: int) -> None:
    """Attach the detached mount `fd` at the directory or file that `target_fd` refers to."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _check(_call("move_mount", fd, b"", target_fd, b"", flags), "move_mount")


def mount_setattr(fd: int, attributes: int, *, recursive: bool = False) -> None:
    """Add attributes to the mount `fd` refers to."""
    wanted = struct.pack("QQQQ", attributes, 0, 0, 0)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _check(_call("mount_setattr", fd, b"", flags, wanted, len(wanted)), "mount_setattr")


def openat2(dir_fd: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """Open `path` under the rules in `resolve`; close-on-exec is always set."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    number = this_machine().numbers["openat2"]
    while True:
        result = int(_openat2(number, dir_fd, path, how, len(how)))
        # EAGAIN: something on the way was renamed meanwhile
        if result >= 0 or ctypes.get_errno() not in (4, 11):
            return result if result >= 0 else _check(result, os.fsdecode(path))


def prctl(option: int, arg: int = 0, arg3: int = 0) -> None:
    """prctl(2)."""
    _check(_libc.prctl(option, ctypes.c_ulong(arg), ctypes.c_ulong(arg3), _long(0), _long(0)), "prctl")


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's capabilities, given as bit masks."""
    header = struct.pack("Ii", 0x20080522, 0)
    low, high = 0xFFFFFFFF, 32
    data = struct.pack(
        "IIIIII",
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> high,
        permitted >> high,
        inheritable >> high,
    )
    _check(_call("capset", header, data), "capset")


def capabilities() -> int:
    """Return this thread's effective capabilities as a bit mask."""
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0), 8)
    data = ctypes.create_string_buffer(24)
    _check(int(_libc.syscall(_long(this_machine().numbers["capget"]), header, data)), "capget")
    low, _, _, high, _, _ = struct.unpack("IIIIII", data.raw)
    return int(low | high << 32)


def seccomp_filter(program: bytes) -> None:
    """Install a filter given as its instructions; it holds for this process and all it will start."""
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _check(_call("seccomp", _SECCOMP_SET_MODE_FILTER, 0, head), "seccomp")


def seccomp_offers(action: int) -> None:
    """Raise OSError(EOPNOTSUPP) when this kernel's filters cannot answer with `action` (SECCOMP_RET_...)."""
    _check(_call("seccomp", _SECCOMP_GET_ACTION_AVAIL, 0, struct.pack("I", action)), "seccomp")


def seccomp_listener(program: bytes) -> int:
    """Install a filter as `seccomp_filter` does; return the descriptor on which its questions arrive."""
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    flags = _SECCOMP_NEW_LISTENER | _SECCOMP_WAIT_KILLABLE
    result = _call("seccomp", _SECCOMP_SET_MODE_FILTER, flags, head)
    if result < 0 and ctypes.get_errno() == 22:
        # Before Linux 5.19 a signal makes the caller ask again
        result = _call("seccomp", _SECCOMP_SET_MODE_FILTER, _SECCOMP_NEW_LISTENER, head)
    return _check(result, "seccomp")


def landlock_version() -> int:
    """Return which version of Landlock the kernel has."""
    return _check(_call("landlock_create_ruleset", None, 0, _LANDLOCK_CREATE_RULESET_VERSION), "landlock")


def landlock_create_ruleset(attributes: bytes) -> int:
    """Return a descriptor of a new set of rules; `attributes` is a struct landlock_ruleset_attr."""
    return _check(_call("landlock_create_ruleset", attributes, len(attributes), 0), "landlock")


def landlock_add_rule(rules: int, kind: int, rule: bytes) -> None:
    """Add a rule, given as the struct of its kind."""
    _check(_call("landlock_add_rule", rules, kind, rule, 0), "landlock")


def landlock_restrict_self(rules: int) -> None:
    """Put this process, and all that it will start, under a set of rules."""
    _check(_call("landlock_restrict_self", rules, 0), "landlock")


def close_range(first: int, last: int = 0xFFFFFFFF, *, on_exec: bool = False) -> None:
    """Close all descriptors from `first` to `last`, or mark them to be closed by exec."""
    _check(_call("close_range", first, last, _CLOSE_RANGE_CLOEXEC if on_exec else 0), "close_range")


def close_all_but(*kept: int) -> None:
    """Close all descriptors above standard error that are not kept."""
    first = 3
    for fd in sorted(set(kept)):
        if fd > first:
            close_range(first, fd - 1)
        first = max(first, fd + 1)
    close_range(first)


def sethostname(name: bytes) -> None:
    """Name this UTS namespace."""
    _check(_call("sethostname", name, len(name)), "sethostname")
