"""Who a process pretends to be, and what the kernel's rules make of it (credentials(7), capabilities(7)). Pure."""

import errno
import os
from typing import NamedTuple

from pybuild.sandbox.caps import KEPT, NUMBERS

UNCHANGED = (1 << 32) - 1

CHOWN = 1 << NUMBERS["CHOWN"]
SETGID = 1 << NUMBERS["SETGID"]
SETUID = 1 << NUMBERS["SETUID"]
SYS_CHROOT = 1 << NUMBERS["SYS_CHROOT"]
MKNOD = 1 << NUMBERS["MKNOD"]
SETFCAP = 1 << NUMBERS["SETFCAP"]
DAC_OVERRIDE = 1 << NUMBERS["DAC_OVERRIDE"]
_FILE_SYSTEM = CHOWN | MKNOD | DAC_OVERRIDE | 1 << NUMBERS["FOWNER"] | 1 << NUMBERS["FSETID"]
MAX_GROUPS = 65536

Ids = tuple[int, int, int, int]
"""Real, effective, saved, and the one that counts for files."""


def refused() -> OSError:
    """Return EPERM as an error."""
    return OSError(errno.EPERM, os.strerror(errno.EPERM))


def invalid() -> OSError:
    """Return EINVAL as an error."""
    return OSError(errno.EINVAL, os.strerror(errno.EINVAL))


class Credentials(NamedTuple):
    """The identity of a process. `chrooted`: its root directory may not be the image's any more."""

    uids: Ids
    gids: Ids
    groups: tuple[int, ...]
    permitted: int
    effective: int
    keep_caps: bool = False
    chrooted: bool = False

    def may(self, capability: int) -> bool:
        """Has it an effective capability?"""
        return bool(self.effective & capability)

    def in_group(self, gid: int) -> bool:
        """Is it a member of a group, as for files?"""
        return gid == self.gids[3] or gid in self.groups


def permissions(mode: int, mine: bool, groups: bool) -> int:
    """Return which of R_OK, W_OK and X_OK a file's mode gives its owner, its group's members or all others."""
    return mode >> (6 if mine else 3 if groups else 0) & 7


def initial(uid: int, gid: int, groups: tuple[int, ...]) -> Credentials:
    """Return what USER starts with."""
    held = KEPT if uid == 0 else 0
    return Credentials((uid,) * 4, (gid,) * 4, groups, held, held)


def set_id(ids: Ids, wanted: int, privileged: bool) -> Ids:
    """setuid(2), setgid(2); raises OSError."""
    if wanted == UNCHANGED:
        raise invalid()
    real, _, saved, _ = ids
    if privileged:
        return (wanted,) * 4
    if wanted not in (real, saved):
        raise refused()
    return real, wanted, saved, wanted


def set_re(ids: Ids, real: int, effective: int, privileged: bool) -> Ids:
    """setreuid(2), setregid(2); raises OSError."""
    old_real, old_effective, old_saved, _ = ids
    if not privileged:
        if real not in (UNCHANGED, old_real, old_effective):
            raise refused()
        if effective not in (UNCHANGED, old_real, old_effective, old_saved):
            raise refused()
    new_real = old_real if real == UNCHANGED else real
    new_effective = old_effective if effective == UNCHANGED else effective
    moves_saved = real != UNCHANGED or (effective != UNCHANGED and effective != old_real)
    return new_real, new_effective, new_effective if moves_saved else old_saved, new_effective


def set_res(ids: Ids, real: int, effective: int, saved: int, privileged: bool) -> Ids:
    """setresuid(2), setresgid(2); raises OSError."""
    wanted = real, effective, saved
    if not privileged and any(value not in (UNCHANGED, *ids[:3]) for value in wanted):
        raise refused()
    new = [old if value == UNCHANGED else value for old, value in zip(ids, wanted)]
    return new[0], new[1], new[2], new[1]


def set_fs(ids: Ids, wanted: int, privileged: bool) -> Ids:
    """setfsuid(2), setfsgid(2), which never fail but may do nothing."""
    if wanted == UNCHANGED or not (privileged or wanted in ids):
        return ids
    return (*ids[:3], wanted)


def with_uids(old: Credentials, uids: Ids) -> Credentials:
    """Return `old` with other user ids: who leaves root loses capabilities, unless they are kept."""
    permitted, effective = old.permitted, old.effective
    if 0 in old.uids[:3] and 0 not in uids[:3] and not old.keep_caps:
        permitted = effective = 0
    if old.uids[1] == 0 and uids[1] != 0:
        effective = 0
    elif old.uids[1] != 0 and uids[1] == 0:
        effective = permitted
    return old._replace(uids=uids, permitted=permitted, effective=effective)


def with_fs_uid(old: Credentials, uids: Ids) -> Credentials:
    """Return `old` after setfsuid(2): capabilities about files go and come with root."""
    effective = old.effective
    if old.uids[3] == 0 and uids[3] != 0:
        effective &= ~_FILE_SYSTEM
    elif old.uids[3] != 0 and uids[3] == 0:
        effective |= old.permitted & _FILE_SYSTEM
    return old._replace(uids=uids, effective=effective)


def with_capabilities(old: Credentials, effective: int, permitted: int) -> Credentials:
    """Return `old` after capset(2), which can give nothing that was not permitted."""
    permitted &= old.permitted
    return old._replace(permitted=permitted, effective=effective & permitted)


def after_exec(old: Credentials, uid: int | None, gid: int | None) -> Credentials:
    """Return what a program starts with; `uid` and `gid` are those a set-id program brings, None for others."""
    real, effective, _, _ = old.uids
    effective = effective if uid is None else uid
    uids = real, effective, effective, effective
    group = old.gids[1] if gid is None else gid
    gids = old.gids[0], group, group, group
    permitted = KEPT if 0 in (real, effective) else 0
    return old._replace(
        uids=uids, gids=gids, permitted=permitted, effective=permitted if effective == 0 else 0, keep_caps=False
    )
