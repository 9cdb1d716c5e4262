"""Caches in directories of the client's, by the content store that its session serves.

The service is `containerd.services.content.v1.Content`. A directory is a store, called `local:` and its path in the
metadata of each call. Blobs go there and come from there; the client itself reads and writes the index: it names the
manifest to read by its digest, and is told the one that was written.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import Event as Flag
from typing import TYPE_CHECKING, BinaryIO

from pybuild.api.request import Output
from pybuild.buildkit import messages
from pybuild.buildkit.grpc import Code, GrpcError
from pybuild.buildkit.sessions import Session
from pybuild.buildkit.talk import Talk
from pybuild.errors import PybuildError, UsageError
from pybuild.export.cachelayout import REF_NAME, Layer, manifest_of
from pybuild.export.errors import InvalidArchiveError
from pybuild.oci.digest import Digest, InvalidDigestError, digest_of, parse_digest
from pybuild.oci.image import MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST, Descriptor, Index, encode

if TYPE_CHECKING:
    from pybuild.buildkit.jobs import Job

INFO, READ, WRITE = (f"/containerd.services.content.v1.Content/{name}" for name in ("Info", "Read", "Write"))
STORE = "buildkit-attachable-store-id"
_WRITE, _COMMIT = 1, 2
_BLOCK = 1 << 19
_BLOBS = "blobs/sha256/"


class ContentError(PybuildError):
    """The client's store does not give or take a blob."""


class ContentStore:
    """One directory of the client's; for threads of a build."""

    def __init__(self, session: Session | None, path: str, cancel: Flag) -> None:
        """Raises UsageError for a client that serves none."""
        if session is None or not session.serves(READ):
            raise UsageError(f"the client has no session that serves its directory {path}")
        self._session = session
        self._path = path
        self._cancel = cancel
        self._metadata = [(STORE, f"local:{path}")]

    def has(self, digest: Digest) -> bool:
        """Is the blob there? Raises ContentError."""
        try:
            self._session.ask(INFO, messages.CONTENT_REQUEST.encode({"digest": digest}), self._metadata)
        except GrpcError as error:
            if error.code == Code.NOT_FOUND:
                return False
            raise self._error(error) from error
        return True

    def read(self, digest: Digest) -> Iterator[bytes]:
        """Yield the blob's bytes, which are not compared with its digest; raise ContentError, CancelledError."""
        try:
            with Talk(self._session, READ, self._metadata, self._cancel) as talk:
                talk.send(messages.READ_CONTENT.encode({"digest": digest}))
                talk.end()
                while (message := talk.receive()) is not None:
                    yield messages.CONTENT.decode(message)["data"]
        except GrpcError as error:
            raise self._error(error) from error

    def write(self, digest: Digest, size: int, file: BinaryIO, count: Callable[[int], None]) -> None:
        """Write a blob, `count` being told the bytes of each block; raise ContentError, CancelledError."""
        # The same name each time, so that what an interrupted write left there is written over
        start = {"ref": f"pybuild-{digest}", "total": size, "expected": digest}
        offset = 0
        try:
            with Talk(self._session, WRITE, self._metadata, self._cancel) as talk:
                while block := file.read(_BLOCK):
                    self._put(talk, {**start, "action": _WRITE, "offset": offset, "data": block})
                    offset += len(block)
                    count(len(block))
                self._put(talk, {**start, "action": _COMMIT, "offset": offset})
                talk.end()
        except GrpcError as error:
            if error.code != Code.ALREADY_EXISTS:
                raise self._error(error) from error

    def _put(self, talk: Talk, request: dict[str, object]) -> None:
        talk.send(messages.WRITE_CONTENT.encode(request))
        if talk.receive() is None:
            raise ContentError(f"the client's directory {self._path} takes no more")

    def _error(self, error: GrpcError) -> ContentError:
        return ContentError(f"the cache in the client's directory {self._path}: {error.message}")


