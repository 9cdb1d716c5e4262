"""Which credentials a process has: a number that the kernel carries for us.

RLIMIT_LOCKS has had no effect since Linux 2.4, but like every limit it belongs to all threads of a process,
goes to its children and stays through exec. Its soft value is an index into a table of credentials. No
list of processes has to be kept, so none can be wrong: not after vfork, not for an orphan or a pid used again.
A program that changes it changes who it pretends to be, which it may do anyway.
"""

import errno
import os
import resource
from collections.abc import Callable

from pybuild.sandbox.emulate.credentials import Credentials

LIMIT = 10
"""RLIMIT_LOCKS, which Python has no name for."""

MOST = 1 << 16
_MOST_GROUPS = 1 << 22


def mark_first() -> None:
    """Let this process, and all it starts, have the first credentials of the table."""
    resource.setrlimit(LIMIT, (0, resource.getrlimit(LIMIT)[1]))


class UnpreparedError(Exception):
    """A process is to be another user, and what it makes would not be asked about yet."""


class Identities:
    """The table. Equal credentials share a place.

    `prepared` tells whether a thread may make files that are not root's, None if all may.
    """

    def __init__(self, first: Credentials, prepared: Callable[[int], bool] | None = None) -> None:
        self.prepared = prepared
        self._rows = [first]
        self._places = {first: 0}
        self._groups = 0

    def of(self, pid: int) -> Credentials:
        """Return the credentials of a process; the first ones if it has tampered with its number."""
        if len(self._rows) == 1:
            return self._rows[0]
        soft, _ = resource.prlimit(pid, LIMIT)
        return self._rows[soft] if 0 <= soft < len(self._rows) else self._rows[0]

    def assign(self, pid: int, who: Credentials) -> None:
        """Give a process other credentials.

        Raises OSError when the table is full or the process is gone, UnpreparedError.
        """
        if self.prepared is not None and (who.uids[3] or who.gids[3]) and not self.prepared(pid):
            raise UnpreparedError
        place = self._places.get(who)
        if place is None:
            if len(self._rows) >= MOST or self._groups + len(who.groups) > _MOST_GROUPS:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            place = self._places[who] = len(self._rows)
            self._rows.append(who)
            self._groups += len(who.groups)
        _, hard = resource.prlimit(pid, LIMIT)
        try:
            resource.prlimit(pid, LIMIT, (place, hard))
        except ValueError as error:
            # The program has lowered what it may have
            raise OSError(errno.EPERM, os.strerror(errno.EPERM)) from error
