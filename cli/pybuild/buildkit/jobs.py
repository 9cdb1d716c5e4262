"""What one `Control.Solve` is about: its request, what it came to, what it tells, and how it is given up."""

import asyncio
import time
from collections.abc import AsyncIterator
from threading import Event as Flag
from threading import Lock
from typing import Any, NamedTuple

from pybuild.api.events import Event
from pybuild.buildkit.grpc import Code, GrpcError
from pybuild.buildkit.progress import Progress

MAX_JOBS = 64
KEPT = 16
"""How many jobs that are over can still be asked about."""

SECONDS = 10.0
"""How long a call waits for the solve that it belongs to, which may come later."""


class Outcome(NamedTuple):
    """What a frontend made: an image of the store, or an index of several, or answers about the Dockerfile."""

    image_id: str = ""
    metadata: dict[str, bytes] = {}
    told: dict[str, str] = {}
    """What the answer to the solve says besides, as of caches that were written."""
    epoch: int | None = None
    is_index: bool = False
    several: bool = False
    """Is it an index of images for several platforms?"""


class Job:
    """One solve. All but `tell` is for the loop."""

    def __init__(self, ref: str) -> None:
        self.ref = ref
        self.cancel = Flag()
        self.request: dict[str, Any] = {}
        self.begun = asyncio.Event()
        self.over = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.returned: asyncio.Future[Outcome] = loop.create_future()
        self.outcomes: dict[str, Outcome] = {}
        self._loop = loop
        self._told: list[bytes] = []
        self._more = asyncio.Event()
        self._lock = Lock()
        self._progress = Progress(ref, self._tell, time.time)

    def tell(self, event: Event) -> None:
        """Tell an event of the engine's, from any thread."""
        with self._lock:
            self._progress.event(event)

    def begin(self, name: str) -> str:
        """Tell that something begins that is no step, from any thread; return its digest."""
        with self._lock:
            return self._progress.begin(name)

    def end(self, digest: str, error: str = "") -> None:
        """Tell that it ended."""
        with self._lock:
            self._progress.end(digest, error=error)

    def count(self, digest: str, label: str, current: int, *, done: bool = False) -> None:
        """Tell a count of bytes of something that was begun."""
        with self._lock:
            self._progress.count(digest, label, current, done)

    def show(self, file: str, text: bytes) -> None:
        """Remember the Dockerfile: warnings point into it."""
        with self._lock:
            self._progress.file, self._progress.text = file, text

    def close(self, error: str = "") -> None:
        """Tell that it is over."""
        with self._lock:
            self._progress.give_up(error)
        # Behind what threads have told
        self._loop.call_soon(self._close)

    def _close(self) -> None:
        self.over.set()
        self._more.set()

    def _tell(self, message: bytes) -> None:
        try:
            self._loop.call_soon_threadsafe(self._add, message)
        except RuntimeError:
            # The loop is closed: nobody is left to be told
            return

    def _add(self, message: bytes) -> None:
        self._told.append(message)
        self._more.set()

    async def messages(self) -> AsyncIterator[bytes]:
        """Yield all that is told, from the beginning, until it is over."""
        place = 0
        while True:
            while place < len(self._told):
                yield self._told[place]
                place += 1
            if self.over.is_set():
                return
            self._more.clear()
            await self._more.wait()


class Jobs:
    """The jobs there are, by the references that clients gave them."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def begin(self, ref: str, request: dict[str, Any]) -> Job:
        """Return a new job; raise GrpcError when that cannot be."""
        job = self._expected(ref)
        if job.begun.is_set():
            raise GrpcError(Code.ALREADY_EXISTS, f"job exists already: {ref}")
        job.request = request
        job.begun.set()
        return job

    async def get(self, ref: str) -> Job:
        """Return a job, waited for if need be; raise GrpcError."""
        job = self._expected(ref)
        try:
            async with asyncio.timeout(SECONDS):
                await job.begun.wait()
        except TimeoutError:
            if not job.begun.is_set():
                self._jobs.pop(ref, None)
            raise GrpcError(Code.NOT_FOUND, f"no such job: {ref}") from None
        return job

    def _expected(self, ref: str) -> Job:
        if not ref:
            raise GrpcError(Code.INVALID_ARGUMENT, "a job needs a reference")
        if ref not in self._jobs:
            for old in [name for name, job in self._jobs.items() if job.over.is_set()][:-KEPT]:
                del self._jobs[old]
            if len(self._jobs) >= MAX_JOBS + KEPT:
                raise GrpcError(Code.RESOURCE_EXHAUSTED, f"there are {MAX_JOBS} jobs already")
            self._jobs[ref] = Job(ref)
        return self._jobs[ref]
