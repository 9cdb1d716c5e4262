"""Results of steps given to registries while the build goes on.

The layer of a step is sent as soon as it is there, by few threads of their own; the description, which makes a cache of
them, follows when all is built. A registry that is away, or stands still, costs the build no more than a bounded wait.
"""

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from threading import Event as Flag
from threading import Lock
from typing import Any, Self

from pybuild.api.events import Event
from pybuild.api.request import BuildRequest, Output
from pybuild.engine import remotecache
from pybuild.engine.pushing import Pusher, form_of
from pybuild.engine.registries import RegistryClients
from pybuild.errors import CancelledError, PybuildError
from pybuild.oci.digest import Digest
from pybuild.oci.image import Descriptor
from pybuild.oci.reference import parse_reference
from pybuild.plan.ops import FromStage, Plan
from pybuild.store.images import ImageRecord
from pybuild.store.store import Store

PARALLEL = 2
"""How many layers go to a cache at a time, beside what the build itself does."""

STALLED_SECONDS = 120.0
"""When a build waits for nothing but its cache, and not a byte has moved for so long, the cache is given up."""

_POLL = 0.2

Describe = Callable[[Callable[[Digest], Descriptor]], tuple[bytes, list[Descriptor]]]
"""Gives a cache's config and the manifest's layers when it is told how a layer went."""


class Giving:
    """The caches in registries that one build writes; use it with `with`, the end of which ends all that goes on.

    `places` are the stages whose images are asked for.
    """

    def __init__(
        self,
        request: BuildRequest,
        store: Store,
        plan: Plan,
        places: Collection[int],
        complete: Callable[[ImageRecord], None],
        emit: Callable[[Event], None],
        cancel: Flag,
    ) -> None:
        self._over = Flag()
        self._clients = RegistryClients(request.registries, request.proxies, request.ca_bundle, self._over)
        self._caches: dict[str, _Cache] = {}
        for target in request.cache_to:
            if target.type == "registry":
                pusher = partial(Pusher, store, self._clients, complete=complete)
                cache = _Cache(target, pusher, _stages(plan, places, target), emit, cancel, self._over)
                self._caches[target.attrs["ref"]] = cache

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for cache in self._caches.values():
            cache.close()
        self._clients.__exit__()

    def offer(self, stage: int, diff_id: Digest) -> None:
        """Send the layer that a step of a stage came to, to the caches that want it; returns at once."""
        for cache in self._caches.values():
            if stage in cache.stages:
                cache.send(diff_id)

    def finish(self, target: Output, diff_ids: Sequence[Digest], describe: Describe) -> str:
        """Wait until all layers are there, send what describes them, and return the cache's name and digest.

        Raises what went wrong while they were sent: RegistryError, LayerError; CancelledError for a cancelled build.
        """
        return self._caches[target.attrs["ref"]].finish(diff_ids, describe)


def _stages(plan: Plan, places: Collection[int], target: Output) -> frozenset[int]:
    """Return the stages whose results a cache has: all with mode=max, else those that the images are made of."""
    if target.attrs.get("mode", "min") == "max":
        return frozenset(stage.index for stage in plan.stages)
    bases = {stage.index: stage.base for stage in plan.stages}
    found: set[int] = set()
    for place in places:
        at: int | None = place
        while at is not None:
            found.add(at)
            base = bases[at]
            at = base.index if isinstance(base, FromStage) else None
    return frozenset(found)


class _Cache:
    """One cache."""

    def __init__(
        self,
        target: Output,
        make_pusher: Callable[..., Pusher],
        stages: frozenset[int],
        emit: Callable[[Event], None],
        cancel: Flag,
        over: Flag,
    ) -> None:
        self.stages = stages
        self._reference = target.attrs["ref"]
        self._form = form_of(remotecache.compression_of(target), None)
        self._emit = emit
        self._cancel = cancel
        self._over = over
        self._pusher = make_pusher(emit=self._tell)
        self._pool = ThreadPoolExecutor(PARALLEL, "cache")
        self._lock = Lock()
        self._sent: dict[Digest, Future[Descriptor]] = {}
        self._failure: PybuildError | None = None
        self._moved = 0.0

    def send(self, diff_id: Digest) -> "Future[Descriptor]":
        """Send a layer unless that was begun already."""
        with self._lock:
            if diff_id not in self._sent:
                self._sent[diff_id] = self._pool.submit(self._send, diff_id)
            return self._sent[diff_id]

    def finish(self, diff_ids: Sequence[Digest], describe: Describe) -> str:
        self._moved = time.monotonic()
        self._wait([self.send(diff_id) for diff_id in diff_ids])
        config, layers = describe(lambda diff_id: self._sent[diff_id].result())
        last = self._pool.submit(remotecache.describe, self._pusher, self._reference, config, layers)
        self._wait([last])
        return last.result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _send(self, diff_id: Digest) -> Descriptor:
        if self._failure is not None:
            # It would most likely go the same way, and cost the build the same time again
            raise self._failure
        try:
            return self._pusher.layers(parse_reference(self._reference), [diff_id], self._form)[diff_id]
        except PybuildError as error:
            self._failure = error
            raise
        finally:
            self._moved = time.monotonic()

    def _tell(self, event: Event) -> None:
        self._moved = time.monotonic()
        self._emit(event)

    def _wait(self, futures: "Sequence[Future[Any]]") -> None:
        """Wait for all; raise the first error, and one of our own when nothing moves."""
        while True:
            done, pending = wait(futures, _POLL, FIRST_EXCEPTION)
            for future in done:
                if (error := future.exception()) is not None:
                    raise error
            if not pending:
                return
            if self._cancel.is_set():
                raise CancelledError("the build was cancelled")
            if time.monotonic() - self._moved > STALLED_SECONDS:
                self._over.set()
                raise PybuildError(
                    f"the registry has taken nothing of the cache for {STALLED_SECONDS:g} seconds: {self._reference}",
                    "the image is built all the same",
                )
