"""Answers to calls about extended attributes, as `filecalls`: notes are nobody's but ours."""

import errno
import os
import stat

from pybuild.sandbox.emulate import credentials as rules
from pybuild.sandbox.emulate import files
from pybuild.sandbox.emulate.caller import AT_FDCWD, Caller
from pybuild.sandbox.emulate.filecalls import PROCEED, only_fd
from pybuild.tree.notes import LINK_XATTR, RESERVED

_MOST_NAME = 255
_MOST_VALUE = 1 << 16
_LOW = 0xFFFFFFFF
_HOW = os.XATTR_CREATE | os.XATTR_REPLACE


def list_attributes(caller: Caller, name: str) -> int | None:
    """Answer listxattr(2) and its kin without what is a note: who copies attributes is not to copy owners with them."""
    args = caller.args
    caller.enter()
    try:
        if name == "flistxattr":
            held = caller.held(only_fd(args[0]))
        else:
            held = caller.open(AT_FDCWD, caller.text(0), os.O_PATH | (os.O_NOFOLLOW if name == "llistxattr" else 0))
    except OSError:
        # Whatever it is, the kernel will say so
        return PROCEED
    try:
        names = files.attributes(held)
    finally:
        os.close(held)
    if names is None:
        return PROCEED
    data = b"".join(name + b"\0" for name in names)
    room = args[2]
    if room and room < len(data):
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    if room:
        caller.check()
        caller.memory.write(caller.pid, args[1], data)
    return len(data)


def change_attribute(caller: Caller, name: str) -> int:
    """Carry out setxattr(2), removexattr(2) and their kin for the caller, but for notes: these are not there to it.

    It is done here and not by the kernel, which would read the name once more: it may be another one by then. Whoever
    has not the capability to give capabilities away cannot change them, which the kernel would let it do.
    """
    args = caller.args
    removes = name.endswith("removexattr")
    attribute = caller.text(1)
    if not 0 < len(attribute) <= _MOST_NAME:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    size, how = (0, 0) if removes else (args[3], args[4] & _LOW)
    if how & ~_HOW:
        raise rules.invalid()
    if size > _MOST_VALUE:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    value = caller.memory.read(caller.pid, args[2], size)
    caller.enter()
    if name[0] == "f":
        held = caller.held(only_fd(args[0]))
    else:
        held = caller.open(AT_FDCWD, caller.text(0), os.O_PATH | (os.O_NOFOLLOW if name[0] == "l" else 0))
    try:
        if _is_note(attribute, os.fstat(held).st_mode):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA)) if removes else rules.refused()
        if attribute == LINK_XATTR and not caller.who.may(rules.SETFCAP):
            raise rules.refused()
        caller.check()
        if removes:
            os.removexattr(files.magic(held), attribute)
        else:
            os.setxattr(files.magic(held), attribute, value, how)
    finally:
        os.close(held)
    return 0


def _is_note(attribute: bytes, mode: int) -> bool:
    """May an attribute of a file of a mode be a note? Capabilities of what cannot be executed may."""
    plain = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    return attribute.startswith(RESERVED) or (attribute == LINK_XATTR and not plain)
