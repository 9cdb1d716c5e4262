"""Answers to calls about user and group ids. Each takes a Caller and returns the call's value, or PROCEED."""

import errno
import os
import struct

from pybuild.sandbox.caps import KEPT
from pybuild.sandbox.emulate import credentials as rules
from pybuild.sandbox.emulate.caller import Caller
from pybuild.sandbox.emulate.credentials import Credentials
from pybuild.sandbox.emulate.identity import Identities

PROCEED = None
_LOW = 0xFFFFFFFF
_HEADER = struct.Struct("Ii")
_WORDS = {0x19980330: 3, 0x20071026: 6, 0x20080522: 6}
"""How many words capget(2) tells, by version (linux/capability.h)."""


class IdCalls:
    """Handlers by name of the call."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    def _assign(self, caller: Caller, new: Credentials) -> int:
        if new != caller.who:
            caller.check()
            self._identities.assign(caller.pid, new)
            caller.here = 0
        return 0

    def set(self, caller: Caller, name: str) -> int:
        """Answer setuid(2) and its kin; raises OSError."""
        who = caller.who
        about_user = name.endswith("uid")
        ids = who.uids if about_user else who.gids
        privileged = who.may(rules.SETUID if about_user else rules.SETGID)
        args = [value & _LOW for value in caller.args]
        if name.startswith("setres"):
            new = rules.set_res(ids, args[0], args[1], args[2], privileged)
        elif name.startswith("setre"):
            new = rules.set_re(ids, args[0], args[1], privileged)
        elif name.startswith("setfs"):
            new = rules.set_fs(ids, args[0], privileged)
            self._assign(caller, rules.with_fs_uid(who, new) if about_user else who._replace(gids=new))
            return ids[3]
        else:
            new = rules.set_id(ids, args[0], privileged)
        return self._assign(caller, rules.with_uids(who, new) if about_user else who._replace(gids=new))

    def setgroups(self, caller: Caller) -> int:
        """Answer setgroups(2); raises OSError."""
        if not caller.who.may(rules.SETGID):
            raise rules.refused()
        count = caller.args[0] & _LOW
        if count > rules.MAX_GROUPS:
            raise rules.invalid()
        groups = struct.unpack(f"{count}I", caller.memory.read(caller.pid, caller.args[1], 4 * count))
        if rules.UNCHANGED in groups:
            raise rules.invalid()
        return self._assign(caller, caller.who._replace(groups=tuple(sorted(groups))))

    def get(self, caller: Caller, name: str) -> int | None:
        """Answer getuid(2) and its kin; raises OSError."""
        ids = caller.who.uids if name.endswith("uid") else caller.who.gids
        if not any(ids):
            return PROCEED
        if name.startswith("getres"):
            caller.check()
            for address, value in zip(caller.args[:3], ids[:3]):
                caller.memory.write(caller.pid, address, struct.pack("I", value))
            return 0
        return ids[1] if name.startswith("gete") else ids[0]

    def getgroups(self, caller: Caller) -> int:
        """Answer getgroups(2); raises OSError."""
        groups = caller.who.groups
        room = caller.args[0] & _LOW
        if room == 0:
            return len(groups)
        if room >> 31 or room < len(groups):
            raise rules.invalid()
        caller.check()
        caller.memory.write(caller.pid, caller.args[1], struct.pack(f"{len(groups)}I", *groups))
        return len(groups)

    def prctl(self, caller: Caller) -> None:
        """Note PR_SET_KEEPCAPS, which the kernel carries out too."""
        self._assign(caller, caller.who._replace(keep_caps=caller.args[1] == 1))
        return PROCEED

    def capset(self, caller: Caller) -> None:
        """Note which capabilities are left, which the kernel takes away too."""
        data = caller.memory.read(caller.pid, caller.args[1], 8)
        low_effective, low_permitted = struct.unpack("II", data)
        self._assign(caller, rules.with_capabilities(caller.who, low_effective, low_permitted))
        return PROCEED

    def capget(self, caller: Caller) -> int | None:
        """Tell which capabilities are left to one who has not all any more; others are told by the kernel."""
        if caller.who.effective == caller.who.permitted == KEPT or 0 in caller.args[:2]:
            return PROCEED
        version, pid = _HEADER.unpack(caller.memory.read(caller.pid, caller.args[0], _HEADER.size))
        # Of another process only its number is known, as the RUN has it
        if pid or version not in _WORDS:
            return PROCEED
        held = caller.who.effective, caller.who.permitted, 0
        words = [mask >> shift & _LOW for shift in (0, 32) for mask in held][: _WORDS[version]]
        caller.check()
        caller.memory.write(caller.pid, caller.args[1], struct.pack(f"{len(words)}I", *words))
        return 0

    def chroot(self, caller: Caller) -> None:
        """Remember that paths may begin elsewhere; raises OSError when it is not allowed."""
        if not caller.who.may(rules.SYS_CHROOT):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        self._assign(caller, caller.who._replace(chrooted=True))
        return PROCEED
