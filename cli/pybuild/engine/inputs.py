"""What a build reads: the Dockerfile's text and the context, from a directory or a stream."""

import hashlib
import os
import platform
import select
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event as Flag
from typing import BinaryIO, NamedTuple

import msgspec

from pybuild.api.events import SENT_CONTEXT, Reads
from pybuild.api.request import BuildRequest
from pybuild.context.archive import sniff
from pybuild.context.ignore import IgnoreMatcher, load_ignore
from pybuild.context.local import LocalContext
from pybuild.dockerfile.addresses import UNNAMED, names_remote, redacted
from pybuild.dockerfile.errors import InvalidValueError
from pybuild.engine.remotes import Remotes
from pybuild.engine.room import context_limits
from pybuild.engine.workers import POLL_SECONDS, Workers
from pybuild.errors import CancelledError, NotFoundError, PybuildError, UsageError
from pybuild.layer.errors import LayerError, LimitError
from pybuild.oci.digest import Digest
from pybuild.oci.platform import Platform, host_platform
from pybuild.plan.epoch import EPOCH, no_time
from pybuild.plan.ops import Remote, RemoteFile
from pybuild.store.store import Store
from pybuild.tree.entry import FILE, HARDLINK

MAX_DOCKERFILE = 4 << 20
"""Largest Dockerfile that is read, in bytes."""

DOCKERFILE = "Dockerfile"
COPY_BLOCK = 1 << 20
TOLD_BYTES = 8 << 20
"""Contexts up to this size come without a word."""
SLACK = 1 << 20
"""How many bytes more than its content a compressed archive may have."""
KEEP_GIT_DIR = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
"""Build argument that keeps `.git` of a context that is a repository, as BuildKit has it."""


class Given(msgspec.Struct, frozen=True):
    """An opened context and the text of the Dockerfile. `remembers`: file digests are kept for the next build."""

    dockerfile_text: str | bytes
    dockerfile_name: str
    context: LocalContext
    remembers: bool
    moment: Callable[[], int] = no_time
    """Tells when a context that was fetched was committed or changed, in seconds since the epoch; 0 is unknown."""


class Received(NamedTuple):
    """A context that comes bit by bit from a client: the Dockerfile and the ignore file are here already.

    `open` gives, until the end of the block, the directory that the client's files are received in, as the last build
    left it. `read` is called once the plan says what is read of it, before anything is.
    """

    dockerfile_text: bytes
    dockerfile_name: str
    ignore: bytes
    open: Callable[[Store], AbstractContextManager[Path]]
    read: Callable[[Reads], None]


def memory_key(root: Path) -> str:
    """Return what digests of a directory's files are remembered by."""
    return hashlib.sha256(os.fsencode(root)).hexdigest()[:32]


def host() -> Platform:
    """Return the platform of this machine."""
    return host_platform(platform.machine())


@contextmanager
def open_inputs(
    request: BuildRequest,
    stream: BinaryIO | None,
    store: Store,
    workers: Workers,
    remotes: Remotes,
    cancel: Flag,
    received: Received | None = None,
) -> Iterator[Given]:
    """Open what `request` names; a context that is streamed or fetched lives in the store's temporary place until
    the end.

    Raises NotFoundError for a Dockerfile that is absent, ContextError and LayerError for a context that
    cannot be read, RemoteError for one that cannot be fetched, CancelledError when `cancel` is set meanwhile.
    """
    if received is not None:
        with received.open(store) as root:
            memory = store.context_memory(memory_key(root))
            with LocalContext(root, IgnoreMatcher.parse(received.ignore), memory) as context:
                yield Given(received.dockerfile_text, received.dockerfile_name, context, remembers=True)
        return
    if names_remote(request.context):
        keep = request.build_args.get(KEEP_GIT_DIR) in ("1", "true")
        fetched = fetch(request.context, store, remotes, keep_git_dir=keep)
        try:
            with _unpacked(request, fetched.fd, "the context", store, workers) as given:
                yield msgspec.structs.replace(given, moment=lambda: fetched.time or newest(fetched.fd, store, workers))
        finally:
            os.close(fetched.fd)
        return
    if request.context:
        given = _from_directory(request, Path(request.context), store, remembers=True)
        with given.context:
            yield given
        return
    if stream is None:
        raise UsageError("the request names no context and brings none")
    with store.blobs.create() as spool:
        _spool(stream, spool.fd, cancel, remotes.telling(SENT_CONTEXT))
        with _unpacked(request, spool.fd, "the context on standard input", store, workers) as given:
            yield given


