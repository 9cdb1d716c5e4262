"""An engine that keeps images in memory and does what the Dockerfile's first word says; for daemon and commands.

`DOCKERFILE_TEXT` of a request decides: "slow" waits until cancelled, "fail" fails a RUN, "bug" raises,
"early" fails before anything is told,
"noisy" prints a lot, "gate" waits for a file named by the target; anything else succeeds.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pybuild.api.events import (
    Built,
    Event,
    Failure,
    Moved,
    Notice,
    Planned,
    PlannedStep,
    Pulled,
    Pushed,
    ShellEnded,
    ShellOpened,
    StepDone,
    StepLog,
    StepStarted,
    Transfer,
)
from pybuild.api.request import BuildRequest, PullRequest, PushRequest, ShellRequest
from pybuild.engine.attach import Streams, Visit, decide, take
from pybuild.errors import CancelledError, ConflictError, NotFoundError, PybuildError, UsageError

ID = "sha256:" + "ab" * 32


class RunFailedError(PybuildError):
    """As the real one: a room's own error, unknown to the client."""

    status = 7
    step = 1


def failure_of(error: BaseException) -> Failure:
    """As the real one, in short."""
    if isinstance(error, PybuildError):
        status = getattr(error, "status", -1)
        return Failure(
            type(error).__name__,
            error.message,
            error.hint,
            exit_code=int(error.exit_code),
            file="Dockerfile" if status > 0 else "",
            line=2 if status > 0 else 0,
            source="RUN false" if status > 0 else "",
            log=("first", "last") if status > 0 else (),
            status=status,
        )
    return Failure(type(error).__name__, str(error), exit_code=3, traceback="Traceback ...")


def build(
    request: BuildRequest,
    *,
    store_root: Path,
    context_stream: BinaryIO | None,
    emit: Callable[[Event], None],
    cancel: threading.Event,
) -> Built:
    """Pretend to build."""
    text = request.dockerfile_text or ""
    if request.context:
        dockerfile = Path(request.dockerfile) if request.dockerfile else Path(request.context) / "Dockerfile"
        text = text or (dockerfile.read_text() if dockerfile.is_file() else "")
    if "early" in (text, request.target):
        raise UsageError("it cannot begin")
    emit(Planned((PlannedStep("[1/2] FROM scratch", "", 1), PlannedStep("[2/2] RUN work", "", 2)), time.time()))
    emit(StepStarted(0, time.time()))
    emit(StepDone(0, time.time(), cached=True))
    emit(StepStarted(1, time.time()))
    if context_stream is not None:
        size = 0
        while data := context_stream.read(1 << 20):
            size += len(data)
        emit(StepLog(1, "stdout", f"context of {size} bytes\n"))
    (store_root / "seen").mkdir(parents=True, exist_ok=True)
    if text.startswith("slow"):
        emit(StepLog(1, "stdout", "waiting\n"))
        cancel.wait()
        (store_root / "seen" / "cancelled").touch()
        raise CancelledError("the build was cancelled")
    if text.startswith("gate"):
        emit(StepLog(1, "stdout", "waiting\n"))
        while not Path(request.target).exists():
            if cancel.wait(0.01):
                raise CancelledError("the build was cancelled")
    if text.startswith("fail"):
        emit(StepLog(1, "stderr", "it breaks\n"))
        raise RunFailedError("the command did not end well", "look at it")
    if text.startswith("bug"):
        raise ZeroDivisionError("a mistake")
    if text.startswith("noisy"):
        for number in range(50_000):
            emit(StepLog(1, "stdout", f"line {number}\n"))
    if text.startswith("warn"):
        emit(Notice("warning", "old syntax", 3))
    emit(StepDone(1, time.time(), cached=False, size=5))
    return Built(ID, request.tags, time.time(), digest="sha256:" + "cd" * 32)


def shell(
    request: ShellRequest, *, store_root: Path, emit: Callable[[Event], None], cancel: threading.Event
) -> ShellEnded:
    """Say on the pipes what was asked for, and how its user decides."""

    def check() -> None:
        if cancel.is_set():
            raise CancelledError("cancelled")

    if request.name != "app":
        raise NotFoundError(f"No such image: {request.name}", "see `pybuild images`")
    streams = Streams(terminal=False)
    with Visit(streams) as visit:
        emit(ShellOpened(-1, visit.token, time.time()))
        visit.wait(check)
        os.write(streams.stdout, " ".join(request.command).encode())
        assert streams.stdin is not None
        os.write(streams.stderr, os.read(streams.stdin, 100))
        os.write(streams.stderr, visit.decision(check).encode())
        streams.close_inner()
        return ShellEnded(-1, visit.token, time.time(), 7)


def pull(request: PullRequest, *, store_root: Path, emit: Callable[[Event], None], cancel: threading.Event) -> Pulled:
    """Pretend to pull; only `app` is there."""
    for name in request.names:
        if name != "app":
            raise NotFoundError(f"there is no such image: {name}", "check the name")
        emit(Transfer(-1, name, 5, 10))
    return Pulled(tuple(Moved(name, "sha256:" + "ef" * 32, ID, True) for name in request.names), time.time())


