"""The worker of a build: started when first needed, shared by the build's threads."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from threading import Event as Flag
from threading import Lock

from pybuild.engine.jobs import RunResult
from pybuild.errors import CancelledError, PybuildError
from pybuild.layer.errors import LayerError
from pybuild.layer.tarwriter import Packed
from pybuild.sandbox import idmap
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.spec import SandboxSpec
from pybuild.sandbox.worker import JobFailedError, Worker
from pybuild.tree.entry import Entry


class Workers:
    """Use it with `with`: the end of it ends the worker and whatever still runs in it."""

    def __init__(self, cancel: Flag) -> None:
        self._cancel = cancel
        self._lock = Lock()
        self._worker: Worker | None = None
        self._ids = idmap.choose()
        self._cancel_read, self._cancel_write = os.pipe2(os.O_CLOEXEC)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        os.close(self._cancel_read)
        os.close(self._cancel_write)

    @property
    def mode(self) -> str:
        """Return the id mode: multi, root or single."""
        return self._ids.mode

    def notices(self) -> list[str]:
        """Return what the user should know of how RUN steps will work here."""
        if self.mode != "single":
            return []
        return [f"building with one user id: {idmap.why_single() or 'as PYBUILD_ID_MODE says'}"]

    def cancel(self) -> None:
        """End the jobs that run, and those to come, with CancelledError."""
        os.write(self._cancel_write, b"x")

    def _get(self) -> Worker:
        with self._lock:
            if self._worker is None:
                self._worker = Worker.start(self._ids)
            return self._worker

    def run(self, spec: SandboxSpec, stdout: int, stderr: int, tar: int) -> RunResult:
        """Run a sandbox and pack its changes into `tar`; raise SandboxError, LayerError or CancelledError."""
        result = self._call("run", [spec, self.mode], [stdout, stderr, tar], RunResult)
        assert isinstance(result, RunResult)
        if result.end.cancelled:
            raise CancelledError("the build was cancelled")
        if result.end.problem:
            raise SandboxError(result.end.problem, result.end.hint)
        return result

    def ingest(self, source: int, out: int, *, layer: bool) -> Packed:
        """Check and index an untrusted archive, its uncompressed bytes going to `out`; raise LayerError.

        Only in a layer names may mean deletions.
        """
        packed = self._call("ingest", [layer], [source, out], Packed)
        assert isinstance(packed, Packed)
        return packed

    def apply(self, layer: int, directory: Path, parents: Sequence[Entry]) -> None:
        """Unpack a layer into the new `directory`, after entries for the directories it leaves out."""
        self._call("apply", [os.fsencode(directory), list(parents), self.mode], [layer], None)

    def unpack_context(self, archive: int, directory: Path) -> None:
        """Unpack a context that was sent into `directory`, which belongs to this user; raise LayerError."""
        self._call("unpack_context", [os.fsencode(directory)], [archive], None)

    def remove(self, directory: Path) -> None:
        """Remove a directory whose files may belong to mapped ids, even when the build was cancelled."""
        self._call("remove", [os.fsencode(directory)], [], None, cancellable=False)

    def remove_if_possible(self, directory: Path) -> None:
        """Remove a directory, or leave it for the next time when no worker can be had."""
        try:
            self.remove(directory)
        except SandboxError:
            # Without namespaces there are no files of mapped ids either
            shutil.rmtree(directory, ignore_errors=True)

    def _call(
        self, job: str, params: object, fds: Sequence[int], result: object, *, cancellable: bool = True
    ) -> object:
        if cancellable and self._cancel.is_set():
            raise CancelledError("the build was cancelled")
        try:
            return self._get().call(
                job, params, fds, result=result, cancel_fd=self._cancel_read if cancellable else None
            )
        except JobFailedError as error:
            raise _typed(error) from error


def _typed(error: JobFailedError) -> PybuildError:
    if error.kind in ("SandboxError", "OSError"):
        return SandboxError(error.message, error.hint)
    if error.kind.endswith("Error") and error.kind not in ("MemoryError",):
        return LayerError(error.message, error.hint)
    return error
