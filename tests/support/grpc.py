"""Two ends of an HTTP/2 connection in one process, and a client of BuildKit's that serves what a test gives it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from threading import Thread

from pybuild.buildkit import grpc
from pybuild.buildkit.http2 import Connection, Stream
from pybuild.buildkit.sessions import Session

PREFIX = "x-docker-expose-session-"


class Ends:
    """A client's connection, and a server's that has `methods`; what one writes the other receives a little later."""

    def __init__(self, methods: Mapping[str, Callable[[grpc.Call], Awaitable[None]]]) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.methods = methods
        loop = asyncio.get_running_loop()
        self.server = Connection(
            lambda data: loop.call_soon(self._to_client, data) and None, is_client=False, serve=self._serve
        )
        self.client = Connection(lambda data: loop.call_soon(self.server.receive, data) and None, is_client=True)

    def _to_client(self, data: bytes) -> None:
        self.client.receive(data)

    def _serve(self, stream: Stream) -> None:
        self.tasks.append(asyncio.create_task(grpc.serve(stream, self.methods)))

    def session(self, shared_key: str = "key") -> Session:
        """Return what the server serves as a session."""
        metadata = {
            PREFIX + "uuid": ("id",),
            PREFIX + "sharedkey": (shared_key,),
            PREFIX + "grpc-method": tuple(self.methods),
        }
        return Session(metadata, self.client)


class Loop:
    """A loop in a thread, for what is called from threads."""

    def __enter__(self) -> "Loop":
        self.loop = asyncio.new_event_loop()
        self._thread = Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def ends(self, methods: Mapping[str, Callable[[grpc.Call], Awaitable[None]]]) -> Ends:
        """Make two ends in the loop."""

        async def make() -> Ends:
            return Ends(methods)

        return asyncio.run_coroutine_threadsafe(make(), self.loop).result(10)

    def session(
        self, methods: Mapping[str, Callable[[grpc.Call], Awaitable[None]]], shared_key: str = "key"
    ) -> Session:
        """Return a session of a client that serves `methods`."""

        async def make() -> Session:
            return Ends(methods).session(shared_key)

        return asyncio.run_coroutine_threadsafe(make(), self.loop).result(10)
