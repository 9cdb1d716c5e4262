"""The engine in this process: no daemon, nothing left running."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Event as Flag
from threading import Thread
from time import time
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

from pybuild.api.events import Built, Checked, Event, Failed, Failure, is_last
from pybuild.api.request import BuildRequest, ManifestRequest, PullRequest, PushRequest, ShellRequest

Filters = dict[str, list[str]]
Work = Callable[[Callable[[Event], None], Flag], Event]
"""Does something of the engine's and returns its last event: (emit, cancel)."""


class Build(Protocol):
    """`engine.build.build`."""

    def __call__(
        self,
        request: BuildRequest,
        *,
        store_root: Path,
        context_stream: BinaryIO | None,
        emit: Callable[[Event], None],
        cancel: Flag,
    ) -> Built | Checked: ...


class Inline:
    """A Backend that calls the engine. The parts of it are parameters for tests only."""

    def __init__(
        self,
        store_root: Path | None = None,
        *,
        build: Build | None = None,
        images: Any = None,
        shell: Any = None,
        pull: Any = None,
        push: Any = None,
        failure_of: Callable[[BaseException], Failure] | None = None,
    ) -> None:
        from pybuild.engine import paths

        self._root = store_root or paths.store_root()
        self._build = build
        self._shell = shell
        self._pull = pull
        self._push = push
        self._failure_of = failure_of
        self._made = images

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @property
    def _images(self) -> Any:
        if self._made is None:
            from pybuild.engine.images import Images

            self._made = Images(self._root)
        return self._made

    def build(self, request: BuildRequest, context: BinaryIO | None = None) -> Generator[Event, None, None]:
        """Run the build in a thread and yield its events; closing the iterator cancels it and waits for its end."""
        from pybuild.engine.light import import_msgspec

        def work(emit: Callable[[Event], None], cancel: Flag) -> Event:
            from pybuild.engine.build import build

            return (self._build or build)(
                request, store_root=self._root, context_stream=context, emit=emit, cancel=cancel
            )

        # Here, where there is no other thread yet
        import_msgspec()
        return self._events("build", work)

    def shell(self, request: ShellRequest) -> Generator[Event, None, None]:
        """Run the shell in a thread, as a build."""

        def work(emit: Callable[[Event], None], cancel: Flag) -> Event:
            if self._shell is None:
                from pybuild.engine.shell import run_shell
            else:
                run_shell = self._shell
            ended: Event = run_shell(request, store_root=self._root, emit=emit, cancel=cancel)
            return ended

        return self._events("shell", work)

    def attach(self, token: str) -> list[int]:
        from pybuild.engine.attach import take

        return [*take(token)]

    def decide(self, token: str, decision: str) -> None:
        from pybuild.engine.attach import decide

        decide(token, decision)

    def pull(self, request: PullRequest) -> Generator[Event, None, None]:
        """Pull in a thread, as a build."""

        def work(emit: Callable[[Event], None], cancel: Flag) -> Event:
            if self._pull is None:
                from pybuild.engine.pulling import pull
            else:
                pull = self._pull
            pulled: Event = pull(request, store_root=self._root, emit=emit, cancel=cancel)
            return pulled

        return self._events("pull", work)

    def push(self, request: PushRequest) -> Generator[Event, None, None]:
        """Push in a thread, as a build."""

        def work(emit: Callable[[Event], None], cancel: Flag) -> Event:
            if self._push is None:
                from pybuild.engine.pushing import push
            else:
                push = self._push
            pushed: Event = push(request, store_root=self._root, emit=emit, cancel=cancel)
            return pushed

        return self._events("push", work)

    def manifests(self, request: ManifestRequest) -> Generator[Event, None, None]:
        """Do it in a thread, as a build."""

        def work(emit: Callable[[Event], None], cancel: Flag) -> Event:
            from pybuild.engine.manifests import carry_out

            return carry_out(request, store_root=self._root, emit=emit, cancel=cancel)

        return self._events("manifests", work)

    def _events(self, name: str, work: Work) -> Generator[Event, None, None]:
        queue: SimpleQueue[Event] = SimpleQueue()
        cancel = Flag()
        worker = Thread(target=self._run, args=(work, queue, cancel), name=name, daemon=True)
        worker.start()
        try:
            while True:
                event = queue.get()
                yield event
                if is_last(event):
                    break
        finally:
            # Ctrl-C lands here: a second one breaks off this waiting
            cancel.set()
            worker.join()

    def _run(self, work: Work, queue: "SimpleQueue[Event]", cancel: Flag) -> None:
        try:
            queue.put(work(queue.put, cancel))
        except BaseException as error:
            # Whatever it is, the main thread must learn of it or wait for ever
            step = getattr(error, "step", -1)
            queue.put(Failed(self._failure(error), step if isinstance(step, int) else -1, time()))

    def _failure(self, error: BaseException) -> Failure:
        if self._failure_of is not None:
            return self._failure_of(error)
        from pybuild.engine.failure import failure_of

        return failure_of(error)

    def images(self, *, all: bool = False, filters: Filters | None = None) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self._images.list(all=all, filters=filters)
        return result

    def inspect(self, name: str, platform: str = "") -> dict[str, Any]:
        result: dict[str, Any] = self._images.inspect(name, platform)
        return result

    def history(self, name: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self._images.history(name)
        return result

    def inputs(self, name: str) -> dict[str, Any]:
        result: dict[str, Any] = self._images.inputs(name)
        return result

    def compare(self, name: str, other: str) -> dict[str, Any]:
        result: dict[str, Any] = self._images.compare(name, other)
        return result

    def layers(self, name: str) -> dict[str, Any]:
        result: dict[str, Any] = self._images.layers(name)
        return result

    def files(self, name: str, paths: Sequence[str], out: BinaryIO) -> None:
        self._images.files(name, list(paths), out)

    def tag(self, name: str, new_name: str) -> None:
        self._images.tag(name, new_name)

    def remove(self, name: str, *, force: bool = False) -> list[dict[str, str]]:
        result: list[dict[str, str]] = self._images.remove(name, force=force)
        return result

    def save(
        self,
        names: Sequence[str],
        out: BinaryIO,
        *,
        format: str = "docker",
        compression: str = "none",
        platform: str = "",
    ) -> None:
        self._images.save(list(names), out, format=format, compression=compression, platform=platform)

    def load(self, source: BinaryIO | Path) -> list[dict[str, str]]:
        result: list[dict[str, str]] = self._images.load(source)
        return result

    def import_(self, source: BinaryIO, name: str, *, changes: Sequence[str] = (), message: str = "") -> str:
        result: str = self._images.import_(source, name, changes=list(changes), message=message)
        return result

    def export(self, name: str, type: str, out: BinaryIO, attrs: dict[str, str]) -> None:
        self._images.export(name, type, out, attrs)

    def prune(self, *, all: bool = False, filters: Filters | None = None, dry_run: bool = False) -> dict[str, Any]:
        result: dict[str, Any] = self._images.prune(all=all, filters=filters or {}, dry_run=dry_run)
        return result

    def builds(self) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self._images.builds()
        return result

    def explain(self, build: str = "") -> dict[str, Any]:
        result: dict[str, Any] = self._images.explain(build)
        return result

    def df(self) -> dict[str, Any]:
        result: dict[str, Any] = self._images.df()
        return result
