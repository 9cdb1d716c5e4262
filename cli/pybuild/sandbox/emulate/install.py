"""The payload's side: the last thing before its exec. Nothing may be imported here."""

import socket
import struct

from pybuild.sandbox import advice, syscalls
from pybuild.sandbox.emulate.filter import fake_filter, full_filter
from pybuild.sandbox.emulate.identity import mark_first
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.machine import this_machine
from pybuild.sandbox.users import Identity
from pybuild.sandbox.wire import send_with_fds

_programs: dict[str, bytes] = {}


def build_programs() -> None:
    """Make the filters once, before anything is forked: the loose one only where others can be traced."""
    if not _programs:
        from pybuild.sandbox.emulate.tracing import can_trace

        _programs["full"] = full_filter(this_machine())
        _programs["watched"] = full_filter(this_machine(), watched=True)
        _programs["fake"] = fake_filter(this_machine())
        if can_trace():
            _programs["loose"] = full_filter(this_machine(), watched=True, loose=True)


def install_fake() -> None:
    """Let changes of owner and identity seem to succeed."""
    syscalls.seccomp_filter(_programs["fake"])


def install_full(handover: int, who: Identity, *, watched: bool) -> None:
    """Hand calls over to the supervisor at the other end of the socket `handover`, which is closed.

    `watched`: it watches set-gid directories. Raises SandboxError where the kernel refuses that.
    """
    mark_first()
    # The supervisor could not look into it otherwise; the only processes here are this one and init
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    # Made before: from the filter on, calls wait for somebody who has not been told yet
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=handover) as control:
        # Whose files are all its own from the start would only be traced for nothing
        loose = watched and "loose" in _programs and not (who.uid or who.gid)
        data = struct.pack(f"{len(who.groups) + 3}I", loose, who.uid, who.gid, *who.groups)
        try:
            listener = syscalls.seccomp_listener(_programs["loose" if loose else "watched" if watched else "full"])
        except OSError as error:
            why = f"owners of files cannot be emulated here: {error.strerror}"
            raise SandboxError(why, advice.listener(error.errno or 0)) from error
        send_with_fds(control, data, [listener])
    syscalls.close_range(listener, listener)
