"""Sessions: clients that serve us their files, secrets, agents and credentials while they build.

A session is a connection on which we are the client, whichever way it came about. It says what it serves by metadata
(`x-docker-expose-session-*`).
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from pybuild.api.request import Secret
from pybuild.buildkit import messages
from pybuild.buildkit.grpc import Code, GrpcError, Headers, Metadata, unary
from pybuild.buildkit.http2 import Connection
from pybuild.errors import PybuildError

SECONDS = 10.0
"""How long a build waits for its session, which comes on a connection of its own."""

MAX_SESSIONS = 64
_PREFIX = "x-docker-expose-session-"
_SECRETS, _CREDENTIALS = "/moby.buildkit.secrets.v1.Secrets/GetSecret", "/moby.filesync.v1.Auth/Credentials"
_HUB, _HUB_HERE = "registry-1.docker.io", "docker.io"

T = TypeVar("T")


class Session:
    """A client that serves us. `shared_key` tells one directory of a user's from another."""

    def __init__(self, metadata: Metadata, connection: Connection) -> None:
        self.uuid = _one(metadata, "uuid")
        self.shared_key = _one(metadata, "sharedkey")
        self.connection = connection
        self._methods = {method.lower() for method in metadata.get(_PREFIX + "grpc-method", ())}
        self.loop = asyncio.get_running_loop()

    def serves(self, method: str) -> bool:
        """Does the client answer this method?"""
        return method.lower() in self._methods

    def ask(self, path: str, message: bytes, metadata: Headers | None = None) -> bytes:
        """Make a call from a thread of a build; raise GrpcError."""
        future = asyncio.run_coroutine_threadsafe(unary(self.connection, path, message, metadata), self.loop)
        return future.result()


class Sessions:
    """The sessions there are, by their ids."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._came = asyncio.Condition()

    async def serve(self, session: Session) -> None:
        """Have a session until its connection ends; raise GrpcError for one that cannot be."""
        if not session.uuid:
            raise GrpcError(Code.INVALID_ARGUMENT, "a session needs an id")
        if session.uuid in self._sessions:
            raise GrpcError(Code.ALREADY_EXISTS, f"session exists already: {session.uuid}")
        if len(self._sessions) >= MAX_SESSIONS:
            raise GrpcError(Code.RESOURCE_EXHAUSTED, f"there are {MAX_SESSIONS} sessions already")
        self._sessions[session.uuid] = session
        try:
            async with self._came:
                self._came.notify_all()
            await session.connection.closed.wait()
        finally:
            del self._sessions[session.uuid]

    async def get(self, uuid: str) -> Session | None:
        """Return a session, waited for if need be; None for the id "". Raises GrpcError."""
        if not uuid:
            return None
        try:
            async with asyncio.timeout(SECONDS), self._came:
                await self._came.wait_for(lambda: uuid in self._sessions)
                return self._sessions[uuid]
        except TimeoutError:
            raise GrpcError(Code.NOT_FOUND, f"no such session: {uuid}") from None


def _one(metadata: Metadata, name: str) -> str:
    return next(iter(metadata.get(_PREFIX + name, ())), "")


class _Asked(Mapping[str, T]):
    """What a session has by name, asked for when it is wanted; iterating gives what was asked for and found."""

    def __init__(self, ask: Callable[[str], T | None]) -> None:
        self._ask = ask
        self._known: dict[str, T | None] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._known:
            self._known[name] = self._ask(name)
        value = self._known[name]
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, value in [*self._known.items()] if value is not None])

    def __len__(self) -> int:
        return sum(1 for _ in self)


def secrets(session: Session | None) -> Mapping[str, Secret]:
    """Return the secrets of a session by id, each asked for when a step wants it."""
    if session is None or not session.serves(_SECRETS):
        return {}

    def ask(name: str) -> Secret | None:
        try:
            answer = session.ask(_SECRETS, messages.SECRET_REQUEST.encode({"ID": name}))
        except GrpcError as error:
            if error.code in (Code.NOT_FOUND, Code.UNIMPLEMENTED):
                return None
            raise PybuildError(f"the client does not give the secret {name}: {error.message}") from error
        return Secret(messages.SECRET.decode(answer)["data"])

    return _Asked(ask)


def credentials(session: Session | None) -> Mapping[str, Secret]:
    """Return the credentials of a session by host, as docker's clients send them, each asked for when it is wanted."""
    if session is None or not session.serves(_CREDENTIALS):
        return {}

    def ask(host: str) -> Secret | None:
        asked = _HUB if host == _HUB_HERE else host
        try:
            answer = session.ask(_CREDENTIALS, messages.CREDENTIALS_REQUEST.encode({"Host": asked}))
        except GrpcError as error:
            if error.code in (Code.NOT_FOUND, Code.UNIMPLEMENTED):
                return None
            raise PybuildError(f"the client does not give the credentials of {host}: {error.message}") from error
        found: dict[str, Any] = messages.CREDENTIALS.decode(answer)
        if not found["Secret"]:
            return None
        # A secret without a name is an identity token
        pair = {"username": found["Username"], "password": found["Secret"]}
        return Secret(json.dumps(pair if found["Username"] else {"identitytoken": found["Secret"]}).encode())

    return _Asked(ask)
