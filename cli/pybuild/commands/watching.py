"""`pybuild build --watch`: build, wait until something changes that the build reads, and again."""

import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

from pybuild.api.events import Read, Reads
from pybuild.api.request import BuildRequest
from pybuild.context.errors import IgnoreError
from pybuild.context.footprint import Footprint
from pybuild.context.ignore import IgnoreMatcher, load_ignore
from pybuild.context.watch import Watched, Watcher
from pybuild.dockerfile.addresses import names_remote
from pybuild.plan.contexts import by_key
from pybuild.progress.escape import one_line

_NAMED = 3
"""How many changed paths are told by name."""


class Run(Protocol):
    """Does the build once and returns its exit status; tells `observe` what it reads of the context."""

    def __call__(self, context: BinaryIO | None, *, observe: Callable[[Reads], None]) -> int: ...


def watch(run: Run, request: BuildRequest, written: Iterable[str], *, tell: bool) -> NoReturn:
    """Build whenever it is needed until the user ends it; a build that fails is tried again after the next change.

    `written` are paths that the build writes, which are no reason to build. With `tell` standard error says what
    is waited for.
    """
    root = Path(os.path.realpath(request.context))
    dockerfile = Path(request.dockerfile or os.path.join(request.context, "Dockerfile"))
    named = {
        key: Path(os.path.realpath(value))
        for key, value in by_key(request.build_contexts).items()
        if not names_remote(value)
    }
    own = [Path(os.path.realpath(path)) for path in written]
    while True:
        begun = time.time()
        told: list[Reads] = []
        run(None, observe=told.append)
        # A build that comes to no plan might read anything
        reads = [read for part in told for read in part.reads] if told else None
        contexts = [Watched(root, _ignore(root, dockerfile), _footprint(reads, ""))]
        files = _files(root, dockerfile, from_text=request.dockerfile_text is not None)
        for key, directory in named.items():
            if footprint := _footprint(reads, key):
                contexts.append(Watched(directory, _ignore(directory, None), footprint))
                files.append(directory / ".dockerignore")
        with Watcher(contexts, files, own) as watcher:
            # What has changed while the build ran, it may have read before or after
            changed = watcher.changed_since(begun)
            if not changed:
                if tell:
                    _say(f"watching {watcher.directories} directories for changes; Ctrl-C ends it")
                changed = watcher.wait()
        if tell:
            more = len(changed) - _NAMED
            _say(f"changed: {', '.join(changed[:_NAMED])}{f' and {more} more' if more > 0 else ''}")


def _footprint(reads: list[Read] | None, context: str) -> Footprint:
    return Footprint(reads if reads is None else [read for read in reads if read.context == context])


def _ignore(root: Path, dockerfile: Path | None) -> IgnoreMatcher:
    try:
        return load_ignore(root, dockerfile)
    except IgnoreError:
        # The build has failed for it; until it is mended anything may matter
        return IgnoreMatcher()


def _files(root: Path, dockerfile: Path, *, from_text: bool) -> list[Path]:
    """Return what is read besides the context's files, links and what they lead to."""
    named = [root / ".dockerignore"]
    if not from_text:
        named += [dockerfile, dockerfile.with_name(f"{dockerfile.name}.dockerignore")]
    return [place for path in named for place in dict.fromkeys((path.absolute(), Path(os.path.realpath(path))))]


def _say(text: str) -> None:
    sys.stderr.write(f"{one_line(text)}\n")
    sys.stderr.flush()
