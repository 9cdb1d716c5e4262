"""What a build fetches, kept in the store: files as blobs, found again by what their servers say of them.

A cache record of a URL names the blob. It is asked for at each build whether it still is the one, unless the
Dockerfile tells its digest, as BuildKit does.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event as Flag
from threading import Lock
from typing import TYPE_CHECKING

import msgspec

from pybuild.api import entitlements
from pybuild.api.events import Event, Transfer
from pybuild.api.request import BuildRequest
from pybuild.dockerfile.addresses import UNNAMED, redacted
from pybuild.engine.sources import LayerSource
from pybuild.errors import PybuildError
from pybuild.oci.digest import Digest, digest_of
from pybuild.plan.ops import RemoteFile, RemoteTree
from pybuild.plan.scope import PROXY_NAMES
from pybuild.remote.errors import RemoteError
from pybuild.remote.validators import Validators, modified
from pybuild.store.blobs import BlobWriter
from pybuild.store.cache import BLOB, CacheRecord
from pybuild.store.store import Store
from pybuild.tree.entry import FILE, Entry

if TYPE_CHECKING:
    from _hashlib import HASH

    from pybuild.engine.repositories import Repositories
    from pybuild.remote.http import Fetcher

DEFAULT_MAX_DOWNLOAD = 16 << 30
"""Most bytes of one file when nothing is said."""

TOLD_SECONDS = 0.1
"""How often a transfer is told of."""

FILE_MODE = 0o600
"""Of files that were fetched, as with docker."""

_ETAG, _MODIFIED, _NAME = "etag", "last_modified", "name"

Progress = Callable[[int, int], None]


class Fetched(msgspec.Struct, frozen=True):
    """A file that is in the store now, and what the server said of it.

    `mtime` is in seconds since the epoch, 0 for nothing; `name` is what to call it, "" for nothing.
    """

    digest: Digest
    size: int
    mtime: int
    name: str


class Remotes:
    """The remote sources of a build; each is asked for once. May be used from several threads."""

    def __init__(
        self, store: Store, request: BuildRequest, cancel: Flag, emit: Callable[[Event], None] = lambda event: None
    ) -> None:
        """`emit` gets what is told while nothing of a step is done."""
        self.emit = emit
        self._store = store
        self._request = request
        self._cancel = cancel
        self._guard = Lock()
        self._locks: dict[str, Lock] = {}
        self._files: dict[tuple[str, bool], Fetched] = {}
        self._repositories: Repositories | None = None

    def telling(self, label: str) -> Progress:
        """Return what tells of a transfer that belongs to no step."""
        last = 0.0

        def tell(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last > TOLD_SECONDS or done == total:
                last = now
                self.emit(Transfer(-1, label, done, total))

        return tell

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        with self._guard:
            lock = self._locks.setdefault(name, Lock())
        with lock:
            yield

    def source(self, remote: RemoteFile, progress: Progress) -> LayerSource:
        """Return the source that has the file alone, fetched if need be; raise RemoteError, CancelledError."""
        fetched = self.file(remote.url, remote.checksum, progress)
        # One that the address has wins; BuildKit knows no other
        name = remote.name if remote.name != UNNAMED else fetched.name or UNNAMED
        entry = Entry(
            path=name.encode(errors="surrogateescape"),
            type=FILE,
            mode=FILE_MODE,
            size=fetched.size,
            mtime=fetched.mtime * 1_000_000_000,
            digest=bytes.fromhex(fetched.digest[7:]),
            offset=0,
        )
        return LayerSource(lambda _: self._store.blobs.open(fetched.digest), lambda: [[entry]])

    def layer(self, remote: RemoteTree, *, by_user: bool = False) -> Digest:
        """Return the layer of a repository's files; see `Repositories.layer`."""
        from pybuild.engine.repositories import Repositories

        with self._guard:
            if self._repositories is None:
                self._repositories = Repositories(self._store, self._request, self, self._cancel)
        return self._repositories.layer(remote, by_user=by_user)

    def file(self, url: str, checksum: str, progress: Progress, *, by_user: bool = False) -> Fetched:
        """Return the file at `url`, whose content must have `checksum` if that is not "".

        What is asked for `by_user` rather than by a Dockerfile may be anywhere. Raises RemoteError, StoreError,
        CancelledError.
        """
        with self._alone(url):
            fetched = self._files.get((url, by_user))
            if fetched is None:
                fetched = self._files[url, by_user] = self._fetch(url, checksum, progress, by_user)
            elif checksum:
                self._check(url, fetched, checksum)
            return fetched

    def _fetch(self, url: str, checksum: str, progress: Progress, by_user: bool) -> Fetched:
        key = digest_of(f"url {url}".encode()).removeprefix("sha256:")
        record = self._store.cache.get(key)
        blob = Digest(str(record.value[BLOB])) if record is not None and BLOB in record.value else None
        if record is None or blob is None or not self._store.blobs.has(blob):
            known = None
        else:
            validators = Validators(str(record.value.get(_ETAG, "")), str(record.value.get(_MODIFIED, "")))
            known = Fetched(blob, record.size, modified(validators.last_modified), str(record.value.get(_NAME, "")))
            if checksum and self._matches(known, checksum):
                return known
        with self._store.blobs.create() as writer:
            sink = _Sink(writer, checksum)
            answer = self.fetcher(by_user=by_user).fetch(
                url,
                sink,
                secret=self._secret(url),
                known=validators if known is not None else None,
                progress=progress,
            )
            if answer.unchanged:
                assert known is not None
                if checksum:
                    self._check(url, known, checksum)
                return known
            if checksum and sink.checksum != checksum:
                raise _wrong(url, sink.checksum, checksum)
            writer.commit(sink.digest, sink.size)
        etag, last_modified = answer.validators
        value = {BLOB: sink.digest, _ETAG: etag, _MODIFIED: last_modified, _NAME: answer.name}
        fetched = Fetched(sink.digest, sink.size, modified(last_modified), answer.name)
        record = CacheRecord(None, sink.size, time.time(), f"download of {redacted(url)}", value)
        self._store.cache.put(key, record)
        return fetched

    def _matches(self, fetched: Fetched, checksum: str) -> bool:
        algorithm = checksum.partition(":")[0]
        return algorithm == "sha256" and checksum == fetched.digest

    def _check(self, url: str, fetched: Fetched, checksum: str) -> None:
        algorithm = checksum.partition(":")[0]
        found: str = fetched.digest
        if algorithm != "sha256":
            with os.fdopen(self._store.blobs.open(fetched.digest), "rb") as file:
                found = f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
        if found != checksum:
            raise _wrong(url, found, checksum)

    def fetcher(self, *, by_user: bool = False) -> "Fetcher":
        """Return how others are reached: not this machine, unless `by_user` or where that is allowed."""
        # Most builds fetch nothing, and this takes longer than a cached one
        from pybuild.remote.addresses import Reach
        from pybuild.remote.http import Fetcher

        request = self._request
        local = request.network == "host" or entitlements.HOST_NETWORK in request.allow
        given = {name: value for name, value in request.build_args.items() if name in PROXY_NAMES and value is not None}
        # Both cases of a name go together: one that was given must not lose to the other one of the environment
        kept = {name: value for name, value in request.proxies.items() if not {name.upper(), name.lower()} & set(given)}
        return Fetcher(
            proxies={**kept, **given},
            ca_bundle=request.ca_bundle,
            limit=Reach.LOCAL if local or by_user else Reach.PRIVATE,
            follow=Reach.LOCAL if local else None,
            max_size=request.max_download or DEFAULT_MAX_DOWNLOAD,
            cancel=self._cancel,
        )

    def _secret(self, url: str) -> str:
        """Return the Authorization header that secrets give for a host, "" for none; BuildKit's names."""
        from urllib.parse import urlsplit

        parts = urlsplit(url)
        host = parts.hostname or ""
        names = [f"{host}:{parts.port}"] * bool(parts.port) + [host]
        for name in names:
            for prefix, kind in (("HTTP_AUTH_HEADER_", ""), ("HTTP_AUTH_TOKEN_", "Bearer ")):
                secret = self._request.secrets.get(prefix + name)
                if secret is not None:
                    return kind + header_value(secret.value, prefix + name)
        return ""


