"""Images pushed: layers side by side, compressed while they are sent; what is made on the way is kept."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event as Flag
from threading import Lock, Thread
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from pybuild.api.events import Built, Event, Moved, Notice, Pushed, Transfer
from pybuild.api.request import Output, PushRequest
from pybuild.engine.inputs import host
from pybuild.engine.pulling import TOLD_SECONDS, Puller, StoppedError, all_done
from pybuild.engine.registries import RegistryClients
from pybuild.engine.whole import lacking
from pybuild.engine.workers import Workers
from pybuild.errors import NotFoundError, UsageError
from pybuild.layer.compress import compress
from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    decode,
    encode,
)
from pybuild.oci.manifests import COMPRESSED, platform_of
from pybuild.oci.platform import Platform, normalise
from pybuild.oci.reference import Reference, parse_reference
from pybuild.store.absent import AbsentLayer
from pybuild.store.blobs import BlobWriter
from pybuild.store.images import ImageRecord
from pybuild.store.indexes import IndexRecord
from pybuild.store.pulled import PulledImage
from pybuild.store.store import Store

if TYPE_CHECKING:
    from pybuild.registry.blobs import Source
    from pybuild.registry.upload import InMemory

PARALLEL_BLOBS = 4
"""How many blobs go at a time."""

BLOCK = 1 << 20
COMPRESSIONS = {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD, "none": OCI_LAYER, "uncompressed": OCI_LAYER}
"""What `--compression` may say, and the media type of a layer then."""


class Form(NamedTuple):
    """How layers are to go: a media type, "" for gzip or a form that is here already, and a level, None the usual."""

    media_type: str = ""
    level: int | None = None


def form_of(compression: str, level: str | int | None) -> Form:
    """Return what `--compression` and its level mean; raise UsageError."""
    if compression and compression not in COMPRESSIONS:
        raise UsageError(f"unknown compression: {compression}", f"known: {', '.join(COMPRESSIONS)}")
    if level in (None, ""):
        return Form(COMPRESSIONS.get(compression, ""))
    highest = {"": 9, "gzip": 9, "zstd": 19}.get(compression, -1)
    if not str(level).isdigit() or not 0 <= int(str(level)) <= highest:
        known = f"from 0 to {highest}" if highest >= 0 else "not for layers that are not compressed"
        raise UsageError(f"the level of {compression or 'gzip'} is {known}: {level}")
    return Form(COMPRESSIONS[compression or "gzip"], int(str(level)))


class Push:
    """One `--output type=registry` of a build; raises UsageError for what it cannot mean."""

    def __init__(self, output: Output, tags: Sequence[Reference], store: Store, pusher: "Pusher") -> None:
        self._store = store
        self._pusher = pusher
        attrs = output.attrs
        self.names = [parse_reference(name) for name in attrs.get("name", "").split(",") if name] or [*tags]
        self._form = form_of(attrs.get("compression", ""), attrs.get("compression-level"))
        if not self.names:
            raise UsageError("the image has no name to be pushed under", "`--tag` gives it one, and says where it goes")
        if attrs.get("oci-mediatypes", "true").lower() not in ("true", "1"):
            raise UsageError("images are pushed in OCI's form alone: oci-mediatypes=false")

    def carry_out(self, built: Built) -> Built:
        """Push what was built and return what to tell of it; raises as Pusher.push."""
        record = self._store.indexes.get(built.image_id) or self._store.images.get(Digest(built.image_id))
        assert record is not None
        moved = self._pusher.push(record, self.names, self._form)
        told = tuple(f"{one.name}@{one.digest}" for one in moved)
        return built._replace(digest=moved[0].digest, exported=(*built.exported, *told), time=time.time())


class Pusher:
    """Pushes images of a store; `emit` gets events one at a time, `complete` brings layers here that are elsewhere."""

    def __init__(
        self,
        store: Store,
        clients: RegistryClients,
        emit: Callable[[Event], None],
        complete: Callable[[ImageRecord], None],
    ) -> None:
        self._store = store
        self._clients = clients
        self._emit = emit
        self._complete = complete

    def check(self, names: Sequence[Reference]) -> None:
        """Learn whether images may be pushed under these names, before there are any; raise RegistryError."""
        from pybuild.registry.upload import check_push

        for name in {name.name: name for name in names}.values():
            check_push(self._target(name))

    def push(self, record: ImageRecord | IndexRecord, names: Sequence[Reference], form: Form) -> list[Moved]:
        """Push an image, or an index and its images, under names.

        A repository gets its blobs once, the next from the one before if it may. Raises RegistryError, LayerError,
        CancelledError; no name is moved before all blobs are there.
        """
        by_repository: dict[str, list[Reference]] = {}
        for name in names:
            by_repository.setdefault(name.name, []).append(name)
        moved: list[Moved] = []
        for same in by_repository.values():
            moved += self._push_to(self._target(same[0]), record, same, form)
        return moved

    def _target(self, name: Reference) -> "Source":
        [target] = self._clients.sources(name, pull=False)
        return target

    def _push_to(
        self, target: "Source", record: ImageRecord | IndexRecord, names: Sequence[Reference], form: Form
    ) -> list[Moved]:
        from pybuild.registry.upload import put_manifest

        if isinstance(record, IndexRecord):
            made = self._index(target, record, names[0], form)
        else:
            made = self._image(target, record, names[0], form)
        digest = digest_of(made.data)
        moved: list[Moved] = []
        for name in names:
            replaced = self._replaced_index(target, name, record) if isinstance(record, ImageRecord) else ""
            put_manifest(target, name.tag or digest, made.media_type, made.data, digest)
            if replaced:
                self._emit(Notice("warning", replaced))
            known = name._replace(digest=digest if name.tag is None else None)
            for platform, image in made.images.items():
                self._store.pulled.put(known, platform, PulledImage(digest, image))
            self._emit(Notice("info", f"pushed {name.familiar()}: {digest}"))
            moved.append(Moved(name.familiar(), digest, record.id, made.sent, len(made.data)))
        return moved

    def _replaced_index(self, target: "Source", name: Reference, record: ImageRecord) -> str:
        """Return what to tell of a tag that is to stand for one image in place of an index, "" of all others.

        Docker does the same, and says so. The registry is asked only where the name was pulled out of an index.
        """
        platform = _platform(record.config)
        known = self._store.pulled.get(name, platform) if name.tag is not None and platform is not None else None
        kept = self._store.pulled.manifest(known.image_id) if known is not None else None
        if known is None or kept is None or known.digest == digest_of(kept[1]):
            return ""
        from pybuild.registry.images import standing_index

        index = standing_index(target, str(name.tag))
        if index is None:
            return ""
        told = f"{name.familiar()} was an index of several platforms and is now the image for {platform} alone"
        return f"{told}; the index can be had as {name.familiar_name()}@{index}"

    def _index(self, target: "Source", record: IndexRecord, name: Reference, form: Form) -> "_Made":
        """Send the images of an index with their manifests; return the index as it is to be there."""
        from pybuild.registry.upload import put_manifest

        rows: list[Descriptor] = []
        images: dict[Platform, Digest] = {}
        sent = False
        for member in record.members:
            image = self._store.images.get(member.image)
            assert image is not None, "an index holds its images"
            made = self._image(target, image, name, form)
            digest = digest_of(made.data)
            put_manifest(target, digest, made.media_type, made.data, digest)
            row, size = member.row, len(made.data)
            rows.append(msgspec.structs.replace(row, media_type=made.media_type, digest=digest, size=size))
            platform = platform_of(row)
            if platform is not None:
                images.setdefault(platform, image.id)
            sent = sent or made.sent
        data = encode(Index(media_type=OCI_INDEX, manifests=rows, annotations=record.annotations))
        return _Made(OCI_INDEX, data, images, sent)

    def _image(self, target: "Source", record: ImageRecord, name: Reference, form: Form) -> "_Made":
        """Send what an image consists of; return its manifest, which is to follow."""
        if form.media_type:
            away = [self._store.absent.get(diff_id) for diff_id in lacking(self._store, record.diff_ids)]
            if any(layer is not None and kind_of(layer) != form.media_type for layer in away):
                # They are to go in another form than they have
                self._complete(record)
        config = Descriptor(OCI_CONFIG, record.id, len(record.data))
        kept = self._as_it_came(record) if form == Form() else None
        forms = kept.forms if kept is not None else dict.fromkeys(record.diff_ids, form)
        by_diff_id, sent = self._blobs(target, name, forms, config, record.data)
        if kept is not None:
            media_type, data = kept.media_type, kept.data
        else:
            layers = [by_diff_id[diff_id] for diff_id in record.diff_ids]
            media_type, data = OCI_MANIFEST, encode(Manifest(media_type=OCI_MANIFEST, config=config, layers=layers))
        platform = _platform(record.config)
        return _Made(media_type, data, {platform: record.id} if platform is not None else {}, sent)

    def _as_it_came(self, record: ImageRecord) -> "_Kept | None":
        """Return the manifest that an image was pulled with, if its layers are here in the same form still."""
        found = self._store.pulled.manifest(record.id)
        if found is None:
            return None
        manifest = decode(found[1], Manifest)
        forms: dict[Digest, Form] = {}
        for diff_id, layer in zip(record.diff_ids, manifest.layers or ()):
            kind = COMPRESSED.get(layer.media_type, OCI_LAYER)
            known = [diff_id] if kind == OCI_LAYER else []
            elsewhere = self._store.absent.get(diff_id)
            known += [elsewhere.descriptor.digest] if elsewhere is not None else []
            known += [form.digest for form in self._store.layers.forms(diff_id) if form.media_type == kind]
            if layer.digest not in known:
                return None
            forms[diff_id] = Form(kind)
        return _Kept(found[0], found[1], forms)

    def layers(self, name: Reference, diff_ids: Sequence[Digest], form: Form) -> dict[Digest, Descriptor]:
        """Send layers to the repository of a name and return how each went; raises as `push`."""
        return self._blobs(self._target(name), name, dict.fromkeys(diff_ids, form))[0]

    def document(self, name: Reference, config: Descriptor, data: bytes, layers: list[Descriptor]) -> Digest:
        """Send a config and a manifest of it with layers that are there, under a name; return the manifest's digest."""
        from pybuild.registry.upload import put_manifest

        target = self._target(name)
        self._blobs(target, name, {}, config, data)
        manifest = encode(Manifest(media_type=OCI_MANIFEST, config=config, layers=layers))
        digest = digest_of(manifest)
        put_manifest(target, name.tag or digest, OCI_MANIFEST, manifest, digest)
        return digest

    def _blobs(
        self,
        target: "Source",
        name: Reference,
        forms: Mapping[Digest, Form],
        config: Descriptor | None = None,
        data: bytes = b"",
    ) -> tuple[dict[Digest, Descriptor], bool]:
        """Send layers and a config side by side; return how each layer went, and whether anything was lacking."""
        stop = Flag()
        lacking: list[Digest] = []

        def blob() -> _Blob:
            return _Blob(self._store, target, name, self._emit, stop, lacking.append, self._clients)

        with ThreadPoolExecutor(PARALLEL_BLOBS, "push") as pool:
            pending = {diff_id: pool.submit(blob().push_layer, diff_id, form) for diff_id, form in forms.items()}
            last = [pool.submit(blob().push_bytes, config, data)] if config is not None else []
            all_done([*pending.values(), *last], stop)
        return {diff_id: future.result() for diff_id, future in pending.items()}, bool(lacking)


