"""Capabilities (capabilities(7)): what a RUN keeps of a namespaced root's, and how the rest goes."""

import errno

from pybuild.sandbox import syscalls

NUMBERS = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "NET_RAW": 13,
    "SYS_CHROOT": 18,
    "MKNOD": 27,
    "AUDIT_WRITE": 29,
    "SETFCAP": 31,
}
"""The fourteen that builders are expected to leave."""

KEPT = sum(1 << number for number in NUMBERS.values())
CAP_SETUID = 1 << 7


def limit_bounding_set() -> None:
    """Take all but KEPT from the bounding set: no program gets them back, set-uid or not."""
    for number in range(64):
        if not KEPT >> number & 1:
            try:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
            except OSError as error:
                # EINVAL: this kernel knows none of that number, nor any above
                if error.errno != errno.EINVAL:
                    raise
                return


def limit_own() -> None:
    """Keep KEPT if this is root and nothing otherwise; nothing is inherited or ambient.

    A non-empty inheritable set has been a vulnerability of its own: programs with inheritable file
    capabilities would get them.
    """
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    kept = KEPT & syscalls.capabilities()
    syscalls.capset(kept, kept, 0)
