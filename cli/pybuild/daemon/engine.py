"""The engine as the daemon sees it: a few callables, loaded once and late."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import Any, BinaryIO, Protocol

from pybuild.api.events import Built, Checked, Event, Failure, Pulled, Pushed, ShellEnded
from pybuild.api.request import BuildRequest, PullRequest, PushRequest, ShellRequest


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
        received: Any = None,
        directories: Any = None,
    ) -> Built | Checked: ...


class Shell(Protocol):
    """`engine.shell.run_shell`."""

    def __call__(
        self, request: ShellRequest, *, store_root: Path, emit: Callable[[Event], None], cancel: Flag
    ) -> ShellEnded: ...


class Pull(Protocol):
    """`engine.pulling.pull`."""

    def __call__(
        self, request: PullRequest, *, store_root: Path, emit: Callable[[Event], None], cancel: Flag
    ) -> Pulled: ...


class Push(Protocol):
    """`engine.pushing.push`."""

    def __call__(
        self, request: PushRequest, *, store_root: Path, emit: Callable[[Event], None], cancel: Flag
    ) -> Pushed: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """What a daemon serves. `images` has the methods of `engine.images.Images`, `take` and `decide` are those of
    `engine.attach`.
    """

    build: Build
    images: Any
    failure_of: Callable[[BaseException], Failure]
    shell: Shell
    take: Callable[[str], Sequence[int]]
    decide: Callable[[str, str], None]
    pull: Pull
    push: Push


def load(store_root: Path) -> Engine:
    """Import the real engine. Takes a while, so it happens in a thread after the socket is open."""
    from pybuild.engine.attach import decide, take
    from pybuild.engine.build import build
    from pybuild.engine.failure import failure_of
    from pybuild.engine.images import Images
    from pybuild.engine.pulling import pull
    from pybuild.engine.pushing import push
    from pybuild.engine.shell import run_shell

    return Engine(build, Images(store_root), failure_of, run_shell, take, decide, pull, push)
