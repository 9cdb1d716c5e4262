"""What the daemon lends: its engine, threads, and what it wants to know of builds."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from threading import Event as Flag
from typing import Any, Protocol, TypeVar

from pybuild.api.events import Event
from pybuild.api.request import BuildRequest

T = TypeVar("T")


class Host(Protocol):
    """The daemon, as far as BuildKit's services need it."""

    @property
    def store_root(self) -> Path:
        """Return where the store is."""

    async def engine(self) -> Any:
        """Return the engine (`daemon.engine.Engine`)."""

    def in_thread(self, call: Callable[[], T]) -> Awaitable[T]:
        """Run `call` in a thread of its own."""

    def begin_build(self, cancel: Flag) -> None:
        """Count a build that `cancel` gives up; raise ConflictError when the daemon is about to end."""

    def end_build(self, cancel: Flag) -> None:
        """Count it no more."""

    def done(self, last: Event) -> None:
        """Tell others how a build ended."""

    def within_limits(self, request: BuildRequest) -> BuildRequest:
        """Return the request with the limits of the daemon's store."""