class ClientCaches:
    """See engine.caching.Directories: those of the client of a job. `told` is what it is to know of what it got."""

    def __init__(self, session: Session | None, job: "Job") -> None:
        self._session = session
        self._job = job
        self.told: dict[str, str] = {}

    def layout(self, source: Output) -> "ClientLayout":
        """Return the cache whose manifest the client names; raise UsageError when it names none."""
        if not source.attrs.get("digest"):
            raise UsageError(f"a local cache needs the digest of its manifest: {source.dest}")
        try:
            manifest = parse_digest(source.attrs["digest"])
        except InvalidDigestError as error:
            raise UsageError(f"not the digest of a local cache: {error.message}") from error
        return ClientLayout(ContentStore(self._session, source.dest, self._job.cancel), manifest)

    def write(self, target: Output, config: bytes, layers: Sequence[Layer]) -> None:
        """Write a cache to the directory of the client's that `target` names; raise UsageError, ContentError."""
        shown = self._job.begin("exporting cache to client directory")
        try:
            self._write(ContentStore(self._session, target.dest, self._job.cancel), config, layers, shown)
        except BaseException as error:
            self._job.end(shown, str(error) or type(error).__name__)
            raise
        self._job.end(shown)

    def _write(self, store: ContentStore, config: bytes, layers: Sequence[Layer], shown: str) -> None:
        for descriptor, opened in layers:
            if not store.has(descriptor.digest):
                with os.fdopen(opened(), "rb") as file:
                    label = f"writing layer {descriptor.digest}"
                    self._put(store, descriptor.digest, descriptor.size, file, partial(self._job.count, shown, label))
        manifest = manifest_of(config, layers)
        for what, data in (("config", config), ("cache image manifest", manifest)):
            digest = digest_of(data)
            if not store.has(digest):
                label = f"writing {what} {digest}"
                self._put(store, digest, len(data), io.BytesIO(data), partial(self._job.count, shown, label))
        row = Descriptor(OCI_MANIFEST, digest_of(manifest), len(manifest))
        self.told["cache.manifest"] = encode(row).decode()

    def _put(self, store: ContentStore, digest: Digest, size: int, file: BinaryIO, told: Callable[..., None]) -> None:
        written = 0

        def count(more: int) -> None:
            nonlocal written
            written += more
            told(written)

        store.write(digest, size, file, count)
        told(size, done=True)


class ClientLayout:
    """A cache in a store of the client's as a layout that has only that; see engine.importing.Layout."""

    def __init__(self, store: ContentStore, manifest: Digest) -> None:
        self._store = store
        self._manifest = manifest

    def read(self, name: str) -> bytes | None:
        """Return a document, None for one that no layout of a cache has; raise InvalidArchiveError, ContentError."""
        if name == "index.json":
            row = Descriptor(OCI_MANIFEST, self._manifest, 0, annotations={REF_NAME: "latest"})
            return encode(Index(media_type=OCI_INDEX, manifests=[row]))
        digest = _named(name)
        data = bytearray()
        for block in self._store.read(digest):
            data += block
            if len(data) > MAX_DOCUMENT:
                raise InvalidArchiveError(f"a document of the cache is over {MAX_DOCUMENT} bytes: {digest}")
        if digest_of(bytes(data)) != digest:
            raise InvalidArchiveError(f"a blob of the cache is not what its name says: {digest}")
        return bytes(data)

    def copy(self, name: str, fd: int) -> Digest:
        """Write a blob to `fd`, rewind that and return the digest of what came; raise ContentError, CancelledError."""
        state = hashlib.sha256()
        for block in self._store.read(_named(name)):
            state.update(block)
            view = memoryview(block)
            while view:
                view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        return Digest("sha256:" + state.hexdigest())


def _named(name: str) -> Digest:
    try:
        return parse_digest("sha256:" + name.removeprefix(_BLOBS))
    except InvalidDigestError as error:
        raise InvalidArchiveError(f"not a blob of a cache: {name[:200]}") from error