def push(request: PushRequest, *, store_root: Path, emit: Callable[[Event], None], cancel: threading.Event) -> Pushed:
    """Pretend to push; only `app` is there."""
    for name in request.names:
        if name != "app":
            raise NotFoundError(f"No such image: {name}", "see `pybuild images`")
        emit(Transfer(-1, name, 5, 10))
    return Pushed(tuple(Moved(name, "sha256:" + "ef" * 32, ID, True) for name in request.names), time.time())


class Images:
    """As `engine.images.Images`, with one image."""

    def __init__(self, store_root: Path) -> None:
        self.names = ["app:latest"]
        self.root = store_root

    def _check(self, name: str) -> None:
        if name not in (*self.names, "app", ID, ID[7:19]):
            raise NotFoundError(f"No such image: {name}", "see `pybuild images`")

    def list(self, all: bool = False, filters: dict[str, Any] | None = None) -> "list[dict[str, Any]]":
        labels = {"filters": repr(filters)} if filters else None
        return [
            {
                "Id": ID,
                "ParentId": "",
                "RepoTags": [*self.names],
                "RepoDigests": [],
                "Created": 1_700_000_000,
                "Size": 7_050_000,
                "SharedSize": -1,
                "Containers": -1,
                "Labels": labels,
            }
        ]

    def inspect(self, name: str, platform: str = "") -> dict[str, Any]:
        self._check(name)
        return {
            "Architecture": platform,
            "Id": ID,
            "RepoTags": [*self.names],
            "Config": {"Env": ["A=1"], "Labels": {"a.b": "c"}, "Cmd": None},
        }

    def history(self, name: str) -> "list[dict[str, Any]]":
        self._check(name)
        row = {"Created": 1_700_000_000, "Tags": None, "Size": 12, "Comment": "note"}
        return [{**row, "Id": ID, "CreatedBy": "RUN " + "x" * 60}, {**row, "Id": "<missing>", "CreatedBy": "COPY a"}]

    def tag(self, name: str, new_name: str) -> None:
        self._check(name)
        self.names.append(new_name if ":" in new_name else new_name + ":latest")

    def remove(self, name: str, *, force: bool = False) -> "list[dict[str, str]]":
        self._check(name)
        if name == ID and len(self.names) > 1 and not force:
            raise ConflictError("image is referenced in multiple repositories")
        return [{"Untagged": name}, {"Deleted": ID}]

    def save(
        self,
        names: Sequence[str],
        out: BinaryIO,
        *,
        format: str = "docker",
        compression: str = "none",
        platform: str = "",
    ) -> None:
        for name in names:
            self._check(name)
        out.write(f"{format} {compression} {' '.join(names)}{platform and ' for ' + platform}\n".encode())
        if "app" in names:
            for _ in range(64):
                out.write(b"x" * 65536)
        if format == "broken":
            out.flush()
            raise PybuildError("disk trouble")

    def load(self, source: BinaryIO | Path) -> "list[dict[str, str]]":
        if isinstance(source, Path):
            return [{"name": f"dir-{source.name}:latest"}]
        self.names.append(f"size-{len(source.read())}:latest")
        return [{"name": self.names[-1]}, {"id": ID}]

    def import_(self, stream: BinaryIO, name: str, *, changes: Sequence[str] = (), message: str = "") -> str:
        size = len(stream.read())
        if not size:
            raise PybuildError("not a tar archive", "give a root file system")
        self.names.append(f"{name}:{size}-{len(changes)}-{message}")
        return ID

    def export(self, name: str, type: str, out: BinaryIO, attrs: dict[str, str] | None = None) -> None:
        self._check(name)
        out.write(f"{type} {sorted((attrs or {}).items())}".encode())

    def prune(
        self, *, all: bool = False, filters: dict[str, Any] | None = None, dry_run: bool = False
    ) -> dict[str, Any]:
        items = [
            {"kind": "image", "name": ID, "size": 7, "reason": "dangling", "last_used": 1.0},
            {"kind": "cache", "name": "c1", "size": 3, "reason": f"{all} {filters} {dry_run}", "last_used": 2.0},
        ]
        return {"items": items, "reclaimed": 10}

    def flush(self) -> None:
        self.root.mkdir(exist_ok=True)
        (self.root / "flushed").touch()

    def df(self) -> dict[str, Any]:
        return {"rows": [{"type": "Images", "total": 2, "active": 1, "size": 2000, "reclaimable": 500}]}


def daemon_main() -> int:
    """Run a daemon on this engine; what tests start instead of `_child daemon`."""
    from pybuild.daemon import serve
    from pybuild.daemon.engine import Engine
    from pybuild.engine import paths

    root = paths.store_root()
    return serve.main(
        sys.argv[1:], load=lambda: Engine(build, Images(root), failure_of, shell, take, decide, pull, push)
    )


if __name__ == "__main__":
    sys.exit(daemon_main())
