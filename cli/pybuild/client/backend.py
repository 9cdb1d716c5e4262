"""What the command line can ask, whichever door is used."""

from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

from pybuild.api.events import Event
from pybuild.api.request import BuildRequest, ManifestRequest, PullRequest, PushRequest, ShellRequest


class Backend(Protocol):
    """An open way to the engine. Operations raise PybuildError of the same kinds through both doors.

    Dicts have the shapes of the Docker Engine API.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def build(self, request: BuildRequest, context: BinaryIO | None = None) -> Generator[Event, None, None]:
        """Build, or check only; the last event is Built, Checked or Failed. Closing the iterator early cancels it.

        `context` is read when `request.context` is "": a tar, compressed or not, or a bare Dockerfile.
        """
        ...

    def shell(self, request: ShellRequest) -> Generator[Event, None, None]:
        """Open a shell; the last event is ShellEnded or Failed. Closing the iterator early ends it."""
        ...

    def attach(self, token: str) -> list[int]:
        """Return the descriptors of a shell that was opened, the caller's from now on.

        They are a socket over which a terminal comes (`sandbox.terminal.receive`), or pipes to write to, of its
        output and of its errors. They are given once; then it begins. Raises NotFoundError.
        """
        ...

    def decide(self, token: str, decision: str) -> None:
        """Say how a build goes on after its shell: one of `api.events.DECISIONS`."""
        ...

    def pull(self, request: PullRequest) -> Generator[Event, None, None]:
        """Pull images; the last event is Pulled or Failed. Closing the iterator early cancels it."""
        ...

    def push(self, request: PushRequest) -> Generator[Event, None, None]:
        """Push images; the last event is Pushed or Failed. Closing the iterator early cancels it."""
        ...

    def manifests(self, request: ManifestRequest) -> Generator[Event, None, None]:
        """Inspect, create or annotate; the last event is Described or Failed. Closing the iterator early cancels it."""
        ...

    def images(self, *, all: bool = False, filters: dict[str, list[str]] | None = None) -> list[dict[str, Any]]:
        """Return the images, newest first, as `GET /images/json`."""
        ...

    def inspect(self, name: str, platform: str = "") -> dict[str, Any]:
        """Return one image as `GET /images/{name}/json`, of an index that for `platform`."""
        ...

    def history(self, name: str) -> list[dict[str, Any]]:
        """Return the history of an image, newest first."""
        ...

    def inputs(self, name: str) -> dict[str, Any]:
        """Return what an image was built from: `{"request", "secrets", "ssh", "allow", "bases", "changed_bases"}`.

        It is {} when that is not known.
        """
        ...

    def compare(self, name: str, other: str) -> dict[str, Any]:
        """Return how images differ: `{"image", "rebuilt", "differences": [{path, field, image, rebuilt}]}`."""
        ...

    def layers(self, name: str) -> dict[str, Any]:
        """Return an image with the tables of its layers, the lowest first.

        `{"image", "names", "size", "layers": [{digest, size, created, created_by, entries}]}`; an entry is a list of
        path, type, mode, uid, gid, size, mtime, link, hex digest and whether a directory is opaque, as `tree.Entry`
        has them.
        """
        ...

    def files(self, name: str, paths: Sequence[str], out: BinaryIO) -> None:
        """Write a tar of the files at these paths of an image's tree to `out`; paths are as `layers` tells them.

        No link is followed, and what is no file is left out.
        """
        ...

    def tag(self, name: str, new_name: str) -> None:
        """Give an image another name."""
        ...

    def remove(self, name: str, *, force: bool = False) -> list[dict[str, str]]:
        """Remove a name, and the image with its last one; return `{"Untagged"}` and `{"Deleted"}` in order."""
        ...

    def save(
        self,
        names: Sequence[str],
        out: BinaryIO,
        *,
        format: str = "docker",
        compression: str = "none",
        platform: str = "",
    ) -> None:
        """Write images as an archive to `out`, of indexes those for `platform` alone if it is given."""
        ...

    def load(self, source: BinaryIO | Path) -> list[dict[str, str]]:
        """Take images in from an archive, or from an OCI layout directory given by absolute path."""
        ...

    def import_(self, source: BinaryIO, name: str, *, changes: Sequence[str] = (), message: str = "") -> str:
        """Make an image of a root file system tar; return its id."""
        ...

    def export(self, name: str, type: str, out: BinaryIO, attrs: dict[str, str]) -> None:
        """Write an image to `out` as the exporter of that type does."""
        ...

    def prune(
        self, *, all: bool = False, filters: dict[str, list[str]] | None = None, dry_run: bool = False
    ) -> dict[str, Any]:
        """Remove what nothing needs; return `{"items": [{kind, name, size, reason, last_used}], "reclaimed"}`."""
        ...

    def builds(self) -> list[dict[str, Any]]:
        """Return the builds that can be explained, the newest first, as `explain` does without `steps`."""
        ...

    def explain(self, build: str = "") -> dict[str, Any]:
        """Return why each step of a build was, or was not, cached: `{id, time, state, ..., steps}`, each step being
        `{label, cached, reason, changes, ...}`. `build` is an id or the beginning of one, "" for the last build.
        """
        ...

    def df(self) -> dict[str, Any]:
        """Return `{"rows": [{type, total, active, size, reclaimable}]}`."""
        ...
