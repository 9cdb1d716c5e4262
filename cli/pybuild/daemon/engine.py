"""The engine as the daemon sees it: three callables, loaded once and late."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import Any, BinaryIO, Protocol

from pybuild.api.events import Built, Event, Failure
from pybuild.api.request import BuildRequest


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
    ) -> Built: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """What a daemon serves. `images` has the methods of `engine.images.Images`."""

    build: Build
    images: Any
    failure_of: Callable[[BaseException], Failure]


def load(store_root: Path) -> Engine:
    """Import the real engine. Takes a while, so it happens in a thread after the socket is open."""
    from pybuild.engine.build import build
    from pybuild.engine.failure import failure_of
    from pybuild.engine.images import Images

    return Engine(build, Images(store_root), failure_of)
