"""The tables of each architecture against the kernel's headers: those of this machine where it has them, else a list.

On Debian the headers are in linux-libc-dev and, for the other architecture, in linux-libc-dev-arm64-cross.
"""

import os
import re
from pathlib import Path

import pytest

from pybuild.sandbox.emulate import filter as emulation
from pybuild.sandbox.emulate import notify
from pybuild.sandbox.emulate.rawstat import raw_stat, raw_statx
from pybuild.sandbox.machine import MACHINES, StatLayout, this_machine
from pybuild.sandbox.seccomp import BY_ARGUMENT, DENIED

LISTED = Path(__file__).with_name("syscalls.txt")
NUMBERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": (
        "/usr/aarch64-linux-gnu/include/asm/unistd_64.h",
        "/usr/aarch64-linux-gnu/include/asm-generic/unistd.h",
        "/usr/include/aarch64-linux-gnu/asm/unistd_64.h",
    ),
}
STAT = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/stat.h", "/usr/include/asm/stat.h"),
    "aarch64": ("/usr/aarch64-linux-gnu/include/asm-generic/stat.h", "/usr/include/aarch64-linux-gnu/asm/stat.h"),
}
SIZES = {"unsigned long": 8, "long": 8, "__kernel_ulong_t": 8, "__kernel_long_t": 8, "unsigned int": 4, "int": 4}
ELF_MACHINE = {"x86_64": 62, "aarch64": 183}
LITTLE_ENDIAN_64 = 0xC0000000
# The newest call in the headers of Linux 6.1, the oldest that is worth a look
NEWEST_COMMON = 450


def listed(name: str) -> dict[str, int]:
    """Return the numbers in the list for an architecture."""
    column = 1 + list(MACHINES).index(name)
    rows = [line.split() for line in LISTED.read_text().splitlines() if not line.startswith("#")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def header(name: str, places: dict[str, tuple[str, ...]]) -> str:
    for place in places[name]:
        if os.path.exists(place):
            return Path(place).read_text()
    pytest.skip(f"this machine has no kernel headers of {name}")


def defined(text: str) -> dict[str, int]:
    """Return the numbers a header defines; those that depend on the size of a word have other names first."""
    found = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    for name, other in re.findall(r"#define __NR_(\w+)\s+__NR3264_(\w+)", text):
        if other in found:
            found.setdefault(name, found[other])
    return found


@pytest.mark.parametrize("name", MACHINES)
def test_numbers_are_those_of_the_list(name: str) -> None:
    assert MACHINES[name].numbers == listed(name)


@pytest.mark.parametrize("name", MACHINES)
def test_the_list_is_what_the_headers_say(name: str) -> None:
    there = defined(header(name, NUMBERS))
    assert there["execve"] == listed(name)["execve"]
    every = {row.split()[0] for row in LISTED.read_text().splitlines()[1:]}
    known = {call: number for call, number in listed(name).items() if call in there or number <= NEWEST_COMMON}
    # Nor does it leave out what an architecture has
    assert known == {call: there[call] for call in every if call in there}


def test_every_call_that_filters_name_is_in_some_table() -> None:
    every = set().union(*(machine.numbers for machine in MACHINES.values()))
    named = {*DENIED, *(rule.call for rule in BY_ARGUMENT), *emulation.ALWAYS, "open", "openat", "prctl", "clone3"}
    assert named - every == set()


@pytest.mark.parametrize("name", MACHINES)
def test_audit_numbers(name: str) -> None:
    assert MACHINES[name].audit == ELF_MACHINE[name] | LITTLE_ENDIAN_64


@pytest.mark.parametrize("name", MACHINES)
def test_layout_of_stat(name: str) -> None:
    structs = re.findall(r"struct stat \{(.*?)\n\};", header(name, STAT), re.DOTALL)
    at, offsets = 0, {}
    # The first one is that of 32-bit programs where there are two
    for kind, field, count in re.findall(r"^\s*([a-z_ ]+?)\s+(\w+)(?:\[(\d)\])?;", structs[-1], re.MULTILINE):
        size = SIZES[kind]
        at = (at + size - 1) // size * size
        offsets[field] = at
        at += size * int(count or 1)
    places = (offsets[f"st_{field}"] for field in ("mode", "uid", "gid", "rdev", "size"))
    assert MACHINES[name].stat == StatLayout((at + 7) // 8 * 8, *places)


def test_stat_of_this_kernel_has_its_fields_where_the_table_says() -> None:
    layout = this_machine().stat
    with open("/dev/null", "rb") as file:
        raw, there = raw_stat(file.fileno()), os.fstat(file.fileno())
        wide = raw_statx(file.fileno(), 0, 0x7FF)
    for at, value in ((layout.mode, there.st_mode), (layout.uid, there.st_uid), (layout.gid, there.st_gid)):
        assert int.from_bytes(raw[at : at + 4], "little") == value
    assert int.from_bytes(raw[layout.rdev : layout.rdev + 8], "little") == there.st_rdev
    assert int.from_bytes(wide[28:30], "little") == there.st_mode
    assert len(raw) == layout.size


def test_requests_of_notification_follow_from_their_structs() -> None:
    def request(number: int, way: int, size: int) -> int:
        # asm-generic/ioctl.h, which both architectures use
        return way << 30 | size << 16 | ord("!") << 8 | number

    write, read = 1, 2
    assert request(0, read | write, notify._NOTIFICATION.size) == notify._RECV
    assert request(1, read | write, notify._RESPONSE.size) == notify._SEND
    assert request(2, write, 8) == notify._ID_VALID
    assert request(3, write, notify._ADD.size) == notify._ADDFD
    assert request(4, write, 8) == notify._SET_FLAGS


def test_no_number_is_used_twice() -> None:
    for machine in MACHINES.values():
        assert len(set(machine.numbers.values())) == len(machine.numbers)