class _Made(NamedTuple):
    """A manifest or index whose parts are there: what it has for which platform, and whether anything was lacking."""

    media_type: str
    data: bytes
    images: Mapping[Platform, Digest]
    sent: bool


class _Kept(NamedTuple):
    """A manifest as it came, and how its layers go."""

    media_type: str
    data: bytes
    forms: dict[Digest, Form]


def _platform(config: ImageConfig) -> Platform | None:
    if not config.os or not config.architecture:
        return host()
    return normalise(config.os, config.architecture, config.variant)


class _Blob:
    """One blob on its way."""

    def __init__(
        self,
        store: Store,
        target: "Source",
        name: Reference,
        emit: Callable[[Event], None],
        stop: Flag,
        lacking: Callable[[Digest], object],
        clients: RegistryClients,
    ) -> None:
        self._store = store
        self._clients = clients
        self._target = target
        self._name = name
        self._emit = emit
        self._stop = stop
        self._told = 0.0
        self._lacking = lacking

    def push_bytes(self, descriptor: Descriptor, data: bytes) -> None:
        """Send a small blob, unless it is there."""
        if not self._is_there(descriptor.digest):
            from pybuild.registry.upload import InMemory

            self._send(InMemory(data, descriptor.digest), "config", len(data))
            self._done(descriptor.digest)

    def push_layer(self, diff_id: Digest, form: Form) -> Descriptor:
        """Send a layer in a form that is here, or is elsewhere, or compress it on the way; return what went."""
        elsewhere = None if self._store.layers.has(diff_id) else self._store.absent.get(diff_id)
        if form.media_type == OCI_LAYER and elsewhere is None:
            descriptor = Descriptor(OCI_LAYER, diff_id, self._store.layers.size(diff_id))
        else:
            known = {one.media_type: one for one in self._store.layers.forms(diff_id)}
            wanted = [form.media_type] if form.media_type else [OCI_LAYER_GZIP, OCI_LAYER_ZSTD]
            found = next((known[kind] for kind in wanted if kind in known), None)
            if found is None:
                return self._pass_on(diff_id, elsewhere) if elsewhere is not None else self._compress(diff_id, form)
            descriptor = found
        if not self._is_there(descriptor.digest):
            fd = self._store.blobs.open(descriptor.digest)
            try:
                self._send(_File(fd, descriptor), descriptor.digest[7:19], descriptor.size)
            finally:
                os.close(fd)
            self._done(descriptor.digest)
        return descriptor

    def _compress(self, diff_id: Digest, form: Form) -> Descriptor:
        """Send what comes out of the compressor while it comes; it is kept, so that the next time it is known."""
        media_type = form.media_type or OCI_LAYER_GZIP
        kind: Literal["zstd", "gzip"] = "zstd" if media_type == OCI_LAYER_ZSTD else "gzip"
        source = self._store.blobs.open(diff_id)

        def make(sink: int) -> tuple[Digest, int]:
            return compress(source, sink, kind, form.level, threads=os.cpu_count() or 1)

        with ExitStack() as stack:
            stack.callback(os.close, source)
            blob = stack.enter_context(self._store.blobs.create())
            content = stack.enter_context(_Produced(make, blob))
            self._send(content, diff_id[7:19], 0)
            descriptor = Descriptor(media_type, *content.commit())
        self._store.layers.add_form(diff_id, descriptor)
        self._done(descriptor.digest)
        return descriptor

    def _pass_on(self, diff_id: Digest, layer: AbsentLayer) -> Descriptor:
        """Send a layer that is not here: the registry may have it, else it comes from where it is while it is sent."""
        from pybuild.registry.blobs import fetch_blob
        from pybuild.registry.errors import RegistryError

        found = layer.descriptor
        descriptor = Descriptor(kind_of(layer), found.digest, found.size)
        if self._is_there(found.digest):
            return descriptor
        names = [parse_reference(repository) for repository in layer.repositories]
        sources = [source for name in names for source in self._clients.sources(name)]

        def make(sink: int) -> tuple[Digest, int]:
            try:
                fetch_blob(sources, found, partial(_write_all, sink))
            except RegistryError as error:
                where = ", ".join(layer.repositories)
                error.message = f"a layer of the image is not here, but at {where}: {error.message}"
                raise
            return found.digest, found.size

        with self._store.blobs.create() as blob, _Produced(make, blob, found) as content:
            self._send(content, found.digest[7:19], found.size)
            content.commit()
        if descriptor.media_type != OCI_LAYER:
            self._store.layers.add_form(diff_id, descriptor)
        self._done(found.digest)
        return descriptor

    def _is_there(self, digest: Digest) -> bool:
        """Is the blob in the repository, or can the registry take it from another one?"""
        from pybuild.registry.blobs import has_blob
        from pybuild.registry.upload import mount, push_scope

        target, registry = self._target, self._target.client.host.name
        there = has_blob(target.client, target.repository, digest, push_scope(target.repository))
        if not there:
            others = [one for one in self._store.origins.of(registry, digest) if one != target.repository]
            there = mount(target, digest, others)
        if there:
            self._store.origins.add(registry, digest, target.repository)
        return there

    def _send(self, content: "InMemory | _File | _Produced", label: str, total: int) -> None:
        from pybuild.registry.upload import push_blob

        def progress(done: int) -> None:
            if self._stop.is_set():
                raise StoppedError("another layer failed")
            now = time.monotonic()
            if now - self._told >= TOLD_SECONDS or done == total:
                self._told = now
                self._emit(Transfer(-1, f"{self._name.familiar_name()} {label}", done, total))

        push_blob(self._target, content, progress)
        if not total and (size := content.length()):
            # How much there would be nobody knew: this says that it is all
            self._emit(Transfer(-1, f"{self._name.familiar_name()} {label}", size, size))

    def _done(self, digest: Digest) -> None:
        self._lacking(digest)
        self._store.origins.add(self._target.client.host.name, digest, self._target.repository)


