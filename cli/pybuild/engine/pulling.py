"""Images pulled: layers side by side, each streamed once from its registry through the worker into the store."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Flag
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from pybuild.api.events import Event, Moved, Notice, Pulled, Transfer
from pybuild.api.request import PullRequest
from pybuild.engine.inputs import host
from pybuild.engine.registries import RegistryClients
from pybuild.engine.whole import lacking
from pybuild.engine.workers import Workers
from pybuild.errors import CancelledError, NotFoundError, PybuildError, UsageError
from pybuild.layer.tarwriter import Packed
from pybuild.oci.digest import Digest
from pybuild.oci.image import Descriptor, ImageConfig
from pybuild.oci.manifests import COMPRESSED, fits
from pybuild.oci.platform import Platform, normalise, parse_platform
from pybuild.oci.reference import Reference, parse_reference
from pybuild.store.blobs import BlobWriter
from pybuild.store.downloads import Download
from pybuild.store.images import ImageRecord
from pybuild.store.pulled import PulledImage
from pybuild.store.store import Store

if TYPE_CHECKING:
    from pybuild.registry.blobs import Source
    from pybuild.registry.images import RemoteImage

PARALLEL_LAYERS = 4
"""How many layers come at a time."""

TOLD_SECONDS = 0.1
"""Byte counts are told this seldom."""

_PIPE = 1 << 20


class Puller:
    """Pulls images into a store; each layer once, however many images have it. May be used from several threads."""

    def __init__(
        self,
        store: Store,
        workers: Workers,
        clients: RegistryClients,
        emit: Callable[[Event], None],
    ) -> None:
        self._store = store
        self._workers = workers
        self._clients = clients
        self._emit = emit
        self._guard = Lock()
        self._locks: dict[str, Lock] = {}

    def pull(self, name: Reference, platform: Platform, *, tag: bool, layers: bool = True) -> tuple[ImageRecord, Moved]:
        """Bring an image here and return it; only its digest is asked for when that is here already.

        With `tag` the name points at it from now on. Without `layers` those that are not here stay where they are
        (`complete` brings them). Raises RegistryError, InvalidImageError, LayerError, CancelledError; nothing is named
        unless all that was asked for is here.
        """
        with self._alone(f"{name} {platform}"):
            record = self._unchanged(name, platform, layers=layers)
            fresh = record is None
            if record is None:
                record = self._fetch(name, platform, layers=layers)
            if tag and name.tag is not None:
                self._store.images.tag(name, record.id)
            known = self._store.pulled.get(name, platform)
            assert known is not None
            return record, Moved(name.familiar(), known.digest, record.id, fresh)

    def take_layer(self, sources: "list[Source]", name: Reference, diff_id: Digest, layer: Descriptor) -> None:
        """Bring one layer here unless it is; raises as `pull`."""
        with self._alone(diff_id):
            if not self._store.layers.has(diff_id):
                _Layer(self._store, self._workers, sources, name, diff_id, layer, self._emit, Flag()).take()

    def complete(self, record: ImageRecord) -> None:
        """Bring those layers of an image here that are elsewhere; raises as `pull`."""
        missing = [(diff_id, self._store.absent.get(diff_id)) for diff_id in lacking(self._store, record.diff_ids)]
        by_place: dict[tuple[str, ...], list[tuple[Digest, Descriptor]]] = {}
        for diff_id, layer in missing:
            if layer is not None:
                by_place.setdefault(layer.repositories, []).append((diff_id, layer.descriptor))
        called = record.references[0].familiar() if record.tags else record.id[:19]
        for repositories, layers in by_place.items():
            names = [parse_reference(repository) for repository in repositories]
            sources = [source for name in names for source in self._clients.sources(name)]
            try:
                self._take_all(sources, names[0], layers)
            except CancelledError:
                raise
            except PybuildError as error:
                where = ", ".join(repositories)
                error.message = f"layers of {called} are not here, but at {where}: {error.message}"
                raise
        if missing:
            self._store.absent.delete(diff_id for diff_id, _ in missing)
            self._store.images.measure(record.id)

    def known(self, name: Reference, platform: Platform, *, layers: bool = True) -> ImageRecord | None:
        """Return what a name stood for when it was pulled for a platform, if that is here, with its `layers` or not."""
        known = self._store.pulled.get(name, platform)
        record = self._store.images.get(known.image_id) if known is not None else None
        if record is None:
            return None
        missing = [diff_id for diff_id in record.diff_ids if not self._store.layers.has(diff_id)]
        if missing and (layers or any(self._store.absent.get(diff_id) is None for diff_id in missing)):
            return None
        return record

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        with self._guard:
            lock = self._locks.setdefault(what, Lock())
        with lock:
            yield

    def _unchanged(self, name: Reference, platform: Platform, *, layers: bool) -> ImageRecord | None:
        """Return the image that is here when the registry still means it."""
        record = self.known(name, platform, layers=layers)
        if record is None and name.digest is None:
            # Perhaps by another tag
            found = self._resolved(name)
            return self._remember_tag(name, platform, found, layers=layers) if found is not None else None
        if record is None or name.digest is not None:
            return record
        known = self._store.pulled.get(name, platform)
        found = self._resolved(name)
        if known is None or found is None:
            return None
        if found == known.digest:
            return record
        return self._remember_tag(name, platform, found, layers=layers)

    def _remember_tag(self, name: Reference, platform: Platform, digest: Digest, *, layers: bool) -> ImageRecord | None:
        record = self.known(name._replace(digest=digest), platform, layers=layers)
        if record is not None:
            self._store.pulled.put(name, platform, PulledImage(digest, record.id))
        return record

    def _resolved(self, name: Reference) -> Digest | None:
        from pybuild.registry.blobs import first_of
        from pybuild.registry.images import resolve

        return first_of(self._clients.sources(name), lambda source: resolve(source, str(name.digest or name.tag)))

    def _fetch(self, name: Reference, platform: Platform, *, layers: bool) -> ImageRecord:
        from pybuild.registry.blobs import first_of
        from pybuild.registry.images import fetch_image

        sources = self._clients.sources(name)
        image = first_of(sources, lambda source: fetch_image(source, name, platform))
        if layers:
            self._fetch_layers(sources, name, image)
        else:
            self._leave_layers(sources[-1], name, image)
        image_id = self._store.images.put(image.config_bytes)
        record = self._store.images.get(image_id)
        assert record is not None
        pulled = PulledImage(image.digest, image_id)
        self._store.pulled.put(name, platform, pulled)
        own = image.manifest
        if own.digest != image.digest:
            self._store.pulled.put(name._replace(tag=None, digest=own.digest), platform, pulled)
        self._store.pulled.keep_manifest(image_id, own.media_type, own.data)
        if layers:
            self._emit(Notice("info", f"pulled {name.familiar()} for {_own(image.config, platform)}: {image.digest}"))
        return record

    def _fetch_layers(self, sources: "list[Source]", name: Reference, image: "RemoteImage") -> None:
        self._take_all(sources, name, list(zip(image.config.rootfs.diff_ids, image.layers, strict=True)))

    def _leave_layers(self, home: "Source", name: Reference, image: "RemoteImage") -> None:
        """Write down where the layers are that are not here."""
        left = 0
        for diff_id, layer in zip(image.config.rootfs.diff_ids, image.layers, strict=True):
            if not self._store.layers.has(diff_id):
                self._store.absent.put(diff_id, layer, name.name)
                self._store.origins.add(home.client.host.name, layer.digest, home.repository)
                left += 1
        if left:
            told = f"{left} of {len(image.layers)} layers are not needed here and stay at the registry"
            self._emit(Notice("info", f"{name.familiar()}: {told}"))

    def _take_all(self, sources: "list[Source]", name: Reference, layers: Sequence[tuple[Digest, Descriptor]]) -> None:
        """Bring those layers here that are not."""
        missing = {diff_id: layer for diff_id, layer in layers if not self._store.layers.has(diff_id)}
        if not missing:
            return
        stop = Flag()

        def take(diff_id: Digest, layer: Descriptor) -> None:
            with self._alone(diff_id):
                if not stop.is_set() and not self._store.layers.has(diff_id):
                    _Layer(self._store, self._workers, sources, name, diff_id, layer, self._emit, stop).take()

        with ThreadPoolExecutor(min(PARALLEL_LAYERS, len(missing)), "pull") as pool:
            futures = [pool.submit(take, diff_id, layer) for diff_id, layer in missing.items()]
            all_done(futures, stop)


def all_done(futures: Sequence["Future[Any]"], stop: Flag) -> None:
    """Wait for all; the first that fails in time stops the others and is raised."""
    from concurrent.futures import FIRST_EXCEPTION, wait

    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    failed = [error for future in done if (error := future.exception()) is not None]
    if failed:
        stop.set()
        wait(futures)
        raise failed[0]


class StoppedError(PybuildError):
    """Another layer failed."""


class _Layer:
    """One layer on its way: a thread fetches it into the store and a pipe, whose other end the worker unpacks."""

    def __init__(
        self,
        store: Store,
        workers: Workers,
        sources: "list[Source]",
        name: Reference,
        diff_id: Digest,
        descriptor: Descriptor,
        emit: Callable[[Event], None],
        stop: Flag,
    ) -> None:
        self._store = store
        self._workers = workers
        self._sources = sources
        self._home = sources[-1]
        self._name = name
        self._diff_id = diff_id
        self._descriptor = descriptor
        self._emit = emit
        self._stop = stop
        self._failure: BaseException | None = None
        self._refused = False
        self._told = 0.0

    def take(self) -> None:
        """Bring the layer here; what came damaged is asked for once more, elsewhere if there are mirrors."""
        from pybuild.registry.errors import WrongContentError

        try:
            self._take()
        except WrongContentError:
            self._sources = [*self._sources[1:], self._sources[0]]
            self._refused, self._failure = False, None
            self._take()

    def _take(self) -> None:
        form = COMPRESSED.get(self._descriptor.media_type)
        wanted = self._descriptor
        with self._store.downloads.open(wanted.digest, wanted.size) as given, self._store.blobs.create() as plain:
            if given.begun:
                told = f"an earlier command has fetched {given.begun} of {wanted.size} bytes of {wanted.digest[7:19]}"
                self._emit(Notice("info", f"{self._name.familiar_name()}: {told}"))
            packed = self._streamed(given, plain)
            if packed.diff_id != self._diff_id:
                from pybuild.registry.errors import WrongContentError

                given.drop()
                raise WrongContentError(
                    f"a layer of {self._name.familiar()} is not what the image's config says: {self._diff_id}"
                )
            plain.commit(self._diff_id, packed.size)
            self._store.layers.record(self._diff_id, packed.size, packed.toc)
            if form is not None:
                # Kept as it came, so that it leaves with the same digest
                kept = Descriptor(form, wanted.digest, wanted.size)
                given.commit(kept.digest, kept.size)
                self._store.layers.add_form(self._diff_id, kept)
            else:
                given.drop()
            # A push to the same registry need not send it
            home = self._home
            self._store.origins.add(home.client.host.name, wanted.digest, home.repository)

    def _streamed(self, given: Download, plain: BlobWriter) -> Packed:
        source, sink = os.pipe2(os.O_CLOEXEC)
        fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, _PIPE)
        fetching = Thread(target=self._fetch, args=(given, sink), name="fetch", daemon=True)
        fetching.start()
        refusal: BaseException | None = None
        try:
            packed = self._workers.ingest(source, plain.fd, layer=True)
        except BaseException as error:
            refusal = error
        # What broke off the fetching, and with it the archive, is known by now
        cause = self._failure
        # What is fetched further is of no use
        self._refused = refusal is not None
        os.close(source)
        fetching.join()
        cause = cause or (None if self._refused else self._failure)
        if _is_wrong(cause or refusal):
            given.drop()
        # An archive that is cut short because fetching failed is no news
        if cause is not None and not (self._refused and isinstance(cause, StoppedError)):
            raise cause from refusal
        if refusal is not None:
            raise refusal
        return packed

    def _fetch(self, given: Download, sink: int) -> None:
        from pybuild.registry.blobs import fetch_blob

        def write(data: bytes) -> None:
            given.write(data)
            self._pass_on(sink, data)

        def begun() -> Iterator[bytes]:
            for data in given.blocks():
                self._pass_on(sink, data)
                yield data

        try:
            fetch_blob(self._sources, self._descriptor, write, self._progress, begun())
        except BaseException as error:
            # Raised in the thread that waits for the worker
            self._failure = error
        finally:
            os.close(sink)

    def _pass_on(self, sink: int, data: bytes) -> None:
        if self._refused or self._stop.is_set():
            raise StoppedError("another layer failed")
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(sink, view) :]
            except BrokenPipeError:
                if self._refused:
                    raise StoppedError("the layer was refused") from None
                # The worker has read to the end of the archive; the digest is over the rest too
                return

    def _progress(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told >= TOLD_SECONDS or done == self._descriptor.size:
            self._told = now
            label = f"{self._name.familiar_name()} {self._descriptor.digest[7:19]}"
            self._emit(Transfer(-1, label, done, self._descriptor.size))


def _is_wrong(error: BaseException | None) -> bool:
    """Is what was fetched so far of no use after this error?"""
    from pybuild.registry.errors import RegistryError, WrongContentError

    if isinstance(error, WrongContentError):
        return True
    return isinstance(error, Exception) and not isinstance(error, RegistryError | CancelledError | StoppedError)


def pull(request: PullRequest, *, store_root: Path, emit: Callable[[Event], None], cancel: Flag) -> Pulled:
    """Pull what `request` names, one image after the other; raise what Puller.pull raises.

    `emit` gets every event but the last, one at a time.
    """
    names = [_named(name, all_tags=request.all_tags) for name in request.names]
    here = host()
    platform = parse_platform(request.platform, here) if request.platform else here
    lock = Lock()

    def tell(event: Event) -> None:
        with lock:
            emit(event)

    with (
        Store.open(store_root) as store,
        store.session(),
        Workers(cancel) as workers,
        RegistryClients(request.registries, request.proxies, "", cancel) as clients,
    ):
        for left_over in store.sweep():
            workers.remove_if_possible(left_over)
        puller = Puller(store, workers, clients, tell)
        if request.all_tags:
            names = [one for name in names for one in _all_tags(clients, name)]
        moved: list[Moved] = []
        for name in names:
            record, one = puller.pull(name, platform, tag=True)
            own = _own(record.config, platform)
            if own != platform:
                tell(Notice("warning", f"{name.familiar()} is for {own}, and {platform} was asked for"))
            moved.append(one)
    return Pulled(tuple(moved), time.time())


def _own(config: ImageConfig, wanted: Platform) -> Platform:
    """Return `wanted` where an image is good for that, else its own platform: a name alone chooses none."""
    return wanted if fits(config, wanted) else normalise(config.os, config.architecture, config.variant)


def _named(text: str, *, all_tags: bool) -> Reference:
    name = parse_reference(text)
    if all_tags and (name.digest is not None or ":" in text.rpartition("/")[2]):
        raise UsageError(f"--all-tags wants a name without a tag: {text}")
    return name


def _all_tags(clients: RegistryClients, name: Reference) -> list[Reference]:
    from pybuild.registry.blobs import first_of
    from pybuild.registry.tags import tags

    found = first_of(clients.sources(name), lambda source: tags(source, name))
    if not found:
        raise NotFoundError(f"the repository has no tags: {name.familiar_name()}")
    return found
