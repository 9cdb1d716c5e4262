"""Bytes and events between the loop and threads of the engine, in bounded memory."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from queue import Empty, SimpleQueue
from threading import Condition, Lock, Thread
from threading import Event as Flag
from typing import Any, TypeVar

from aiohttp import StreamReader, web

T = TypeVar("T")


async def in_thread(call: Callable[[], T], name: str = "engine") -> T:
    """Run `call` in a new thread and return its result. The thread goes on when the caller is cancelled.

    Not a pool: a long build must never make a short question wait for a free thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        failed: BaseException | None = None
        try:
            result = call()
        except BaseException as error:
            failed = error
            if isinstance(error, StopIteration):
                # A future refuses it
                failed = RuntimeError("StopIteration")
        try:
            loop.call_soon_threadsafe(settle, result, failed)
        except RuntimeError:
            # The loop is closed: the daemon has given up waiting for this thread
            pass

    Thread(target=run, name=name, daemon=True).start()
    return await future


class Body(io.RawIOBase):
    """A request body as a file for a thread. `feed` runs in the loop, at most `WINDOW` bytes ahead of the reader."""

    WINDOW = 4 << 20

    def __init__(self, first: bytes = b"", *, cancel: Flag | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._cancel = cancel
        self._room = asyncio.Event()
        self._queue: SimpleQueue[bytes | OSError] = SimpleQueue()
        self._lock = Lock()
        self._held = 0
        self._rest = memoryview(first)
        self._end: OSError | None = None
        self._ended = False

    async def feed(self, content: StreamReader) -> None:
        """Read all of `content`; what comes after `close` is dropped, so that the client can finish its sending."""
        try:
            while data := await content.readany():
                if self.closed:
                    continue
                with self._lock:
                    self._held += len(data)
                    full = self._held > self.WINDOW
                    if full:
                        self._room.clear()
                self._queue.put(data)
                if full:
                    await self._room.wait()
            self._queue.put(b"")
        except Exception:
            # aiohttp tells a body cut short by several classes; to the engine they are one
            self._queue.put(ConnectionResetError("the client went away while it sent the context"))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for bytes; 0 at the end, OSError when the client went away."""
        if not self._rest and not self._ended:
            item = self._next()
            if isinstance(item, OSError):
                self._ended, self._end = True, item
            elif not item:
                self._ended = True
            else:
                self._rest = memoryview(item)
                with self._lock:
                    self._held -= len(item)
                    roomy = self._held <= self.WINDOW // 2
                if roomy:
                    self._wake()
        if self._end is not None:
            raise self._end
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def abort(self) -> None:
        """Let go a thread that waits for bytes: none will come."""
        self._queue.put(ConnectionAbortedError("the request was given up"))

    def _next(self) -> bytes | OSError:
        # A build may be cancelled while its client sends nothing and stays
        while True:
            try:
                return self._queue.get(timeout=0.5)
            except Empty:
                if self._cancel is not None and self._cancel.is_set():
                    return ConnectionAbortedError("the build was cancelled")

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._room.set)
        except RuntimeError:
            # The loop is closed, nobody waits
            pass


class Outbox:
    """Items from threads to the loop; a full box makes the threads wait."""

    LIMIT = 20_000

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._filled = asyncio.Event()
        self._condition = Condition()
        self._items: list[Any] = []
        self._closed = False
        self._waking = False

    def put(self, item: Any) -> None:
        """Add an item, from any thread; after `close` it is dropped."""
        with self._condition:
            while len(self._items) >= self.LIMIT and not self._closed:
                self._condition.wait()
            if self._closed:
                return
            self._items.append(item)
            if self._waking:
                return
            self._waking = True
        try:
            self._loop.call_soon_threadsafe(self._filled.set)
        except RuntimeError:
            # The loop is closed, nobody reads
            pass

    def close(self) -> None:
        """Let go the threads that wait; `batches` ends once it is empty."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._filled.set()

    async def batches(self) -> AsyncIterator[list[Any]]:
        """Yield what has come since the last time, until closed."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            with self._condition:
                items, self._items = self._items, []
                self._waking = False
                closed = self._closed
                self._condition.notify_all()
            if items:
                yield items
            if closed:
                return


class Download(io.RawIOBase):
    """A file for a thread whose bytes go to the client; nothing is sent, no status either, before the first one."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._loop = asyncio.get_running_loop()
        self._request = request
        self._response = response

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Send and wait until it is sent or well buffered; raises ConnectionResetError when the client has gone."""
        block = bytes(data)
        asyncio.run_coroutine_threadsafe(self._send(block), self._loop).result()
        return len(block)

    async def _send(self, block: bytes) -> None:
        if not self._response.prepared:
            await self._response.prepare(self._request)
        await self._response.write(block)