def _write_all(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]


def kind_of(layer: AbsentLayer) -> str:
    """Return the media type under which a layer that is elsewhere goes into a manifest of ours."""
    return COMPRESSED.get(layer.descriptor.media_type, OCI_LAYER)


class _File:
    """Content of a blob that is here."""

    def __init__(self, fd: int, descriptor: Descriptor) -> None:
        self._fd, self._descriptor = fd, descriptor

    def read(self, offset: int) -> bytes:
        return os.pread(self._fd, BLOCK, offset)

    def length(self) -> int | None:
        return self._descriptor.size

    def digest(self) -> Digest:
        return self._descriptor.digest


class _Produced:
    """What a thread of its own makes: a layer compressed, or fetched. What was read can be read again from the blob.

    `make` writes to the descriptor it is given and returns digest and size. Where `known` says both from the beginning,
    it must come to the same. Use it with `with`, the end of which ends the thread.
    """

    def __init__(
        self, make: Callable[[int], tuple[Digest, int]], blob: BlobWriter, known: Descriptor | None = None
    ) -> None:
        self._make = make
        self._blob = blob
        self._known = known
        self._result: tuple[Digest, int] | None = None
        self._failure: BaseException | None = None
        self._is_whole = False
        self.size = 0
        self._out, self._in = os.pipe2(os.O_CLOEXEC)
        self._thread = Thread(target=self._work, name="make", daemon=True)

    def __enter__(self) -> "_Produced":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # A thread that still writes learns that nobody reads
        os.close(self._out)
        self._thread.join()

    def _work(self) -> None:
        try:
            self._result = self._make(self._in)
        except BaseException as error:
            # Raised in the thread that sends
            self._failure = error
        finally:
            os.close(self._in)

    def read(self, offset: int) -> bytes:
        if offset < self.size:
            return os.pread(self._blob.fd, BLOCK, offset)
        if self._is_whole:
            return b""
        parts: list[bytes] = []
        left = BLOCK
        while left and (data := os.read(self._out, left)):
            parts.append(data)
            left -= len(data)
        block = b"".join(parts)
        if not block:
            self._end()
            return b""
        self._blob.write(block)
        self.size += len(block)
        return block

    def length(self) -> int | None:
        if self._known is not None:
            return self._known.size
        return self.size if self._is_whole else None

    def digest(self) -> Digest:
        if self._known is not None:
            return self._known.digest
        assert self._result is not None
        return self._result[0]

    def commit(self) -> tuple[Digest, int]:
        """Keep all of it and return its digest and size; raise what went wrong while it was made."""
        while self.read(self.size):
            pass
        assert self._result is not None
        self._blob.commit(*self._result)
        return self._result

    def _end(self) -> None:
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self._is_whole = True


