"""What a RUN has mounted beside its root and the system's own file systems, as values.

Targets are absolute paths in the image; their links are followed inside of it, and what is missing is made for the time
of the RUN. `path`, `lowers` and `scratch` are paths of the host, of things that only the caller writes to, or RUN steps
by the same kind of mount. `source` is relative, and never leads out of what it is in.
"""

from typing import Any

import msgspec


class Layers(msgspec.Struct, frozen=True, array_like=True, tag="layers"):
    """A part of unpacked layers, bottom first. `scratch` holds an empty `fs` and `work`; what is written goes there."""

    target: bytes
    lowers: tuple[bytes, ...]
    scratch: bytes
    source: bytes = b""
    read_only: bool = True


class Directory(msgspec.Struct, frozen=True, array_like=True, tag="directory"):
    """A part of a directory of the host; what is written to one that is not `read_only` stays in it."""

    target: bytes
    path: bytes
    source: bytes = b""
    read_only: bool = False


class Memory(msgspec.Struct, frozen=True, array_like=True, tag="memory"):
    """An empty directory in memory; `size` is in bytes, 0 for the kernel's half of all memory."""

    target: bytes
    size: int = 0
    read_only: bool = False


class File(msgspec.Struct, frozen=True, array_like=True, tag="file"):
    """A read-only file that is only ever in memory."""

    target: bytes
    content: bytes
    mode: int = 0o400
    uid: int = 0
    gid: int = 0

    def __repr__(self) -> str:
        """Show what it is without the content, which may be secret."""
        return f"File({self.target!r}, {len(self.content)} bytes)"


class Socket(msgspec.Struct, frozen=True, array_like=True, tag="socket"):
    """A listening socket of the host."""

    target: bytes
    path: bytes
    uid: int = 0
    gid: int = 0


class HostDevice(msgspec.Struct, frozen=True, array_like=True, tag="device"):
    """A device node of the host, opened by the rights that the user has there."""

    target: bytes
    path: bytes


class HostPath(msgspec.Struct, frozen=True, array_like=True, tag="host"):
    """A file or directory of the host with all that is mounted in it; what is written to it stays.

    `attributes` are of ro, nosuid, nodev, noexec.
    """

    target: bytes
    path: bytes
    attributes: tuple[str, ...] = ()


Volume = Layers | Directory | Memory | File | Socket | HostDevice | HostPath


def keeps_writes(volume: Volume) -> bool:
    """May there be files in it, from before, beside which others are made?"""
    if isinstance(volume, HostPath):
        return "ro" not in volume.attributes
    return isinstance(volume, Layers | Directory) and not volume.read_only


# What msgspec has to know of the types it finds out here, before anything is forked
_NONE = msgspec.convert([], list[Volume])


def to_wire(volumes: tuple[Volume, ...]) -> list[Any]:
    """Return plain values."""
    plain: list[Any] = msgspec.to_builtins(volumes, builtin_types=(bytes,))
    return plain


def from_wire(data: list[Any]) -> tuple[Volume, ...]:
    """Return the volumes that `to_wire` made `data` of."""
    return tuple(msgspec.convert(data, list[Volume])) if data else ()
