"""Whose a file is that is lent to a RUN: in truth, or by a note where there is one id only."""

import errno
import os
from contextlib import suppress

from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.spec import Emulation
from pybuild.tree.notes import OWNER_XATTR, owner_note


def give(file: int | bytes, uid: int, gid: int, emulation: Emulation) -> None:
    """Give a file, by path or descriptor, its owner, or what stands for one. Raises SandboxError, OSError."""
    if (uid, gid) == (0, 0):
        return
    if emulation == "off":
        try:
            os.chown(file, uid, gid)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise SandboxError(f"a mount cannot belong to {uid}:{gid}: these ids are not mapped here") from error
    elif emulation == "full":
        # Sockets take no note, nor do files in memory on older kernels. All are the same user in truth
        with suppress(OSError):
            os.setxattr(file, OWNER_XATTR, owner_note(uid, gid))