def push(request: PushRequest, *, store_root: Path, emit: Callable[[Event], None], cancel: Flag) -> Pushed:
    """Push what `request` names, one image after the other; raise what Pusher.push raises.

    `emit` gets every event but the last, one at a time. Raises NotFoundError before anything is sent.
    """
    form = form_of(request.compression, request.level or None)
    lock = Lock()

    def tell(event: Event) -> None:
        with lock:
            emit(event)

    with (
        Store.open(store_root) as store,
        store.session(),
        RegistryClients(request.registries, request.proxies, "", cancel) as clients,
    ):
        if request.by_digest:
            destination = _destination(request.destination)._replace(tag=None)
            chosen = [(_found(store, name, ids=True), destination) for name in request.names]
        else:
            chosen = [one for name in request.names for one in _chosen(store, name, all_tags=request.all_tags)]
        if request.destination and not request.by_digest:
            if len(chosen) != 1:
                raise UsageError(f"one image goes to another name, not {len(chosen)}: {request.destination}")
            chosen = [(chosen[0][0], _destination(request.destination))]
        by_image: dict[Digest, tuple[ImageRecord | IndexRecord, list[Reference]]] = {}
        for record, name in chosen:
            by_image.setdefault(record.id, (record, []))[1].append(name)

        def complete(record: ImageRecord) -> None:
            with Workers(cancel) as workers:
                Puller(store, workers, clients, tell).complete(record)

        pusher = Pusher(store, clients, tell, complete)
        moved = [one for record, names in by_image.values() for one in pusher.push(record, names, form)]
    return Pushed(tuple(moved), time.time())


