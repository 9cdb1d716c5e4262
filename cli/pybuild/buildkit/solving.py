"""A solve of the Dockerfile frontend: the client's files come here, and our engine builds. Runs in a thread."""

import hashlib
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from pybuild.api.events import Built, Checked, Failed, Failure, Reads
from pybuild.api.request import BuildRequest
from pybuild.buildkit import messages, questions, receiving, sessions
from pybuild.buildkit.attributes import UPLOADED, Asked
from pybuild.buildkit.contents import ClientCaches
from pybuild.buildkit.failures import error_of
from pybuild.buildkit.forwarding import agents
from pybuild.buildkit.jobs import Job, Outcome
from pybuild.buildkit.receiving import Wanted
from pybuild.buildkit.sessions import Session
from pybuild.buildkit.talk import Talk
from pybuild.context.ignore import read_patterns
from pybuild.dockerfile.frontend import ARGUMENT as FRONTEND
from pybuild.dockerfile.parse import parse
from pybuild.engine import reach
from pybuild.engine.inputs import MAX_DOCKERFILE, Received, check_sent
from pybuild.engine.room import context_limits
from pybuild.errors import CancelledError, NotFoundError, PybuildError, UsageError
from pybuild.store.store import Store

_IGNORE = ".dockerignore"


class Solving:
    """One solve; `engine` is the daemon's."""

    def __init__(self, job: Job, session: Session | None, asked: Asked, engine: Any, store_root: Path) -> None:
        self._job = job
        self._session = session
        self._asked = asked
        self._engine = engine
        self._root = store_root
        self._text = b""
        self._named: dict[str, str] = dict(asked.request.build_contexts)

    def run(self, prepare: Callable[[BuildRequest], BuildRequest]) -> tuple[Outcome, Built | None]:
        """Build, or answer what is asked instead; `prepare` is given the request last.

        Raises GrpcError for what the client is to be told.
        """
        try:
            with ExitStack() as stack:
                return self._run(stack, prepare)
        except BaseException as error:
            failure: Failure = self._engine.failure_of(error)
            step = getattr(error, "step", -1)
            self._job.tell(Failed(failure, step if isinstance(step, int) else -1, 0.0))
            raise error_of(failure, self._text) from error

    def _run(self, stack: ExitStack, prepare: Callable[[BuildRequest], BuildRequest]) -> tuple[Outcome, Built | None]:
        asked, session = self._asked, self._session
        if asked.call == questions.DESCRIBE:
            return Outcome(metadata=questions.described()), None
        request = asked.request._replace(
            build_contexts=self._named,
            secrets=sessions.secrets(session),
            proxies=reach.proxies(),
            registries=reach.settings()._replace(given=sessions.credentials(session)),
        )
        received: Received | None = None
        stream: BinaryIO | None = None
        if asked.context.startswith(UPLOADED):
            stream = self._uploaded(stack)
            request = request._replace(dockerfile=asked.filename)
        elif asked.context:
            request = request._replace(context=asked.context, dockerfile=asked.filename)
            if asked.dockerfile_name:
                text, _ = self._load_definition()
                request = request._replace(dockerfile_text=text.decode("utf-8", "replace"))
        else:
            text, ignore = self._load_definition()
            if ignore is None:
                ignore = self._load_ignore()
            if asked.call in (questions.TARGETS, questions.OUTLINE):
                return Outcome(metadata=self._looked_at(text)), None
            received = Received(text, asked.filename, ignore, self._open, self._read(ignore))
        if asked.call:
            request = request._replace(call="check")
        request = request._replace(ssh=agents(session, self._text, self._job.cancel, stack))
        caches = ClientCaches(session, self._job)
        built: Built | Checked = self._engine.build(
            prepare(request),
            store_root=self._root,
            context_stream=stream,
            emit=self._job.tell,
            cancel=self._job.cancel,
            received=received,
            directories=caches,
        )
        if isinstance(built, Checked):
            return Outcome(metadata=questions.linted(built)), None
        several = bool(built.platforms)
        return Outcome(built.image_id, told=caches.told, epoch=built.source_date_epoch, several=several), built

    # -- the Dockerfile

    def _looked_at(self, text: bytes) -> dict[str, bytes]:
        request = self._asked.request
        parsed = parse(text, name=self._asked.filename, frontend=request.build_args.get(FRONTEND) or "")
        if self._asked.call == questions.TARGETS:
            return questions.targets(parsed)
        return questions.outline(parsed, request.target, request.build_args)

    def _load_definition(self) -> tuple[bytes, bytes | None]:
        """Return the Dockerfile, and the ignore file that lies beside it under its name."""
        name = posixpath.normpath(self._asked.filename)
        if name.startswith(("/", "../")) or name in (".", ".."):
            raise UsageError(f"Dockerfile is outside of its directory: {self._asked.filename}")
        follow = (name, name + _IGNORE, name.lower())
        with self._shown(f"[internal] load build definition from {name}") as digest:
            found = self._files(Wanted(self._asked.dockerfile_name, follow=follow), follow, digest)
        text = found.get(name, found.get(name.lower()))
        if text is None:
            raise NotFoundError(f"failed to read dockerfile: open {name}: no such file or directory")
        self._text = text
        self._job.show(name, text)
        return text, found.get(name + _IGNORE)

    def _load_ignore(self) -> bytes:
        with self._shown(f"[internal] load {_IGNORE}") as digest:
            return self._files(Wanted(self._asked.context_name, follow=(_IGNORE,)), (_IGNORE,), digest).get(
                _IGNORE, b""
            )

    def _files(self, wanted: Wanted, names: Sequence[str], digest: str) -> dict[str, bytes]:
        """Return small files of the client's that are there."""
        found: dict[str, bytes] = {}
        with tempfile.TemporaryDirectory(prefix="pybuild-") as place:
            root = Path(place)
            receiving.prepare(root)
            self._receive(wanted, root, digest)
            for name in names:
                try:
                    data = receiving.read(root, name, MAX_DOCKERFILE + 1)
                except FileNotFoundError:
                    continue
                if len(data) > MAX_DOCKERFILE:
                    raise UsageError(f"Dockerfile is over {MAX_DOCKERFILE} bytes: {name}")
                found[name] = data
        return found

    # -- contexts

    @contextmanager
    def _open(self, store: Store) -> Iterator[Path]:
        """Hold the directories that the client's are kept in from build to build."""
        with ExitStack() as stack:
            self._kept = stack.enter_context(self._directory(store, self._asked.context_name))
            for name, local in self._asked.named.items():
                root = stack.enter_context(self._directory(store, local))
                with self._shown(f"[context {name}] load from client") as digest:
                    patterns = self._files(Wanted(local, follow=(_IGNORE,)), (_IGNORE,), digest).get(_IGNORE, b"")
                    self._receive(Wanted(local, read_patterns(patterns)), root, digest)
                # The plan is made after this
                self._named[name] = str(root / "tree")
            yield self._kept / "tree"

    @contextmanager
    def _directory(self, store: Store, name: str) -> Iterator[Path]:
        key = f"{name}:{self._session.shared_key if self._session else ''}"
        with store.caches.use(
            f"s-{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}",
            "private",
            id=f"context {name} of a client",
            target="",
            make=receiving.prepare,
            discard=partial(shutil.rmtree, ignore_errors=True),
            wait=self._wait,
        ) as held:
            yield held.path

    def _read(self, ignore: bytes) -> Callable[[Reads], None]:
        def read(reads: Reads) -> None:
            follow = follow_paths(reads)
            if follow is None:
                return
            with self._shown("[internal] load build context") as digest:
                self._receive(Wanted(self._asked.context_name, read_patterns(ignore), follow), self._kept, digest)

        return read

    def _receive(self, wanted: Wanted, root: Path, digest: str) -> None:
        if self._session is None or not self._session.serves(receiving.DIFF_COPY):
            raise UsageError(f"the client has no session that gives its directory {wanted.name}")
        told = partial(self._job.count, digest, "transferring context:")
        counts = receiving.receive(self._session, wanted, root, self._job.cancel, told, context_limits())
        self._job.count(digest, "transferring context:", counts.size, done=True)

    def _uploaded(self, stack: ExitStack) -> BinaryIO:
        """Return what the client has on its standard input, as a file."""
        if self._session is None:
            raise UsageError("the client has no session that gives its context")
        file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        with self._shown("[internal] load remote build context") as digest:
            metadata = [("urlpath", "/" + self._asked.context.removeprefix(UPLOADED))]
            with Talk(self._session, "/moby.upload.v1.Upload/Pull", metadata, self._job.cancel) as talk:
                talk.end()
                size, most = 0, context_limits().size
                while (message := talk.receive()) is not None:
                    size += file.write(messages.BYTES.decode(message)["data"])
                    check_sent(size, most)
                    self._job.count(digest, "transferring context:", size)
        file.seek(0)
        return file

    @contextmanager
    def _shown(self, name: str) -> Iterator[str]:
        digest = self._job.begin(name)
        try:
            yield digest
        except PybuildError as error:
            self._job.end(digest, error.message)
            raise
        self._job.end(digest)

    def _wait(self) -> None:
        if self._job.cancel.is_set():
            raise CancelledError("the build was cancelled")


def follow_paths(reads: Reads) -> list[str] | None:
    """Return the paths of the context that a build reads, none for all of it; None when it reads nothing."""
    paths: dict[str, None] = {}
    found = [read for read in reads.reads if not read.context]
    if not found:
        return None
    for read in found:
        path = read.source.replace("/./", "/") if read.parents else read.source
        path = posixpath.normpath("/" + path).lstrip("/")
        if "**" in path:
            # Those who look for paths know no such pattern
            path = path.partition("**")[0].rpartition("/")[0]
        if not path:
            return []
        paths[path] = None
    return [*paths]
