"""Blobs that come: hashed and counted on the way, and gone on with where a transfer broke off."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pybuild.oci.digest import Digest
from pybuild.oci.image import Descriptor
from pybuild.registry.client import Client
from pybuild.registry.errors import BrokenError, RegistryError, WrongContentError
from pybuild.registry.transport import Response
from pybuild.remote.connections import BLOCK

if TYPE_CHECKING:
    from _hashlib import HASH

_T = TypeVar("_T")


def pull_scope(repository: str) -> tuple[str, ...]:
    """Return the scope of reading a repository, as token servers want it."""
    return (f"repository:{repository}:pull",)


class Source(NamedTuple):
    """A repository at a registry."""

    client: Client
    repository: str


def fetch_blob(
    sources: Sequence[Source],
    descriptor: Descriptor,
    write: Callable[[bytes], object],
    progress: Callable[[int], object] = lambda done: None,
    begun: Iterable[bytes] = (),
) -> None:
    """Give all of a blob to `write`, block by block, and `progress` the bytes done.

    Of what is in `begun`, the beginning of the blob as somebody kept it, nothing is fetched or written again.

    Where one of the sources fails the next one goes on. Nothing that was written is to be believed before this returns.
    Raises WrongContentError, RegistryError, CancelledError.
    """
    _Fetching(descriptor, write, progress).run(sources, begun)


def first_of(
    sources: Sequence[Source], attempt: Callable[[Source], _T], final: type[RegistryError] | tuple[()] = ()
) -> _T:
    """Return what the first source gives that does not fail; else raise the last one's error, which tells of all.

    After an error of the kind `final` no other source is asked.
    """
    failed: list[str] = []
    for source in sources:
        try:
            return attempt(source)
        except RegistryError as error:
            if source is sources[-1] or isinstance(error, final):
                if failed:
                    error.message = f"{error.message}; before that: {'; '.join(failed)}"[:1000]
                raise
            failed.append(error.message)
    raise AssertionError


class _Fetching:
    """One blob, over however many requests."""

    def __init__(
        self, descriptor: Descriptor, write: Callable[[bytes], object], progress: Callable[[int], object]
    ) -> None:
        self._wanted = descriptor
        self._write = write
        self._progress = progress
        self._state: HASH = hashlib.sha256()
        self._done = 0
        self._what = ""

    def run(self, sources: Sequence[Source], begun: Iterable[bytes]) -> None:
        for data in begun:
            self._state.update(data)
            self._done += len(data)
            self._progress(self._done)
        # What was written cannot be taken back
        first_of(sources, self._fetch, WrongContentError)
        found = f"sha256:{self._state.hexdigest()}"
        if self._done != self._wanted.size or found != self._wanted.digest:
            raise WrongContentError(
                f"{self._what}: the content is not what its digest says: {self._done} bytes with {found}",
                "something on the way changes content; another try may help",
            )

    def _fetch(self, source: Source) -> None:
        self._what = f"GET {source.client.url(f'{source.repository}/blobs/{self._wanted.digest}')}"
        source.client.persist(lambda: self._once(source), lambda: self._done)

    def _once(self, source: Source) -> None:
        # Content of this name is always the same, so that any server that has it may go on
        headers = {"Range": f"bytes={self._done}-"} if self._done else {}
        if self._done and self._done == self._wanted.size:
            return
        path = f"{source.repository}/blobs/{self._wanted.digest}"
        response = source.client.send_once(
            "GET", path, pull_scope(source.repository), headers=headers, accept=(200, 206, 416)
        )
        with response:
            self._read(source.client, response, self._skipped(response))

    def _skipped(self, response: Response) -> int:
        """Return how many bytes of a body are here already."""
        if response.status == 200:
            return self._done
        if response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {self._done}-"):
            return 0
        raise RegistryError(f"{self._what}: the registry cannot go on with a transfer that broke off")

    def _read(self, client: Client, response: Response, skip: int) -> None:
        transport = client.transport
        while data := transport.read(response, self._what, BLOCK):
            if skip:
                left = data[skip:]
                skip -= len(data) - len(left)
                data = left
            if self._done + len(data) > self._wanted.size:
                raise WrongContentError(f"{self._what}: there is more than the {self._wanted.size} bytes promised")
            self._state.update(data)
            self._write(data)
            self._done += len(data)
            self._progress(self._done)
        if self._done < self._wanted.size:
            raise BrokenError(f"{self._what}: the connection ended after {self._done} of {self._wanted.size} bytes")


def has_blob(client: Client, repository: str, digest: Digest, scopes: tuple[str, ...]) -> bool:
    """Does a repository have a blob?"""
    path = f"{repository}/blobs/{digest}"
    with client.send("HEAD", path, scopes, accept=(200, 404)) as response:
        return response.status == 200