def _destination(text: str) -> Reference:
    """Return the name that something is pushed under; podman writes `docker://` before it."""
    name = parse_reference(text.removeprefix("docker://"))
    if name.digest is not None:
        raise UsageError(f"an image is pushed under a tag, not under a digest: {text}")
    return name


def _found(store: Store, text: str, *, ids: bool) -> ImageRecord | IndexRecord:
    record = store.images.index(text, ids=ids) or store.images.resolve(text, ids=ids)
    if record is None:
        shown = text if ids else parse_reference(text).familiar()
        raise NotFoundError(f"No such image: {shown}", "`pybuild images` lists them, `pybuild tag` names one")
    return record


def _chosen(store: Store, text: str, *, all_tags: bool) -> list[tuple[ImageRecord | IndexRecord, Reference]]:
    """Return the images that a name means; with `all_tags` those of all tags of its repository."""
    name = parse_reference(text)
    if name.digest is not None:
        raise UsageError(f"an image is pushed under a tag, not under a digest: {text}")
    if not all_tags:
        return [(_found(store, text, ids=False), name)]
    if ":" in text.rpartition("/")[2]:
        raise UsageError(f"--all-tags wants a name without a tag: {text}")
    here: list[ImageRecord | IndexRecord] = [*store.images.list(), *store.indexes.list()]
    tagged = [(record, parse_reference(tag)) for record in here for tag in record.tags]
    found = [(record, one) for record, one in tagged if one.name == name.name]
    if not found:
        raise NotFoundError(f"No such image: {name.familiar_name()}")
    return found
