"""The answer to access(2) and its kin, as `filecalls`: the kernel would allow everything to everybody."""

import errno
import os

from pybuild.sandbox.emulate import credentials as rules
from pybuild.sandbox.emulate import files
from pybuild.sandbox.emulate.caller import AT_FDCWD, Caller, signed
from pybuild.sandbox.emulate.filecalls import PROCEED, open_at

_EFFECTIVE = 0x200
_FLAGS = 0x1300
"""AT_EACCESS, AT_EMPTY_PATH and AT_SYMLINK_NOFOLLOW: what faccessat2(2) knows."""
_ALL = os.R_OK | os.W_OK | os.X_OK


def access(caller: Caller, name: str) -> None:
    """Refuse with EACCES what the file's mode does not allow to another user; root is answered by the kernel.

    It tells what is so in the image. To open the file anyway is not refused (see `ARCHITECTURE.md`).
    """
    at = name != "access"
    flags = signed(caller.args[3]) if name == "faccessat2" else 0
    wanted = caller.args[1 + at] & 0xFFFFFFFF
    who = caller.who
    root = who.may(rules.DAC_OVERRIDE) if flags & _EFFECTIVE else not who.uids[0]
    if root or wanted & ~_ALL or flags & ~_FLAGS:
        return PROCEED
    caller.enter()
    try:
        held = open_at(caller, signed(caller.args[0]) if at else AT_FDCWD, caller.text(int(at)), flags)
    except OSError:
        # Whatever it is, the kernel will say so
        return PROCEED
    try:
        state = os.fstat(held)
        note = files.note_of(held, state.st_mode, state.st_size)
    finally:
        os.close(held)
    uid, gid = (who.uids[3], who.gids[3]) if flags & _EFFECTIVE else (who.uids[0], who.gids[0])
    allowed = rules.permissions(state.st_mode, note.uid == uid, note.gid == gid or note.gid in who.groups)
    if wanted & ~allowed:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return PROCEED
