"""How a tree tells owners and devices that its files cannot have, because only one id is mapped.

Regular files and directories carry a user attribute. Symbolic links and fifos may have none, but the kernel
lets root of a user namespace give them a file capability, which means nothing there: the owner is written in
its bits. Either way the note goes along with renames, hard links and the copies overlayfs makes.
"""

import struct

OWNER_XATTR = b"user.pybuild.owner"
"""`uid:gid` of a file whose owner cannot be set, because only one id is mapped."""
NODE_XATTR = b"user.pybuild.node"
"""`c:major:minor` or `b:...` of an empty file that stands for a device."""
LINK_XATTR = b"security.capability"
"""Of what is neither file nor directory: `link_note`."""

RESERVED = b"user.pybuild."
"""What the names of notes on files and directories begin with."""

LENT = "lent"
"""Name of a file beside a tree, which tells what in it is only lent to it."""

NO_ID = (1 << 32) - 1
_LINK = struct.Struct("<5I")
_VERSION = 0x02000000
_MARK = (0x6F627970, 0x646C6975)


def owner_note(uid: int, gid: int) -> bytes:
    """Return the value of OWNER_XATTR."""
    return b"%d:%d" % (uid, gid)


def read_owner(note: bytes) -> tuple[int, int] | None:
    """Return (uid, gid) of a value of OWNER_XATTR; None for anything else, as a RUN may write it too."""
    found = numbers(note)
    return (found[0], found[1]) if len(found) == 2 and max(found) < NO_ID else None


def node_note(kind: str, major: int, minor: int) -> bytes:
    """Return the value of NODE_XATTR; `kind` is "c" or "b"."""
    return b"%b:%d:%d" % (kind.encode(), major, minor)


def read_node(note: bytes) -> tuple[str, int, int] | None:
    """Return (kind, major, minor) of a value of NODE_XATTR; None for anything else."""
    kind, _, rest = note.partition(b":")
    rdev = numbers(rest)
    if kind not in (b"c", b"b") or len(rdev) != 2 or rdev[0] >= 1 << 12 or rdev[1] >= 1 << 20:
        return None
    return kind.decode(), rdev[0], rdev[1]


def link_note(uid: int, gid: int) -> bytes:
    """Return a file capability (linux/capability.h, version 2) that tells an owner."""
    return _LINK.pack(_VERSION, uid, gid, *_MARK)


def read_link(note: bytes) -> tuple[int, int] | None:
    """Return (uid, gid) of what `link_note` made; None for anything else."""
    if len(note) != _LINK.size:
        return None
    version, uid, gid, *mark = _LINK.unpack(note)
    return (uid, gid) if version == _VERSION and tuple(mark) == _MARK and max(uid, gid) < NO_ID else None


def numbers(text: bytes) -> list[int]:
    """Return decimals separated by colons, an empty list for anything else."""
    parts = text.split(b":")
    return [int(part) for part in parts] if all(part.isdigit() and len(part) <= 10 for part in parts) else []
