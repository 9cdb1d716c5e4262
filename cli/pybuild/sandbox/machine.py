"""Numbers that differ between processor architectures: one table, one row for each that is supported.

Few imports: a worker needs this before anything else.
"""

import os
import sys
from typing import NamedTuple

from pybuild.sandbox.errors import SandboxError

# From 424 on all architectures number their system calls alike
_COMMON = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "faccessat2": 439,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
    "fchmodat2": 452,
    "open_tree_attr": 467,
}

_X86_64 = {
    "open": 2,
    "stat": 4,
    "fstat": 5,
    "lstat": 6,
    "mmap": 9,
    "munmap": 11,
    "ioctl": 16,
    "access": 21,
    "socket": 41,
    "clone": 56,
    "execve": 59,
    "rename": 82,
    "mkdir": 83,
    "creat": 85,
    "link": 86,
    "symlink": 88,
    "chmod": 90,
    "fchmod": 91,
    "chown": 92,
    "fchown": 93,
    "lchown": 94,
    "ptrace": 101,
    "getuid": 102,
    "getgid": 104,
    "setuid": 105,
    "setgid": 106,
    "geteuid": 107,
    "getegid": 108,
    "setreuid": 113,
    "setregid": 114,
    "getgroups": 115,
    "setgroups": 116,
    "setresuid": 117,
    "getresuid": 118,
    "setresgid": 119,
    "getresgid": 120,
    "setfsuid": 122,
    "setfsgid": 123,
    "capget": 125,
    "capset": 126,
    "mknod": 133,
    "uselib": 134,
    "pivot_root": 155,
    "prctl": 157,
    "chroot": 161,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "sethostname": 170,
    "iopl": 172,
    "ioperm": 173,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "setxattr": 188,
    "lsetxattr": 189,
    "fsetxattr": 190,
    "listxattr": 194,
    "llistxattr": 195,
    "flistxattr": 196,
    "removexattr": 197,
    "lremovexattr": 198,
    "fremovexattr": 199,
    "lookup_dcookie": 212,
    "clock_settime": 227,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "openat": 257,
    "mkdirat": 258,
    "mknodat": 259,
    "fchownat": 260,
    "newfstatat": 262,
    "renameat": 264,
    "linkat": 265,
    "symlinkat": 266,
    "fchmodat": 268,
    "faccessat": 269,
    "unshare": 272,
    "perf_event_open": 298,
    "open_by_handle_at": 304,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "finit_module": 313,
    "renameat2": 316,
    "seccomp": 317,
    "kexec_file_load": 320,
    "bpf": 321,
    "execveat": 322,
    "userfaultfd": 323,
    "statx": 332,
}

_AARCH64 = {
    "setxattr": 5,
    "lsetxattr": 6,
    "fsetxattr": 7,
    "listxattr": 11,
    "llistxattr": 12,
    "flistxattr": 13,
    "removexattr": 14,
    "lremovexattr": 15,
    "fremovexattr": 16,
    "lookup_dcookie": 18,
    "ioctl": 29,
    "mknodat": 33,
    "mkdirat": 34,
    "symlinkat": 36,
    "linkat": 37,
    "renameat": 38,
    "umount2": 39,
    "mount": 40,
    "pivot_root": 41,
    "faccessat": 48,
    "chroot": 51,
    "fchmod": 52,
    "fchmodat": 53,
    "fchownat": 54,
    "fchown": 55,
    "openat": 56,
    "quotactl": 60,
    "newfstatat": 79,
    "fstat": 80,
    "acct": 89,
    "capget": 90,
    "capset": 91,
    "unshare": 97,
    "kexec_load": 104,
    "init_module": 105,
    "delete_module": 106,
    "clock_settime": 112,
    "ptrace": 117,
    "reboot": 142,
    "setregid": 143,
    "setgid": 144,
    "setreuid": 145,
    "setuid": 146,
    "setresuid": 147,
    "getresuid": 148,
    "setresgid": 149,
    "getresgid": 150,
    "setfsuid": 151,
    "setfsgid": 152,
    "getgroups": 158,
    "setgroups": 159,
    "sethostname": 161,
    "prctl": 167,
    "settimeofday": 170,
    "getuid": 174,
    "geteuid": 175,
    "getgid": 176,
    "getegid": 177,
    "socket": 198,
    "munmap": 215,
    "add_key": 217,
    "request_key": 218,
    "keyctl": 219,
    "clone": 220,
    "execve": 221,
    "mmap": 222,
    "swapon": 224,
    "swapoff": 225,
    "perf_event_open": 241,
    "open_by_handle_at": 265,
    "setns": 268,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "finit_module": 273,
    "renameat2": 276,
    "seccomp": 277,
    "bpf": 280,
    "execveat": 281,
    "userfaultfd": 282,
    "statx": 291,
    "kexec_file_load": 294,
}


class StatLayout(NamedTuple):
    """Where fields lie in the kernel's `struct stat`, in bytes."""

    size: int
    mode: int
    uid: int
    gid: int
    rdev: int
    length: int


class Registers(NamedTuple):
    """Where registers are in the kernel's `struct user_regs_struct`, which has so many `words`.

    `call` is the number of the system call that a thread is in, or a negative one; `result` what it returns, and
    before it the number; `pointer` is where the thread is in its program, after the instruction of `step` bytes that
    makes a call. A machine without tracing has 0 `words`.
    """

    words: int
    call: int
    result: int
    pointer: int
    step: int
    arguments: tuple[int, ...]


_NO_REGISTERS = Registers(0, 0, 0, 0, 0, ())


class Machine:
    """An architecture: `audit` is its AUDIT_ARCH, `foreign_bit` marks calls of another ABI under the same one."""

    __slots__ = ("audit", "foreign_bit", "numbers", "registers", "stat")

    def __init__(
        self,
        numbers: dict[str, int],
        audit: int,
        stat: StatLayout,
        foreign_bit: int = 0,
        registers: Registers = _NO_REGISTERS,
    ) -> None:
        self.numbers = numbers
        self.audit = audit
        self.stat = stat
        self.foreign_bit = foreign_bit
        self.registers = registers


MACHINES = {
    "x86_64": Machine(
        {**_COMMON, **_X86_64},
        0xC000003E,
        StatLayout(144, 24, 28, 32, 40, 48),
        0x40000000,
        Registers(27, call=15, result=10, pointer=16, step=2, arguments=(14, 13, 12, 7, 9, 8)),
    ),
    "aarch64": Machine({**_COMMON, **_AARCH64}, 0xC00000B7, StatLayout(128, 16, 24, 28, 32, 48)),
}


_this: list[Machine] = []


def this_machine() -> Machine:
    """Return the row of the running kernel's architecture; raise SandboxError when there is none."""
    if not _this:
        _this.append(_find())
    return _this[0]


def _find() -> Machine:
    if not sys.platform.startswith("linux"):
        raise SandboxError(f"sandboxes need Linux, this is {sys.platform}")
    name = os.uname().machine
    if name not in MACHINES:
        raise SandboxError(f"sandboxes are not made for this architecture: {name}")
    if sys.maxsize < 2**32:
        raise SandboxError("sandboxes need a 64-bit Python on a 64-bit kernel")
    return MACHINES[name]
