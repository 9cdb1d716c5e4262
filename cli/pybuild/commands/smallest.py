"""The smallest executable there is: it makes the directory `/made` and ends with 0, or with the error's number.

A build from scratch has no other program to run, and a program of this system would need libraries of it.
"""

import os
import struct

_BASE = 0x400000
_HEADERS = 64 + 56
_PATH = b"/made\0"
_MODE = 0o755

_AT_FDCWD = -100


def executable(machine: str = "") -> bytes:
    """Return a static ELF file for a machine ("" for this one) as `uname -m` calls it, b"" for one not known here.

    ELF-64 Object File Format, 1.5: a header, one segment that is loaded whole, the code, the path.
    """
    machine = machine or os.uname().machine
    make = {"x86_64": (62, _x86_64), "aarch64": (183, _aarch64)}.get(machine)
    if make is None:
        return b""
    number, assemble = make
    code = assemble()
    start, size = _BASE + _HEADERS, _HEADERS + len(code)
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = struct.pack("<16sHHIQQQIHHHHHH", identity, 2, number, 1, start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    readable_and_executable = 5
    segment = struct.pack("<IIQQQQQQ", 1, readable_and_executable, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


def _x86_64() -> bytes:
    mkdir, exit_ = 83, 60
    before = b"\xb8" + struct.pack("<I", mkdir) + b"\xbe" + struct.pack("<I", _MODE)  # mov eax; mov esi
    after = b"\x0f\x05" + b"\x89\xc7\xf7\xdf"  # syscall; mov edi, eax; neg edi
    after += b"\xb8" + struct.pack("<I", exit_) + b"\x0f\x05"  # mov eax; syscall
    # lea rdi, [rip + distance to the path]
    return before + b"\x48\x8d\x3d" + struct.pack("<i", len(after)) + after + _PATH


def _aarch64() -> bytes:
    mkdirat, exit_ = 34, 93
    words = [
        0x92800000 | (~_AT_FDCWD << 5),  # movn x0, 99
        0x10000001 | (7 << 5),  # adr x1, seven words ahead
        0xD2800002 | (_MODE << 5),  # movz x2, mode
        0xD2800008 | (mkdirat << 5),  # movz x8, number
        0xD4000001,  # svc 0
        0xCB0003E0,  # neg x0, x0
        0xD2800008 | (exit_ << 5),  # movz x8, number
        0xD4000001,  # svc 0
    ]
    return struct.pack(f"<{len(words)}I", *words) + _PATH
