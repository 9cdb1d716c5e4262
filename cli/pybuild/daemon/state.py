"""What one daemon knows of itself while it runs."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Flag
from time import time
from typing import Any

from aiohttp import web

from pybuild.daemon.engine import Engine
from pybuild.errors import ConflictError, PybuildError

log = logging.getLogger("pybuild.daemon")


class State:
    """Counts what is going on, and decides when to stop. Used from the loop only."""

    def __init__(
        self,
        *,
        store_root: Path,
        socket: Path,
        idle_seconds: float,
        load: Callable[[], Engine],
        listens: Sequence[str] = (),
    ) -> None:
        self.store_root = store_root
        self.socket = socket
        self.listens = [*listens]
        self.idle_seconds = idle_seconds
        self.started = time()
        self.stopping = asyncio.Event()
        self.now = asyncio.Event()
        self.builds: set[Flag] = set()
        self._no_builds = asyncio.Event()
        self._no_builds.set()
        self._load = load
        self._engine: asyncio.Task[Engine] | None = None
        self._requests = 0
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def engine(self) -> Engine:
        """Return the engine, imported at the first call; a failed import is tried again at the next."""
        from pybuild.daemon.bridges import in_thread

        if self._engine is None or (self._engine.done() and self._engine.exception() is not None):
            self._engine = asyncio.create_task(in_thread(self._load, "load"))
        return await asyncio.shield(self._engine)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request: no idle exit during it."""
        self._requests += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            yield
        finally:
            self._requests -= 1
            self.rest()

    def rest(self) -> None:
        """Start the clock of the idle exit if nothing goes on."""
        if self._requests or self.builds or not self.idle_seconds or self._timer is not None:
            return
        self._timer = asyncio.get_running_loop().call_later(self.idle_seconds, self._idle)

    def _idle(self) -> None:
        self._leaving = asyncio.get_running_loop().create_task(self._leave())

    async def _leave(self) -> None:
        """Stop, unless somebody comes while what was built is brought to the disk."""
        from pybuild.daemon.bridges import in_thread

        log.info("idle for %g s", self.idle_seconds)
        if self._engine is not None and self._engine.done() and self._engine.exception() is None:
            try:
                await in_thread(self._engine.result().images.flush, "flush")
            except PybuildError as error:
                # It will be checked after a reboot, that is all
                log.warning("%s", error.message)
        if self._requests or self.builds:
            self._timer = None
            self.rest()
        else:
            self.stop()

    def begin_build(self, cancel: Flag | None = None) -> Flag:
        """Return the flag that cancels a new build; raise ConflictError when the daemon is about to end."""
        if self.stopping.is_set():
            raise ConflictError("the daemon is stopping", "try again in a moment")
        cancel = Flag() if cancel is None else cancel
        self.builds.add(cancel)
        self._no_builds.clear()
        return cancel

    def end_build(self, cancel: Flag) -> None:
        """Forget a build whose thread has ended."""
        self.builds.discard(cancel)
        if not self.builds:
            self._no_builds.set()
        self.rest()

    def stop(self, *, now: bool = False) -> None:
        """Stop soon; a second time, or with `now`, without waiting for builds."""
        if now or self.stopping.is_set():
            self.now.set()
        self.stopping.set()

    async def finish_builds(self, grace: float, limit: float) -> None:
        """Wait `grace` seconds for builds to end by themselves, cancel them, wait `limit` seconds more."""
        if self.builds:
            log.info("waiting for %d builds", len(self.builds))
            waits = [asyncio.ensure_future(self._no_builds.wait()), asyncio.ensure_future(self.now.wait())]
            await asyncio.wait(waits, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        for cancel in self.builds:
            cancel.set()
        try:
            await asyncio.wait_for(self._no_builds.wait(), limit)
        except TimeoutError:
            log.error("%d builds do not end, leaving them", len(self.builds))

    def status(self) -> dict[str, Any]:
        """Return what `/pybuild/v1/status` tells."""
        import os

        from pybuild import __version__

        return {
            "version": __version__,
            "pid": os.getpid(),
            "socket": str(self.socket),
            "listens": self.listens,
            "store": str(self.store_root),
            "started": self.started,
            "builds": len(self.builds),
            "idle_timeout": self.idle_seconds,
        }


STATE: web.AppKey[State] = web.AppKey("state", State)
