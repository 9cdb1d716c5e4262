"""The store kept within its limits by the builds that fill it: afterwards, and never while another build runs.

A build that adds nothing finds out by a few stats whether somebody else has added something since it was looked at.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event as Flag

import msgspec

from pybuild.api.events import Built, Event, Notice, StepDone
from pybuild.api.request import BuildRequest
from pybuild.engine.workers import Workers
from pybuild.errors import CancelledError, PybuildError
from pybuild.progress.amounts import human_bytes
from pybuild.store.errors import StoreBusyError
from pybuild.store.least import Limits, excess
from pybuild.store.place import Place
from pybuild.store.store import Store

Build = Callable[[Callable[[Event], None]], Built]

_PATIENCE = 600
"""Seconds after which a store that is over its limit, and had nothing that could go, is looked at again."""


def trimmed(request: BuildRequest, store_root: Path, emit: Callable[[Event], None], build: Build) -> Built:
    """Return what `build` does, given a place for its events; afterwards the limits of the request hold.

    One that failed may have taken room as well.
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
    if made.is_set() or not _is_known_to_fit(request, store_root, emit):
        _trim(request, store_root, emit, built.image_id)
    return built


def _is_known_to_fit(request: BuildRequest, root: Path, emit: Callable[[Event], None]) -> bool:
    """Is the store within the limits, or is nothing new that could go? Looks closely only where something changed."""
    limits = Limits(request.max_size, request.min_free)
    disk = os.statvfs(root)
    is_free = disk.f_bavail * disk.f_frsize >= limits.min_free
    if is_free and not limits.max_size:
        return True
    notes, state, now = Place(root).fitted, _state(root, limits), time.time()
    known = _noted(notes)
    if known is not None and known.state == state:
        if known.fits and is_free:
            return True
        if not known.fits and 0 <= now - known.time < _PATIENCE:
            return True
    try:
        with Store.open(root) as store:
            fits = excess(store, limits) == 0
            aside = store.place.temporary()
            aside.write_bytes(msgspec.json.encode(_Noted(state, fits, now)))
            aside.rename(notes)
    except (OSError, PybuildError) as error:
        told = error.message if isinstance(error, PybuildError) else f"{error.filename}: {error.strerror}"
        emit(Notice("warning", f"the size of the store is not known: {told}"))
        return True
    return fits


class _Noted(msgspec.Struct, frozen=True):
    """What the store was like when it was looked at, at `time` in seconds since the epoch, and whether that fits."""

    state: list[int]
    fits: bool
    time: float


def _noted(path: Path) -> _Noted | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Noted)
    except (OSError, msgspec.DecodeError):
        return None


def _state(root: Path, limits: Limits) -> list[int]:
    """Return what is another when something came to the store or went."""
    place = Place(root)
    found = [limits.max_size, limits.min_free]
    for directory in (place.blobs, place.tocs, place.snapshots, place.caches, place.kept, place.downloads):
        try:
            found.append(directory.stat().st_mtime_ns)
        except FileNotFoundError:
            found.append(0)
    return found


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
