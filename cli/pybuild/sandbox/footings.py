"""On what footing a worker may stand: in a user and a mount namespace, in the former alone, or in neither.

The latter two keep a RUN apart by chroot. Never are they taken for somebody who could have more: what is better is
tried first, and root of a system that is no container has to ask for it.
"""

import os

from pybuild.errors import UsageError
from pybuild.sandbox import advice
from pybuild.sandbox.errors import UserNamespaceError
from pybuild.sandbox.idmap import Footing
from pybuild.sandbox.spec import ISOLATIONS

VARIABLE = "PYBUILD_ISOLATION"


def wanted(isolation: str) -> tuple[Footing, ...]:
    """Return what to try, the best first, for auto or an isolation, or "" for what PYBUILD_ISOLATION says.

    Raises UsageError for an unknown word.
    """
    isolation = isolation or os.environ.get(VARIABLE) or "auto"
    if isolation == "namespaces":
        return ("namespaces",)
    if isolation == "chroot":
        return ("ids", "bare") if _may_chroot() else ("ids",)
    if isolation != "auto":
        raise UsageError(f"unknown isolation: {isolation}", f"known: auto, {', '.join(ISOLATIONS)}")
    return ("namespaces", "ids", "bare") if _may_chroot() and is_confined() else ("namespaces", "ids")


def _may_chroot() -> bool:
    if os.geteuid() != 0:
        return False
    from pybuild.sandbox import caps, syscalls

    return bool(syscalls.capabilities() >> caps.NUMBERS["SYS_CHROOT"] & 1)


def is_confined() -> bool:
    """Is this process in a container, or by other means kept from the system it runs on?"""
    return bool(advice.container()) or advice.status("Seccomp") == "2" or advice.in_chroot()


def less_isolated(refused: UserNamespaceError | None) -> str:
    """Return what a user is told of chroot; `refused` is why nothing better was to be had, None if it was asked for."""
    told = "RUN is less isolated: by chroot, without namespaces of its own"
    return told if refused is None else f"{told}; {advice.joined(refused.message, refused.hint)}"


def explained(refused: UserNamespaceError, tried: tuple[Footing, ...]) -> UserNamespaceError:
    """Return the error of a worker that could not be started, with what else would do."""
    if "bare" in tried or not _may_chroot():
        return refused
    other = "or build less isolated, with `--isolation=chroot`"
    return UserNamespaceError(refused.message, f"{refused.hint}; {other}" if refused.hint else other)
