"""Can this machine run programs of another architecture? Found out by running one that does nothing but end."""

import errno
import os
import struct
from pathlib import Path

from pybuild.oci.platform import Platform


class _Target:
    """How a program of an architecture begins (elf(5)), and the instructions by which it ends with status 0."""

    __slots__ = ("bits", "code", "flags", "machine", "order")

    def __init__(self, machine: int, code: str, *, bits: int = 64, order: str = "<", flags: int = 0) -> None:
        self.machine = machine
        self.code = bytes.fromhex(code)
        self.bits = bits
        self.order = order
        self.flags = flags


_TARGETS = {
    "amd64": _Target(62, "31ff b83c000000 0f05"),
    "386": _Target(3, "31db b801000000 cd80", bits=32),
    "arm64": _Target(183, "000080d2 a80b80d2 010000d4"),
    "arm": _Target(40, "0000a0e3 0170a0e3 000000ef", bits=32, flags=0x05000000),
    "riscv64": _Target(243, "13050000 9308d005 73000000", flags=4),
    "ppc64le": _Target(21, "00006038 01000038 02000044", flags=2),
    "s390x": _Target(22, "a7290000 0a01", order=">"),
    "mips64": _Target(8, "00002025 240213c2 0000000c", order=">", flags=0x80000007),
    "mips64le": _Target(8, "25200000 c2130224 0c000000", flags=0x80000007),
    "loong64": _Target(258, "04008003 0b748103 00002b00", flags=0x43),
}
_ADDRESS = 0x10000
_HEADER = {32: "HHIIIIIHHHHHH", 64: "HHIQQQIHHHHHH"}


def program(architecture: str) -> bytes | None:
    """Return a program of an architecture that ends at once, None for one that is not known here."""
    target = _TARGETS.get(architecture)
    if target is None:
        return None
    header, row = (52, 32) if target.bits == 32 else (64, 56)
    start = header + row
    size = start + len(target.code)
    ident = b"\x7fELF" + bytes([target.bits // 32, 1 if target.order == "<" else 2, 1]) + bytes(9)
    sizes = (header, row, 1, 0, 0, 0)
    head = (2, target.machine, 1, _ADDRESS + start, header, 0, target.flags, *sizes)
    if target.bits == 32:
        segment = struct.pack(target.order + "IIIIIIII", 1, 0, _ADDRESS, _ADDRESS, size, size, 5, 0x10000)
    else:
        segment = struct.pack(target.order + "IIQQQQQQ", 1, 5, 0, _ADDRESS, _ADDRESS, size, size, 0x10000)
    return ident + struct.pack(target.order + _HEADER[target.bits], *head) + segment + target.code


def can_run(platform: Platform, place: Path) -> bool:
    """Does the kernel take a program of that platform, by itself or with an emulator that binfmt_misc has?

    `place` is an unused name for the program, where files may be executed. What cannot be tried counts as yes.
    """
    data = program(platform.architecture)
    if data is None:
        return True
    try:
        place.touch(mode=0o700, exist_ok=False)
        place.write_bytes(data)
        nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        pid = os.posix_spawn(place, [os.fspath(place)], {}, file_actions=nothing)
        # How it ends is the emulator's business
        os.waitpid(pid, 0)
    except OSError as error:
        return error.errno != errno.ENOEXEC
    finally:
        place.unlink(missing_ok=True)
    return True
