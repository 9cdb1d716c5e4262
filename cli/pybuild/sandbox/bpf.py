"""Instructions of classic BPF as filters of system calls have them (seccomp(2), linux/filter.h, linux/bpf_common.h)."""

import struct

LOAD = 0x20
JUMP_EQUAL = 0x15
JUMP_ANY_BIT = 0x45
RETURN = 0x06
AND = 0x54

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
NOTIFY = 0x7FC00000
TRACE = 0x7FF00000

# struct seccomp_data: nr, arch, instruction pointer, six arguments
NR = 0
ARCH = 4
ARGS = 16


def op(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    """Return one instruction; the jumps are how many of those that follow are passed over."""
    return struct.pack("HBBI", code, when_true, when_false, value)
