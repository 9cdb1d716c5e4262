"""Blobs that go: asked for first, mounted from another repository, else sent and gone on with where that broke off.

OCI distribution specification 1.1, "Pushing blobs". The body goes in one PATCH, which every registry takes, and what
the registry has of it is asked for after an interruption.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol
from urllib.parse import quote, urlencode, urlsplit

from pybuild.oci.digest import Digest
from pybuild.registry.blobs import Source, has_blob, pull_scope
from pybuild.registry.client import Client
from pybuild.registry.errors import BrokenError, MissingError, RegistryError

SMALL = 256 << 10
"""Up to so many bytes a known blob is sent with one request less."""

MAX_RESTARTS = 2
"""How often an upload is begun anew because the registry has lost it, or has other content than was sent."""

_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")


def push_scope(repository: str) -> tuple[str, ...]:
    """Return the scope of writing to a repository, as token servers want it."""
    return (f"repository:{repository}:pull,push",)


class Content(Protocol):
    """Bytes to be sent, which may still come into being; from any offset, for they may have to be sent again."""

    def read(self, offset: int) -> bytes:
        """Return some bytes from there on, b"" at the end."""
        ...

    def length(self) -> int | None:
        """Return how many bytes there are in all, None while nobody knows."""
        ...

    def digest(self) -> Digest:
        """Return the digest; only asked for once `read` came to the end."""
        ...


def mount(target: Source, digest: Digest, repositories: Sequence[str]) -> bool:
    """Have the registry take a blob from another of its repositories; False when it has none of them, or will not."""
    for repository in repositories:
        query = urlencode({"mount": digest, "from": repository}, safe=":/")
        scopes = (*push_scope(target.repository), *pull_scope(repository))
        path = f"{target.repository}/blobs/uploads/?{query}"
        try:
            with target.client.send(
                "POST", path, scopes, headers={"Content-Length": "0"}, accept=(201, 202)
            ) as response:
                if response.status == 201:
                    return True
                _give_up(target, target.client.led(path, response))
        except RegistryError:
            # Whoever may not read there must send it
            continue
    return False


def check_push(target: Source) -> None:
    """Begin an upload and give it up, to learn early whether there may be one; raise AuthError, RegistryError."""
    client, path = target.client, f"{target.repository}/blobs/uploads/"
    with client.send(
        "POST", path, push_scope(target.repository), headers={"Content-Length": "0"}, accept=(202,)
    ) as answer:
        location = client.led(path, answer)
    _give_up(target, location)


def _give_up(target: Source, location: str) -> None:
    try:
        with target.client.send("DELETE", location, push_scope(target.repository), accept=(200, 202, 204, 404)):
            pass
    except RegistryError:
        # It is the registry's to forget uploads that nobody ends; not all let others do so
        return


def push_blob(target: Source, content: Content, progress: Callable[[int], object] = lambda done: None) -> None:
    """Send a blob that the repository lacks; `progress` is told bytes sent.

    Raises RegistryError, CancelledError, and what reading the content raises.
    """
    _Upload(target, content, progress).run()


class InMemory:
    """Content that is bytes."""

    def __init__(self, data: bytes, digest: Digest) -> None:
        self._data, self._digest = data, digest

    def read(self, offset: int) -> bytes:
        return self._data[offset:]

    def length(self) -> int | None:
        return len(self._data)

    def digest(self) -> Digest:
        return self._digest


def put_manifest(target: Source, name: str, media_type: str, data: bytes, digest: Digest) -> str:
    """Give a manifest to a repository under a tag or its digest; raise RegistryError.

    Returns the digest of the subject that the registry has taken note of, "" for none.
    """
    path = f"{target.repository}/manifests/{name}"
    headers = {"Content-Type": media_type}
    scopes = push_scope(target.repository)
    with target.client.send("PUT", path, scopes, headers=headers, body=data, accept=(201,)) as response:
        told = response.headers.get("Docker-Content-Digest", "")
        subject = response.headers.get("OCI-Subject", "")
    if told.startswith("sha256:") and told != digest:
        raise RegistryError(f"PUT {target.client.url(path)}: the registry has other content than was sent: {told}")
    return subject


class _Upload:
    """One blob, over however many requests."""

    def __init__(self, target: Source, content: Content, progress: Callable[[int], object]) -> None:
        self._client: Client = target.client
        self._target = target
        self._content = content
        self._progress = progress
        self._scopes = push_scope(target.repository)
        self._location = ""
        self._accepted = 0
        self._is_unsure = False
        self._restarts = 0

    def run(self) -> None:
        self._client.persist(self._once, lambda: self._accepted)

    def _once(self) -> None:
        if self._is_unsure:
            self._ask()
        if not self._location:
            self._begin()
        length = self._content.length()
        if length is not None and length <= SMALL and not self._accepted:
            self._finish(self._content.read(0) if length else b"")
            return
        self._is_unsure = True
        if length is None or self._accepted < length:
            self._send(length)
        self._finish(b"")

    def _begin(self) -> None:
        path = f"{self._target.repository}/blobs/uploads/"
        with self._client.send_once(
            "POST", path, self._scopes, headers={"Content-Length": "0"}, accept=(202,)
        ) as answer:
            self._location = self._client.led(path, answer)
        self._accepted = 0

    def _ask(self) -> None:
        """Learn how much of the blob the registry has, or whether it has forgotten all of it."""
        with self._client.send_once("GET", self._location, self._scopes, accept=(200, 204, 404)) as response:
            if response.status == 404:
                self._restart("the registry has lost the upload")
                return
            self._location = self._client.led(self._location, response)
            found = _RANGE.fullmatch(response.headers.get("Range", ""))
        # Of an empty upload some say `0-0` too: a byte more or less is sent again
        accepted = int(found[1]) + 1 if found is not None and found[1] != "0" else 0
        if accepted < self._accepted or not accepted:
            self._restart("the registry has lost a part of the upload")
        self._accepted = accepted
        self._is_unsure = False

    def _restart(self, why: str) -> None:
        if self._restarts >= MAX_RESTARTS:
            raise RegistryError(f"{self._named('PATCH')}: {why}, {self._restarts + 1} times", "try again later")
        self._restarts += 1
        self._location, self._accepted, self._is_unsure = "", 0, False

    def _send(self, length: int | None) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        offset = self._accepted
        if length is not None:
            headers["Content-Length"] = str(length - offset)
        if offset:
            headers["Content-Range"] = f"{offset}-{length - 1}" if length is not None else f"{offset}-"
        sent = [offset]

        def body() -> Iterator[bytes]:
            at = offset
            while data := self._content.read(at):
                self._client.transport.check()
                yield data
                at += len(data)
                sent[0] = at
                self._progress(at)

        response = self._client.send_once(
            "PATCH", self._location, self._scopes, headers=headers, body=body, accept=(201, 202, 204)
        )
        with response:
            self._location = self._client.led(self._location, response)
        self._accepted = sent[0]

    def _finish(self, data: bytes) -> None:
        digest = self._content.digest()
        location = f"{self._location}{'&' if urlsplit(self._location).query else '?'}digest={quote(digest, safe=':')}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(data))}
        try:
            with self._client.send_once("PUT", location, self._scopes, headers=headers, body=data, accept=(201, 204)):
                pass
        except BrokenError:
            if has_blob(self._target.client, self._target.repository, digest, self._scopes):
                # Only the answer was lost
                return
            raise
        except MissingError:
            self._restart("the registry has lost the upload")
            raise BrokenError(f"{self._named('PUT')}: the registry has lost the upload") from None
        except RegistryError as error:
            if error.status != 400:
                raise
            self._restart(f"the registry does not take the content ({error.message})")
            raise BrokenError(error.message, error.hint, status=error.status) from error
        if data:
            self._progress(len(data))

    def _named(self, method: str) -> str:
        return f"{method} {self._client.url(f'{self._target.repository}/blobs/uploads/')}"
