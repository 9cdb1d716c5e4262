"""The worker of a build: started when first needed, shared by the build's threads."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event as Flag
from threading import Lock, Thread
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pybuild.engine.room import context_limits
from pybuild.errors import CancelledError, UsageError
from pybuild.layer.tarwriter import Packed
from pybuild.sandbox import footings, idmap
from pybuild.sandbox.advice import OTHER_STORE
from pybuild.sandbox.errors import IdMapError, NetworkError, SandboxError, UserNamespaceError
from pybuild.sandbox.idmap import Footing, IdMap
from pybuild.sandbox.spec import EMULATIONS, SNAPSHOTTERS, Emulation, Isolation, RunEnd, SandboxSpec, Snapshotter
from pybuild.sandbox.worker import Job, Worker
from pybuild.tree.entry import Entry

if TYPE_CHECKING:
    from pybuild.sandbox.network import Helper, PrivateNetwork

POLL_SECONDS = 0.1
"""How often a cancelled build is looked for while jobs run."""

MAX_REMOVALS = 16
"""How many removals may be on their way at once; each has a descriptor open."""

_LOSSES = {
    "off": "; other owners cannot be given to files, as --root-emulation=off says",
    "fake": "; other owners of files are lost, as --root-emulation=fake says",
}


class Workers:
    """Use it with `with`: the end of it ends the worker and whatever still runs in it.

    Setting the flag `cancel`, or `stop`, ends the jobs that run and those to come with CancelledError; only
    removals are carried out all the same.
    """

    def __init__(self, cancel: Flag, isolation: str = "") -> None:
        self._cancel = cancel
        self._footings = footings.wanted(isolation)
        self._footing: Footing = self._footings[0]
        self._lock = Lock()
        self._worker: Worker | None = None
        self._ids = idmap.choose()
        self._why_single = ""
        self._less_isolated = ""
        self._tell: Callable[[str], None] | None = None
        self._cancel_read, self._cancel_write = os.pipe2(os.O_CLOEXEC)
        self._stopped = False
        self._closed = Flag()
        self._watcher: Thread | None = None
        self._removals: deque[Job] = deque()
        self._store_lock = Lock()
        self._store_problem: str | None = None
        self._inform: Callable[[str], None] | None = None
        self.shares_content = False
        """Can files of the store share their content? Known once `snapshotter` was asked."""

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._watcher is not None:
            self._watcher.join()
        if self._worker is not None:
            while self._removals:
                self._finish_removal()
            self._worker.close()
            self._worker = None
        os.close(self._cancel_read)
        os.close(self._cancel_write)

    @property
    def mode(self) -> str:
        """Return the id mode: multi, root or single. Only once there is a worker (`prepare`) it is sure to stay."""
        return self._ids.mode

    @property
    def isolation(self) -> Isolation:
        """Return how RUN steps are kept apart. Starts the worker, as only that tells; raises SandboxError."""
        self.prepare()
        return "namespaces" if self._footing == "namespaces" else "chroot"

    def emulation(self, wanted: str) -> Emulation:
        """Return how RUN steps emulate root: not at all where ids need not be emulated, else as asked for.

        Raises UsageError for an unknown word.
        """
        if wanted == "auto":
            wanted = "full"
        for known in EMULATIONS:
            if wanted == known:
                return known if self.mode == "single" else "off"
        raise UsageError(f"unknown emulation of root: {wanted}", f"known: auto, {', '.join(EMULATIONS)}")

    def notices(self, emulation: str, tell: Callable[[str], None]) -> list[str]:
        """Return what the user should know of how RUN steps will work here; `tell` is given what turns out later.

        `emulation` is what was asked for.
        """
        with self._lock:
            self._tell = lambda text: tell(text + _LOSSES.get(emulation, ""))
            self._inform = tell
            # The worker may have been needed before anybody could be told
            told = [self._less_isolated] if self._less_isolated else []
            if self.mode != "single":
                return told
            why = self._why_single or idmap.why_single() or f"{idmap.OVERRIDE} says so"
        return [_one_id(why) + _LOSSES.get(emulation, ""), *told]

    def stop(self) -> None:
        """End the jobs that run, and those to come."""
        with self._lock:
            if not self._stopped:
                self._stopped = True
                # Never read: it stays readable for every job that waits
                os.write(self._cancel_write, b"x")

    def prepare(self) -> None:
        """Start the worker now, for it to be ready when it is needed; raise SandboxError."""
        with self._lock:
            if self._worker is None:
                self._worker = self._start()
                self._watcher = Thread(target=self._watch, name="cancel", daemon=True)
                self._watcher.start()

    def _start(self) -> Worker:
        """Start the worker on the best footing that is allowed; raise SandboxError."""
        refused: UserNamespaceError | None = None
        for footing in self._footings:
            try:
                worker = self._start_on(footing)
            except UserNamespaceError as error:
                refused = refused or error
                continue
            self._footing = footing
            if footing != "namespaces":
                self._less_isolated = footings.less_isolated(refused)
                if self._inform is not None:
                    self._inform(self._less_isolated)
            return worker
        assert refused is not None
        raise footings.explained(refused, self._footings)

    def _start_on(self, footing: Footing) -> Worker:
        """Start the worker, with one id when the helpers cannot do what they promise."""
        if footing == "bare":
            # Nothing is mapped: all ids are themselves, if there is more than one
            self._ids = IdMap("root" if idmap.may_map_all() else "single", (), ())
            return Worker.start(self._ids, footing)
        try:
            return Worker.start(self._ids, footing)
        except IdMapError as error:
            if self.mode == "single" or os.environ.get(idmap.OVERRIDE):
                raise
            ids = idmap.choose("single")
            worker = Worker.start(ids, footing)
            self._ids = ids
            self._why_single = idmap.explain(error)
        if self._tell is not None:
            self._tell(_one_id(self._why_single))
        return worker

    def _watch(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            if self._cancel.is_set():
                self.stop()
                return

    def open_network(self, helpers: "Sequence[Helper]") -> "PrivateNetwork":
        """Make a private network, which the caller closes; raise NetworkError or CancelledError."""
        from pybuild.sandbox.network import open_private

        self._check()
        if self.isolation == "chroot":
            raise NetworkError("a network of its own needs namespaces", "`--network=host` shares that of this machine")
        assert self._worker is not None
        return open_private(self._worker, helpers)

    @property
    def pid(self) -> int:
        """Return the worker's process id."""
        self.prepare()
        assert self._worker is not None
        return self._worker.pid

    def run(
        self,
        spec: SandboxSpec,
        stdout: int,
        stderr: int,
        tar: int,
        network: int | None = None,
        groups: Sequence[int] = (),
        seconds: float = 0,
        readers: Mapping[int, Callable[[], bool]] = MappingProxyType({}),
        held: Sequence[int] = (),
    ) -> tuple[RunEnd, Packed | None]:
        """Run a sandbox and pack its changes into `tar`.

        `network` is the namespace that one with a private network joins, `groups` are descriptors of control
        groups to enter, `seconds` is how long it may take when not 0; for `readers` see `Job.result`. Raises
        SandboxError, LayerError, CancelledError, TimeoutError.
        """
        from pybuild.engine.jobs import RunResult

        private = [] if network is None else [network]
        self._check()
        self.prepare()
        assert self._worker is not None
        fds = [stdout, stderr, tar, *private, *groups, *held]
        job = self._worker.submit("run", [spec, self.mode, len(held)], fds)
        try:
            result = job.result(RunResult, self._cancel_read, seconds, readers)
        except CancelledError:
            if job.timed_out:
                raise TimeoutError from None
            raise
        if result.end.cancelled:
            if job.timed_out:
                raise TimeoutError
            raise CancelledError("the build was cancelled")
        if result.end.problem:
            raise SandboxError(result.end.problem, result.end.hint)
        return result.end, result.packed

    def shell(
        self,
        spec: SandboxSpec,
        stdout: int,
        stderr: int,
        stdin: int | None = None,
        network: int | None = None,
        groups: Sequence[int] = (),
    ) -> RunEnd:
        """Run a sandbox whose changes stay in its staging directory; `stdin` is what the spec says is given.

        The other parameters are those of `run`. Raises SandboxError, CancelledError.
        """
        given = [fd for fd in (stdin, network) if fd is not None]
        end = self._call("shell", [spec, self.mode], [stdout, stderr, *given, *groups], RunEnd)
        assert isinstance(end, RunEnd)
        if end.cancelled:
            raise CancelledError("the build was cancelled")
        if end.problem:
            raise SandboxError(end.problem, end.hint)
        return end

    def pack(self, tree: Path, lowers: Sequence[bytes], tar: int) -> Packed:
        """Pack what `tree` changes of the layers below into `tar`; raise LayerError, CancelledError."""
        packed = self._call("pack", [os.fsencode(tree), list(lowers), self.mode], [tar], Packed)
        assert isinstance(packed, Packed)
        return packed

    def ingest(self, source: int, out: int, *, layer: bool) -> Packed:
        """Check and index an untrusted archive, its uncompressed bytes going to `out`; raise LayerError.

        Only in a layer names may mean deletions.
        """
        packed = self._call("ingest", [layer], [source, out], Packed)
        assert isinstance(packed, Packed)
        return packed

    def apply(self, layer: int, directory: Path, parents: Sequence[Entry]) -> None:
        """Unpack a layer into the new `directory`; `parents` say how directories look that it leaves out."""
        self._call("apply", [os.fsencode(directory), list(parents), self.mode], [layer], None)

    def flatten(self, layers: Sequence[int], directory: Path, parents: Sequence[Sequence[Entry]]) -> None:
        """Unpack layers over each other, bottom first, and over what is in `directory`, made if missing.

        `parents` say of each how directories look that it leaves out.
        """
        self._call("flatten", [os.fsencode(directory), self.mode, [list(rows) for rows in parents]], layers, None)

    def clone(self, tree: Path, directory: Path) -> None:
        """Copy a tree to the new `directory`, by reference where the file system can."""
        self._call("clone", [os.fsencode(tree), os.fsencode(directory)], [], None)

    def snapshotter(self, wanted: str, staging: Callable[[], Path]) -> Snapshotter:
        """Return what RUN steps stand on: as `wanted`, or for "auto" what works in the store, which is tried once.

        `staging` makes a directory there. What had to be done without is told. Raises SandboxError, UsageError for an
        unknown word.
        """
        if wanted not in ("auto", *SNAPSHOTTERS):
            raise UsageError(f"unknown snapshotter: {wanted}", f"known: auto, {', '.join(SNAPSHOTTERS)}")
        by_chroot = self.isolation == "chroot"
        if wanted == "overlay":
            if by_chroot:
                raise SandboxError("the snapshotter `overlay` needs mounts, which are refused here", "use `copy`")
            return "overlay"
        with self._store_lock:
            if self._store_problem is None:
                stacking = wanted == "auto" and not by_chroot
                self._store_problem, self.shares_content = self._try_store(staging(), stacking)
                if stacking and self._store_problem and self._inform is not None:
                    self._inform(f"RUN works on copies of the layers: {self._store_problem}")
        return "copy" if self._store_problem else "overlay"

    def _try_store(self, place: Path, stacking: bool) -> tuple[str, bool]:
        """Tell why overlayfs cannot be used, "" if it can, and else whether files can share their content."""
        try:
            problem, shares = self._call("try_store", [os.fsencode(place), stacking], [], tuple[str, bool])
            if problem and os.statvfs(place).f_flag & os.ST_NOEXEC:
                raise SandboxError(f"the store lies on a file system mounted `noexec`, and {problem}", OTHER_STORE)
            return problem, shares
        finally:
            # What it leaves if it is killed is swept later
            with suppress(OSError):
                place.rmdir()

    def unpack_context(self, archive: int, directory: Path) -> None:
        """Unpack a context that was sent into `directory`, which belongs to this user; raise LayerError.

        It is held to the limits that the user has set, with LimitError.
        """
        limits = context_limits()
        self._call("unpack_context", [os.fsencode(directory), limits.size, limits.files], [archive], None)

    def make_cache(self, directory: Path, mode: int, uid: int, gid: int, content: int | None = None) -> None:
        """Make the new `directory` of a cache with that mode and owner; `content` is an uncompressed archive."""
        fds = [] if content is None else [content]
        self._call("make_cache", [os.fsencode(directory), mode, uid, gid, self.mode], fds, None)

    def remove(self, directory: Path) -> None:
        """Remove a directory whose files may belong to mapped ids, even when the build was cancelled."""
        self.prepare()
        assert self._worker is not None
        self._worker.call("remove", [os.fsencode(directory)])

    def remove_later(self, directory: Path) -> None:
        """Remove a directory while the build goes on; its end waits for that."""
        if len(self._removals) >= MAX_REMOVALS:
            self._finish_removal()
        self.prepare()
        assert self._worker is not None
        self._removals.append(self._worker.submit("remove", [os.fsencode(directory)]))

    def remove_soon(self, directory: Path) -> None:
        """Do as `remove_later`, and leave it to the next one that opens the store when the worker is gone."""
        with suppress(SandboxError):
            self.remove_later(directory)

    def _finish_removal(self) -> None:
        # What it leaves is swept by the next one that opens the store
        with suppress(SandboxError):
            self._removals.popleft().result(None)

    def remove_if_possible(self, directory: Path) -> None:
        """Remove a directory, or leave the rest for the next time when no worker can be had."""
        try:
            self.remove(directory)
        except SandboxError:
            # Without namespaces there are no files of mapped ids either
            shutil.rmtree(directory, ignore_errors=True)

    def check(self) -> None:
        """Raise CancelledError when no more jobs are taken on."""
        self._check()

    def _check(self) -> None:
        if self._cancel.is_set() or self._stopped:
            raise CancelledError("the build was cancelled")

    def _call(self, job: str, params: object, fds: Sequence[int], result: Any) -> Any:
        self._check()
        self.prepare()
        assert self._worker is not None
        return self._worker.call(job, params, fds, result=result, cancel_fd=self._cancel_read)


def _one_id(why: str) -> str:
    return f"building with one user id: {why}"
