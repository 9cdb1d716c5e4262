"""The numbers no archive from outside may pass."""

import msgspec

MIB = 1 << 20
GIB = 1 << 30


class Limits(msgspec.Struct, frozen=True):
    """Bounds on one archive; sizes in bytes.

    `total` bounds the uncompressed stream. A compressed stream may grow to `ratio_free` plus `ratio` times
    what was read of it: real layers stay far below, even with a gigabyte of zeros in them. `members` without
    content are counted by `empty_members`: a compressed stream may be a chain of any number of real ones.
    `name` and `component` are what Linux itself can hold.
    """

    total: int = 64 * GIB
    entries: int = 1_000_000
    ratio: int = 250
    ratio_free: int = GIB
    empty_members: int = 1_000
    extended_header: int = MIB
    name: int = 4095
    component: int = 255
    depth: int = 1024
    xattr: int = 64 << 10
    window_log: int = 27
    """zstd: 128 MiB of memory."""
    memory: int = 256 * MIB
    """xz: dictionaries are at most 64 MiB in all its presets."""


DEFAULT_LIMITS = Limits()
