"""Names and extended attributes as layers spell them (OCI layer.md, "Whiteouts"; overlayfs.rst, "userxattr")."""

from pybuild.layer.errors import LayerError, LimitError, shown
from pybuild.layer.limits import DEFAULT_LIMITS, Limits

WHITEOUT_PREFIX = b".wh."
WHITEOUT_META_PREFIX = b".wh..wh."
OPAQUE_MARKER = b".wh..wh..opq"

OVERLAY_OPAQUE = b"user.overlay.opaque"
CAPABILITY = b"security.capability"
_RESERVED = (b"user.overlay.", b"user.pybuild.")


def clean_path(raw: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return the path of an archive member relative to the root, b"" for the root itself.

    Leading slashes and components that are empty or `.` go; raises LayerError for any `..`, LimitError for
    what the kernel could not hold.
    """
    path = raw
    if b"/." in raw or b"//" in raw or raw[:1] in b"/." or raw[-1:] == b"/":
        parts = [part for part in raw.split(b"/") if part and part != b"."]
        if b".." in parts:
            raise LayerError(f"archive has a name that leads out of it: `{shown(raw)}`")
        path = b"/".join(parts)
    if len(path) > limits.component:
        _check_long(path, limits)
    return path


def _check_long(path: bytes, limits: Limits) -> None:
    if len(path) > limits.name:
        raise LimitError(f"archive has a name of {len(path)} bytes: `{shown(path)}`", limit="name")
    parts = path.split(b"/")
    if len(parts) > limits.depth:
        raise LimitError(f"archive has a path {len(parts)} directories deep: `{shown(path)}`", limit="depth")
    if max(map(len, parts)) > limits.component:
        raise LimitError(f"archive has a name too long for a file: `{shown(path)}`", limit="component")


def is_marker(path: bytes) -> bool:
    """Does any component have the prefix that means a deletion?"""
    return WHITEOUT_PREFIX in path and any(part.startswith(WHITEOUT_PREFIX) for part in path.split(b"/"))


def marked_name(path: bytes) -> bytes | None:
    """Return what the marker at `path` says: b"" to ignore it, OPAQUE_MARKER, or the name to remove.

    None when it is no marker at all. Raises LayerError for a marker that cannot be meant.
    """
    if WHITEOUT_PREFIX not in path:
        return None
    *above, name = path.split(b"/")
    for part in above:
        if part.startswith(WHITEOUT_META_PREFIX):
            return b""  # the insides of aufs' own directories
        if part.startswith(WHITEOUT_PREFIX):
            raise LayerError(f"layer has files below a whiteout: `{shown(path)}`")
    if not name.startswith(WHITEOUT_PREFIX):
        return None
    if name == OPAQUE_MARKER:
        return name
    if name.startswith(WHITEOUT_META_PREFIX):
        return b""
    removed = name[len(WHITEOUT_PREFIX) :]
    if removed in (b"", b".", b".."):
        raise LayerError(f"layer has a whiteout of nothing: `{shown(path)}`")
    return removed


def keeps_xattr(name: bytes) -> bool:
    """May an extended attribute of this name be in a layer?"""
    return name == CAPABILITY or (name.startswith(b"user.") and not name.startswith(_RESERVED))


def plain_capability(value: bytes) -> bytes:
    """Return a file capability in the form without a namespace's root id (linux/capability.h, v3 to v2).

    Raises LayerError for what is none.
    """
    version = int.from_bytes(value[:4], "little") & 0xFF000000
    if (version, len(value)) in ((0x01000000, 12), (0x02000000, 20)):
        return value
    if version == 0x03000000 and len(value) == 24:
        flags = int.from_bytes(value[:4], "little") & 0x00FFFFFF
        return (0x02000000 | flags).to_bytes(4, "little") + value[4:20]
    raise LayerError(f"malformed file capability: {value[:32].hex()}")