class Fetched(NamedTuple):
    """A descriptor of what an address means, which is the caller's to close, and a name for it if it is one file.

    `time` is when it was committed, or changed as the server says, in seconds since the epoch; 0 is unknown.
    """

    fd: int
    name: str
    time: int


def fetch(address: str, store: Store, remotes: Remotes, *, keep_git_dir: bool = False) -> Fetched:
    """Return the file at a URL, or an archive of a repository's files, that the user asked for.

    Raises UsageError for what is no address, RemoteError, StoreError, CancelledError.
    """
    from pybuild.dockerfile.remotes import Repository, Url, parse_remote
    from pybuild.plan.remotes import tree_of

    try:
        found = parse_remote(address, context=True)
    except InvalidValueError as error:
        raise UsageError(error.message, error.hint) from error
    if isinstance(found, Url):
        file = remotes.file(found.address, "", remotes.telling("context"), by_user=True)
        name = found.name if found.name != UNNAMED else file.name or UNNAMED
        return Fetched(store.blobs.open(file.digest), name, file.mtime)
    if isinstance(found, Repository):
        digest = remotes.layer(tree_of(found, keep_git_dir=keep_git_dir or None), by_user=True)
        return Fetched(store.blobs.open(digest), "", _committed(store, digest))
    raise UsageError(
        f"the context is neither a directory nor an address: {redacted(address)}",
        "addresses begin with https://, http://, git://, ssh:// or git@",
    )


def moment(source: str | Remote, store: Store, workers: Workers, remotes: Remotes) -> int:
    """Return when what a user's address or an ADD fetches was committed or changed, in seconds since the epoch.

    Of an archive that the server does not date it is the time of its newest file, 0 of what has none. Raises what
    `fetch` does.
    """
    if isinstance(source, str):
        fetched = fetch(source, store, remotes)
        fd, time = fetched.fd, fetched.time
    elif isinstance(source, RemoteFile):
        file = remotes.file(source.url, source.checksum, remotes.telling(EPOCH))
        fd, time = store.blobs.open(file.digest), file.mtime
    else:
        return _committed(store, remotes.layer(source))
    try:
        return time or newest(fd, store, workers)
    finally:
        os.close(fd)


def newest(fd: int, store: Store, workers: Workers) -> int:
    """Return when the newest file in an archive was changed, in seconds since the epoch; 0 for no archive."""
    if sniff(os.pread(fd, 1024, 0)) == "text":
        return 0
    with store.blobs.create() as unpacked:
        os.lseek(fd, 0, os.SEEK_SET)
        try:
            packed = workers.ingest(fd, unpacked.fd, layer=False)
        except LayerError:
            # A compressed file, or a broken archive: what it is told to be is not for its date to say
            return 0
    # Directories do not count, as with BuildKit: they change when an archive is made
    return max((entry.mtime for entry in packed.toc if entry.type in (FILE, HARDLINK)), default=0) // 1_000_000_000


def _committed(store: Store, layer: Digest) -> int:
    """Return the time of the commit, which all files of a repository have."""
    return max((entry.mtime for entry in store.layers.toc(layer)), default=0) // 1_000_000_000


@contextmanager
def _unpacked(request: BuildRequest, fd: int, called: str, store: Store, workers: Workers) -> Iterator[Given]:
    """Open an archive that has the context, or a bare Dockerfile; `called` is what messages call it."""
    if sniff(os.pread(fd, 1024, 0)) == "text":
        given = _bare_dockerfile(request, fd, called, store)
        with given.context:
            yield given
        return
    staging = store.snapshots.staging()
    try:
        root = staging / "context"
        root.mkdir()
        # What COPY makes of a context's root; an archive that has one says it again
        root.chmod(0o755)
        workers.unpack_context(fd, root)
        given = _from_directory(request, root, store, remembers=False)
        with given.context:
            yield given
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _spool(stream: BinaryIO, fd: int, cancel: Flag, tell: Callable[[int, int], None]) -> None:
    """Copy the stream to `fd` and rewind it; raise CancelledError, LimitError. What takes its time is told.

    Compressed or not, what is unpacked of it is about as much at least.
    """
    most, size = context_limits().size, 0
    for block in _blocks(stream, cancel):
        size += len(block)
        check_sent(size, most)
        view = memoryview(block)
        while view:
            view = view[os.write(fd, view) :]
        if size > TOLD_BYTES:
            tell(size, 0)
    if size > TOLD_BYTES:
        tell(size, size)
    os.lseek(fd, 0, os.SEEK_SET)


