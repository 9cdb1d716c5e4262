"""Named contexts of files: opened when a step first reads one, each by one step at a time."""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Self

import msgspec

from pybuild.api.request import BuildRequest
from pybuild.context.archive import sniff
from pybuild.context.ignore import IgnoreMatcher, load_ignore
from pybuild.context.local import LocalContext
from pybuild.dockerfile.addresses import names_remote
from pybuild.engine import inputs
from pybuild.engine.remotes import Remotes
from pybuild.engine.sources import ContextSource
from pybuild.engine.workers import Workers
from pybuild.errors import NotFoundError, UsageError
from pybuild.plan.contexts import SENT, by_key
from pybuild.store.store import Store


class Opened(msgspec.Struct, frozen=True):
    """A context, and the lock of those who read it: its lazy listing is not made for several threads."""

    source: ContextSource
    context: LocalContext
    lock: Lock
    remembers: bool


class NamedContexts:
    """The named contexts of a build. Use it with `with`; the end of it removes what was unpacked."""

    def __init__(
        self, store: Store, workers: Workers, request: BuildRequest, remotes: Remotes, main: Path | None = None
    ) -> None:
        """`main` is the directory of the main context, which may bring others along."""
        self._main = main
        self._store = store
        self._workers = workers
        self._remotes = remotes
        self._given = by_key(request.build_contexts)
        self._lock = Lock()
        self._opened: dict[str, Opened] = {}
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def open(self, name: str) -> Opened:
        """Return the context of that name; it stays open until the end.

        Raises NotFoundError for a directory that is not there, ContextError, RemoteError, LayerError.
        """
        with self._lock:
            known = self._opened.get(name)
            if known is None:
                known = self._opened[name] = self._open(name, self._given[name])
            return known

    def remembering(self) -> list[LocalContext]:
        """Return the contexts whose file digests are worth keeping for the next build."""
        return [opened.context for opened in self._opened.values() if opened.remembers]

    def _open(self, name: str, value: str) -> Opened:
        if value.startswith(SENT):
            root, remembers = self._sent(name, value), False
        elif names_remote(value):
            root, remembers = self._fetched(value), False
        else:
            root, remembers = Path(value), True
            if not root.is_dir():
                raise NotFoundError(f"named context is not a directory: {name}: {value}")
        memory = self._store.context_memory(inputs.memory_key(root)) if remembers else None
        # What was fetched is wanted as it is, as with BuildKit; what was sent had its own taken out
        ignore = load_ignore(root, None) if remembers else IgnoreMatcher()
        context = self._undo.enter_context(LocalContext(root, ignore, memory))
        return Opened(ContextSource(context), context, Lock(), remembers)

    def _sent(self, name: str, value: str) -> Path:
        """Return the directory that came in the main context; nothing leads out of that."""
        path = value.removeprefix(SENT)
        if self._main is None or not path or any(part in ("", ".", "..") for part in path.split("/")):
            raise UsageError(f"the named context was not sent: {name}: {value}")
        root = (self._main / path).resolve()
        if not root.is_relative_to(self._main.resolve()) or not root.is_dir():
            raise NotFoundError(f"named context is not in what was sent: {name}: {value}")
        return root

    def _fetched(self, address: str) -> Path:
        """Return a directory with the files that an address means: those of an archive or a repository, or the one."""
        staging = self._store.snapshots.staging()
        self._undo.callback(shutil.rmtree, staging, ignore_errors=True)
        root = staging / "context"
        root.mkdir()
        # What COPY makes of a context's root; an archive that has one says it again
        root.chmod(0o755)
        fetched = inputs.fetch(address, self._store, self._remotes)
        try:
            if sniff(os.pread(fetched.fd, 1024, 0)) == "text":
                with open(fetched.fd, "rb", closefd=False) as source, open(root / fetched.name, "wb") as out:
                    shutil.copyfileobj(source, out)
            else:
                self._workers.unpack_context(fetched.fd, root)
        finally:
            os.close(fetched.fd)
        return root