def header_value(value: bytes, name: str) -> str:
    """Return a secret as part of a header; raise PybuildError for one that has several lines."""
    text = value.decode("latin-1").strip()
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise PybuildError(f"secret cannot be part of a header, as it has more than one line: {name}")
    return text


class _Sink:
    """A blob in the making, hashed on the way."""

    def __init__(self, blob: BlobWriter, checksum: str) -> None:
        self._blob = blob
        self._algorithm = checksum.partition(":")[0] or "sha256"
        self._begin()

    def _begin(self) -> None:
        self.size = 0
        self._hashes: dict[str, HASH] = {name: hashlib.new(name) for name in {"sha256", self._algorithm}}

    @property
    def digest(self) -> Digest:
        return Digest(f"sha256:{self._hashes['sha256'].hexdigest()}")

    @property
    def checksum(self) -> str:
        return f"{self._algorithm}:{self._hashes[self._algorithm].hexdigest()}"

    def write(self, data: bytes) -> None:
        self._blob.write(data)
        self.size += len(data)
        for state in self._hashes.values():
            state.update(data)

    def restart(self) -> None:
        os.ftruncate(self._blob.fd, 0)
        os.lseek(self._blob.fd, 0, os.SEEK_SET)
        self._begin()


def _wrong(url: str, found: str, wanted: str) -> RemoteError:
    return RemoteError(
        f"the file has another checksum than {wanted}: {redacted(url)}: {found}",
        "if the new content is right, change --checksum",
    )
