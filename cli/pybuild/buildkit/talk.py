"""A call of a session as a thread of a build has it: messages to wait for, in bounded memory."""

import asyncio
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Lock
from types import TracebackType
from typing import Self, TypeVar

from pybuild.buildkit.grpc import Call, Code, GrpcError, Headers, open_call
from pybuild.buildkit.sessions import Session
from pybuild.errors import CancelledError

WINDOW = 4 << 20
"""How many bytes of messages may wait for the thread."""

AHEAD = 1 << 20
"""How many bytes a thread sends before it waits for the loop."""

_POLL_SECONDS = 0.5

T = TypeVar("T")


class Talk:
    """A call in both directions. Use it with `with`; leaving it gives the call up when it is not over."""

    def __init__(self, session: Session, path: str, metadata: Headers, cancel: Flag) -> None:
        self._loop = session.loop
        self._cancel = cancel
        self._queue: SimpleQueue[bytes | GrpcError | None] = SimpleQueue()
        self._lock = Lock()
        self._held = 0
        self._over = False
        self._unanswered = 0
        self._call: Call = self._in_loop(lambda: open_call(session.connection, path, metadata))
        self._room = asyncio.Event()
        self._pumping = asyncio.run_coroutine_threadsafe(self._pump(), self._loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pumping.cancel()
        self._loop.call_soon_threadsafe(self._call.cancel)

    def receive(self) -> bytes | None:
        """Return the next message, None at the end; raise GrpcError, and CancelledError when the build is over."""
        if self._over:
            return None
        while True:
            try:
                item = self._queue.get(timeout=_POLL_SECONDS)
                break
            except Empty:
                if self._cancel.is_set():
                    raise CancelledError("the build was cancelled") from None
        if isinstance(item, GrpcError):
            self._over = True
            raise item
        if item is None:
            self._over = True
            return None
        with self._lock:
            self._held -= len(item)
            roomy = self._held <= WINDOW // 2
        if roomy:
            self._loop.call_soon_threadsafe(self._room.set)
        return item

    def post(self, message: bytes) -> None:
        """Send a small message without waiting."""
        self._loop.call_soon_threadsafe(self._call.post, message)

    def send(self, message: bytes) -> None:
        """Send a message and wait while much is on its way; raise GrpcError, maybe for one that was sent before."""
        if self._cancel.is_set():
            raise CancelledError("the build was cancelled")
        self._unanswered += len(message)
        if self._unanswered < AHEAD:
            # To wait for the loop takes longer than to send a short one
            self.post(message)
            return
        self._unanswered = 0
        asyncio.run_coroutine_threadsafe(self._call.send(message), self._loop).result()

    def end(self) -> None:
        """Tell that no more messages follow."""
        self._loop.call_soon_threadsafe(self._call.end)

    async def _pump(self) -> None:
        try:
            while (message := await self._call.receive()) is not None:
                with self._lock:
                    self._held += len(message)
                    full = self._held > WINDOW
                    if full:
                        self._room.clear()
                self._queue.put(message)
                if full:
                    await self._room.wait()
            self._queue.put(None)
        except GrpcError as error:
            self._queue.put(error)

    def _in_loop(self, call: Callable[[], T]) -> T:
        async def run() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()


def closed(error: GrpcError) -> bool:
    """Is the client gone, rather than that it refused?"""
    return error.code in (Code.CANCELLED, Code.UNAVAILABLE)
