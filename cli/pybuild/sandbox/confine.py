"""What keeps a process in its place where no mount namespace does: privileges taken away, system calls, Landlock."""

import errno
import os
import struct

from pybuild.sandbox import caps, syscalls
from pybuild.sandbox.idmap import IdMode

_TAKEN = ("SYS_CHROOT", "MKNOD")
"""With the one root could leave the tree, with the other it could reach the disks."""
_CAP_SYS_ADMIN = 1 << 21

_PATH_BENEATH = 1
_SCOPES = 0b11
"""LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and LANDLOCK_SCOPE_SIGNAL (linux/landlock.h)."""
_RIGHTS_BY_VERSION = {2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_ABSENT = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


def prepare(tree: int) -> bool:
    """Make everything but what is below the directory `tree` out of reach for this process; tell whether that worked.

    From Linux 6.12 on signals to processes outside are too. To be called before the change of the root; what is open
    already stays usable.
    """
    version = _landlock_version()
    if version < 2:
        # Before that nothing could be moved from one directory to another
        return False
    rights = _RIGHTS_BY_VERSION.get(version, _RIGHTS_BY_VERSION[5])
    # Handled file system rights, network ports, scopes; older kernels refuse what is longer than they know
    sizes = {2: 8, 3: 8, 4: 16, 5: 16}
    wanted = struct.pack("QQQ", rights, 0, _SCOPES)[: sizes.get(version, 24)]
    rules = syscalls.landlock_create_ruleset(wanted)
    try:
        syscalls.landlock_add_rule(rules, _PATH_BENEATH, struct.pack("=Qi", rights, tree))
        if not syscalls.capabilities() & _CAP_SYS_ADMIN:
            # It needs the one or the other
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.landlock_restrict_self(rules)
    finally:
        os.close(rules)
    return True


def _landlock_version() -> int:
    try:
        return syscalls.landlock_version()
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return 0


def confine(mode: IdMode, program: bytes) -> None:
    """Take away what the payload is not to have, and install the filter of system calls."""
    own = syscalls.capabilities()
    bounding = bool(own >> caps.NUMBERS["SETPCAP"] & 1)
    if mode == "single" or not own & _CAP_SYS_ADMIN or not bounding:
        # The filter needs this privilege or that; and set-uid programs must not get back what is taken here
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.seccomp_filter(program)
    if bounding:
        caps.limit_bounding_set()
        for name in _TAKEN:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, caps.NUMBERS[name])
    kept = own & ~sum(1 << caps.NUMBERS[name] for name in _TAKEN)
    syscalls.capset(kept, kept, 0)