def check_sent(size: int, most: int) -> None:
    """Raise LimitError when so many bytes of an archive are more than a context of `most` may have, 0 for any."""
    if most and size > most + SLACK:
        raise LimitError(
            f"the context holds more than {most} bytes",
            "leave more out by .dockerignore, or set PYBUILD_MAX_CONTEXT_SIZE",
            limit="total",
        )


def _blocks(stream: BinaryIO, cancel: Flag) -> Iterator[bytes]:
    """Yield what comes until the end; raise CancelledError soon after `cancel` is set, though nothing comes."""
    try:
        fd = stream.fileno()
    except OSError:
        # No file, but what the daemon gives, which fails of itself when the build is cancelled
        fd = -1
    # A whole block is read past the buffer of the stream, so that none waits in there unseen by poll
    read = getattr(stream, "read1", stream.read)
    poll = select.poll()
    if fd >= 0:
        poll.register(fd, select.POLLIN)
    while True:
        ready = fd < 0 or bool(poll.poll(POLL_SECONDS * 1000))
        if cancel.is_set():
            raise CancelledError("the build was cancelled")
        if not ready:
            continue
        try:
            block = read(COPY_BLOCK)
        except ConnectionAbortedError as error:
            raise CancelledError("the build was cancelled") from error
        if not block:
            return
        yield block


def _bare_dockerfile(request: BuildRequest, fd: int, called: str, store: Store) -> Given:
    if request.dockerfile_text is not None:
        raise UsageError(f"{called} is not a tar")
    # Docker's clients name what they would take anyway
    if request.dockerfile not in ("", DOCKERFILE):
        raise UsageError(f"{called} is not a tar, so it cannot hold: {request.dockerfile}")
    with os.fdopen(os.dup(fd), "rb") as file:
        text = _limited(file, called)
    empty = store.snapshots.empty()
    return Given(text, "Dockerfile", LocalContext(empty, IgnoreMatcher([]), None), remembers=False)


def _from_directory(request: BuildRequest, root: Path, store: Store, *, remembers: bool) -> Given:
    if not root.is_dir():
        problem = "is not a directory" if root.exists() else "does not exist"
        raise NotFoundError(f"context {problem}: {root}")
    path: Path | None = None
    if request.dockerfile_text is not None:
        text: str | bytes = request.dockerfile_text
        name = request.dockerfile or DOCKERFILE
    else:
        path, name = _dockerfile_path(request, root, streamed=not remembers)
        # Where a context that was sent lies says nothing to who sent it
        text = _read_dockerfile(path, name, str(path) if remembers else name)
    memory = store.context_memory(memory_key(root)) if remembers else None
    ignore = load_ignore(root, path) if request.ignore_text is None else IgnoreMatcher.parse(request.ignore_text)
    return Given(text, name, LocalContext(root, ignore, memory), remembers)


def _dockerfile_path(request: BuildRequest, root: Path, *, streamed: bool) -> tuple[Path, str]:
    name = request.dockerfile or DOCKERFILE
    if not streamed:
        path = root / name
        return path, os.path.relpath(path, root) if path.is_relative_to(root) else str(path)
    # A stranger's context may have a link under that name
    resolved = (root / name.lstrip("/")).resolve()
    if not resolved.is_relative_to(root.resolve()):
        raise UsageError(f"Dockerfile is outside of the context: {name}")
    return resolved, name


def _read_dockerfile(path: Path, name: str, shown: str) -> bytes:
    try:
        # A fifo or device under that name must not make the build hang
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFoundError(
            f"cannot find the Dockerfile: {shown}", "name it with `-f FILE`, or give the directory that holds it"
        ) from None
    except OSError as error:
        raise PybuildError(f"cannot read the Dockerfile: {shown}: {error.strerror}") from error
    with os.fdopen(fd, "rb") as file:
        if not os.path.isfile(fd):
            raise PybuildError(f"the Dockerfile is not a regular file: {shown}")
        return _limited(file, name)


def _limited(file: BinaryIO, name: str) -> bytes:
    data = file.read(MAX_DOCKERFILE + 1)
    if len(data) > MAX_DOCKERFILE:
        raise UsageError(f"Dockerfile is over {MAX_DOCKERFILE} bytes: {name}")
    return data
