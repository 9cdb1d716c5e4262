"""The store kept within its limits by the builds that fill it: afterwards, and never while another build runs."""

from collections.abc import Callable
from pathlib import Path
from threading import Event as Flag

from pybuild.api.events import Built, Event, Notice, StepDone
from pybuild.api.request import BuildRequest
from pybuild.engine.workers import Workers
from pybuild.errors import CancelledError, PybuildError
from pybuild.progress.amounts import human_bytes
from pybuild.store.errors import StoreBusyError
from pybuild.store.least import Limits
from pybuild.store.store import Store

Build = Callable[[Callable[[Event], None]], Built]


def trimmed(request: BuildRequest, store_root: Path, emit: Callable[[Event], None], build: Build) -> Built:
    """Return what `build` does, given a place for its events; afterwards the limits of the request hold.

    A build that found all in the cache takes no room, so it looks at nothing. One that failed may have.
    """
    made = Flag()

    def watch(event: Event) -> None:
        if isinstance(event, StepDone) and not event.cached:
            made.set()
        emit(event)

    try:
        built = build(watch)
    except CancelledError:
        # Who breaks off a build waits for nothing; the next one does it
        raise
    except PybuildError:
        if made.is_set():
            _trim(request, store_root, emit, "")
        raise
    if made.is_set():
        _trim(request, store_root, emit, built.image_id)
    return built


def _trim(request: BuildRequest, store_root: Path, emit: Callable[[Event], None], spared: str) -> None:
    """Remove what is over the limits; the image just built stays, as its user may ask for it next."""
    limits = Limits(request.max_size, request.min_free)
    try:
        with Store.open(store_root) as store, Workers(Flag()) as workers:
            report = store.prune(limits=limits, spared=(spared,), remove_tree=workers.remove_if_possible)
    except StoreBusyError:
        # Another build runs: the last one to end finds nobody
        return
    except PybuildError as error:
        emit(Notice("warning", f"the store was not brought within its limits: {error.message}"))
        return
    if report.items:
        told = f"removed from the store to keep it within its limits: {human_bytes(report.reclaimed)}"
        emit(Notice("info", told))
