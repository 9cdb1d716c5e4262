"""Where those who opened a shell and those who come to use it meet, in one process.

A shell's end of its streams is offered under a token that cannot be guessed. Whoever asks for it, this process's
own front or a connection to the daemon, gets the descriptors once, and afterwards says how to go on.
"""

import os
import socket
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Lock

from pybuild.api.events import DECISIONS
from pybuild.errors import NotFoundError, UsageError

_POLL_SECONDS = 0.1


class Streams:
    """Pipes, or what leads to a terminal: `inner` are for the sandbox (output, errors, input), `outer` for the user.

    A terminal is one socket on either side. Of `outer` the first is to be written to; then come output and errors.
    """

    def __init__(self, *, terminal: bool) -> None:
        self.stdin: int | None = None
        if terminal:
            ours, theirs = socket.socketpair()
            self.outer, self.inner = [ours.detach()], [theirs.detach()]
            self.stdout = self.stderr = self.inner[0]
            return
        self.stdin, write = os.pipe2(os.O_CLOEXEC)
        out, self.stdout = os.pipe2(os.O_CLOEXEC)
        err, self.stderr = os.pipe2(os.O_CLOEXEC)
        self.outer, self.inner = [write, out, err], [self.stdout, self.stderr, self.stdin]

    def close_inner(self) -> None:
        """Close what was for the sandbox."""
        while self.inner:
            os.close(self.inner.pop())


class Visit:
    """A shell that can be visited, as long as the `with` lasts; what nobody took of `streams.outer` is closed then."""

    def __init__(self, streams: Streams) -> None:
        self.token = os.urandom(16).hex()
        self._fds: Sequence[int] | None = streams.outer
        self._streams = streams
        self._lock = Lock()
        self._taken = Flag()
        self._decisions: SimpleQueue[str] = SimpleQueue()

    def __enter__(self) -> "Visit":
        _visits[self.token] = self
        return self

    def __exit__(self, *_: object) -> None:
        _visits.pop(self.token, None)
        self._streams.close_inner()
        for fd in self.take() or ():
            os.close(fd)

    def take(self) -> Sequence[int] | None:
        """Return the user's descriptors, the caller's from now on; None when they are taken."""
        with self._lock:
            fds, self._fds = self._fds, None
        self._taken.set()
        return fds

    def wait(self, check: Callable[[], None]) -> None:
        """Wait for the visitor, calling `check` as `decision` does: what runs before could be over before."""
        while not self._taken.wait(_POLL_SECONDS):
            check()

    def decide(self, decision: str) -> None:
        """Say how to go on."""
        self._decisions.put(decision)

    def decision(self, check: Callable[[], None]) -> str:
        """Wait for the decision, calling `check` now and then, which raises when it is not waited for any more."""
        while True:
            check()
            try:
                return self._decisions.get(timeout=_POLL_SECONDS)
            except Empty:
                continue


_visits: dict[str, Visit] = {}


def take(token: str) -> Sequence[int]:
    """Return the descriptors of the shell with that token, which are the caller's to close; raise NotFoundError."""
    visit = _visits.get(token)
    fds = None if visit is None else visit.take()
    if fds is None:
        raise NotFoundError("no shell waits under this token")
    return fds


def decide(token: str, decision: str) -> None:
    """Tell a build with a shell how to go on; raise NotFoundError, or UsageError for no decision."""
    visit = _visits.get(token)
    if decision not in DECISIONS:
        raise UsageError(f"unknown decision: {decision}", f"known: {', '.join(DECISIONS)}")
    if visit is None:
        raise NotFoundError("no shell waits under this token")
    visit.decide(decision)
