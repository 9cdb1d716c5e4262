"""Results of steps taken from elsewhere and given away: `--cache-from`, `--cache-to`.

What a source has is read when a build begins; a layer is taken into the store only when a step asks for it.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from pybuild.api.events import Event, Notice
from pybuild.api.request import Output
from pybuild.engine.carrying import Given, Told, put_inline, take, take_inline
from pybuild.engine.exporting import compressor
from pybuild.engine.importing import Layout, LayoutDirectory, take_layer
from pybuild.engine.remotecache import RemoteCaches
from pybuild.engine.solve import timestamp
from pybuild.engine.workers import Workers
from pybuild.errors import CancelledError, NotFoundError, PybuildError, UsageError
from pybuild.export.cachelayout import REF_NAME, Layer, write_cache
from pybuild.export.errors import InvalidArchiveError
from pybuild.export.reading import FoundLayer
from pybuild.oci.cacheconfig import (
    CACHE_CONFIG,
    DIFF_ID,
    CacheConfig,
    CachedLayer,
    LayerNotes,
    Ours,
    Record,
    Result,
)
from pybuild.oci.digest import Digest, parse_digest
from pybuild.oci.image import OCI_LAYER, Descriptor, Index, Manifest, decode, encode
from pybuild.oci.platform import Platform
from pybuild.store.cache import CacheRecord
from pybuild.store.store import Store

if TYPE_CHECKING:
    from pybuild.engine.giving import Giving

T = TypeVar("T")

Results = Sequence[tuple[str, CacheRecord]]
"""Keys and what was made or found for them."""

_COMPRESSIONS = {"uncompressed": "none", "gzip": "gzip", "zstd": "zstd"}


Take = Callable[[Digest, Descriptor], None]
"""Takes a layer into the store: its diff id, and how the source has it."""


class Directories(Protocol):
    """Has the directories that sources and targets of the type local name."""

    def layout(self, source: Output) -> Layout:
        """Return the files of a source; raise PybuildError when it cannot be had."""

    def write(self, target: Output, config: bytes, layers: Sequence[Layer]) -> None:
        """Write a cache there; raise PybuildError."""


class Here:
    """The directories are those of this machine."""

    def layout(self, source: Output) -> Layout:
        """See Directories; raises NotFoundError."""
        path = Path(source.dest)
        if not path.is_dir():
            raise NotFoundError(f"there is no such directory: {path}")
        return LayoutDirectory(path)

    def write(self, target: Output, config: bytes, layers: Sequence[Layer]) -> None:
        """See Directories; raises ExportError."""
        write_cache(Path(target.dest), config, layers, target.attrs.get("tag", "latest"))


class _Found(msgspec.Struct, frozen=True):
    """A result of a source: how its layer comes, unless it has none or the store has it."""

    record: CacheRecord
    take: Take | None = None
    layer: Descriptor | None = None


class Elsewhere:
    """The results that the sources of a build have."""

    def __init__(
        self,
        store: Store,
        workers: Workers,
        sources: Iterable[Output],
        remote: RemoteCaches | None,
        platforms: Sequence[Platform],
        emit: Callable[[Event], None],
        directories: Directories,
    ) -> None:
        """Read what the sources have; `remote` reads what registries have, if they may be asked.

        Images are those for `platforms`.
        """
        self._store = store
        self._workers = workers
        self._emit = emit
        self._remote = remote
        self._platforms = platforms
        self._directories = directories
        self._lock = Lock()
        self._found: dict[str, _Found] = {}
        for source in sources:
            try:
                self._read(source)
            except PybuildError as error:
                self._warn(error)

    def get(self, key: str) -> CacheRecord | None:
        """Return the result of that key, its layer taken into the store.

        None when no source has it, and, with a warning, for a layer that is not what the source says.
        """
        found = self._found.get(key)
        if found is None:
            return None
        try:
            if not self._take(found):
                return None
        except CancelledError:
            raise
        except PybuildError as error:
            # A step may ask twice, before and after it has read its files: once is enough to fetch and to tell
            self._found.pop(key, None)
            self._warn(error)
            return None
        self._store.cache.put(key, found.record)
        return found.record

    def _take(self, found: _Found) -> bool:
        """Take the layer of a result into the store; False when its source does not have that."""
        diff_id = found.record.diff_id
        with self._lock:
            if diff_id is None or self._store.layers.has(diff_id):
                return True
            if found.take is None or found.layer is None:
                return False
        found.take(diff_id, found.layer)
        return True

    def _warn(self, error: PybuildError) -> None:
        # A cache is a help and no need: the first build of all has none to take from
        self._emit(Notice("warning", f"nothing is taken from the cache: {error.message}"))

    def _read(self, source: Output) -> None:
        match source.type:
            case "local":
                self._read_layout(self._directories.layout(source), source.dest, source.attrs.get("tag", "latest"))
            case "registry":
                self._read_image(source.attrs.get("ref", ""))
            case _:
                raise UsageError(f"unknown type of a cache to import: {source.type}")

    def _read_layout(self, archive: Layout, path: str, tag: str) -> None:
        rows = decode(_whole(archive, "index.json", path), Index).manifests or []
        row = next((row for row in rows if row.annotations.get(REF_NAME) == tag), None)
        if row is None:
            raise InvalidArchiveError(f"the directory has no cache `{tag}`: {path}")
        manifest = decode(_whole(archive, "blobs/sha256/" + row.digest[7:], path), Manifest)
        if manifest.config is None or manifest.config.media_type != CACHE_CONFIG:
            raise InvalidArchiveError(f"the directory holds an image and no cache: {path}")
        data = _whole(archive, "blobs/sha256/" + manifest.config.digest[7:], path)

        def take(diff_id: Digest, descriptor: Descriptor) -> None:
            layer = FoundLayer("blobs/sha256/" + descriptor.digest[7:], descriptor)
            with self._lock:
                take_layer(self._store, self._workers, archive, diff_id, layer)

        self._read_cache(data, manifest.layers or (), take)

    def _read_cache(self, data: bytes, descriptors: Iterable[Descriptor], take: Take) -> None:
        config = _decoded(data, CacheConfig)
        by_digest = {descriptor.digest: descriptor for descriptor in descriptors}
        layers = [(by_digest.get(layer.blob), layer.annotations.diffID) for layer in config.layers]
        self._add_all(config.records, layers, take)

    def _read_image(self, reference: str) -> None:
        found = [self._store.images.resolve(reference, platform=platform) for platform in self._platforms]
        images = {image.id: image for image in found if image is not None}
        carrying = [image for image in images.values() if image.config.cache is not None]
        for image in carrying:
            assert image.config.cache is not None
            records = _decoded(image.config.cache, list[Record])
            self._add_all(records, [(None, diff_id) for diff_id in image.diff_ids], None)
        if carrying:
            return
        if self._remote is not None:
            for carried in self._remote.read(reference, self._platforms):
                if carried.config is not None:
                    self._read_cache(carried.config, carried.descriptors, carried.take)
                elif carried.records is not None:
                    layers = list(zip(carried.descriptors, carried.diff_ids, strict=True))
                    self._add_all(_decoded(carried.records, list[Record]), layers, carried.take)
            return
        if not images:
            raise UsageError(f"no such image in the local store: {reference}")
        raise UsageError(f"the image was built without `--cache-to type=inline`: {reference}")

    def _add_all(
        self, records: Iterable[Record], layers: Sequence[tuple[Descriptor | None, Digest]], take: Take | None
    ) -> None:
        sound: list[tuple[Record, Digest | None]] = []
        for record in records:
            placed = [layers[result.layer] for result in record.layers if 0 <= result.layer < len(layers)]
            if len(placed) == len(record.layers):
                descriptor, diff_id = placed[-1] if placed else (None, Digest(""))
                self._add(record, diff_id or None, take, descriptor)
                sound.append((record, diff_id or None))
        take_inline(self._store, sound)

    def _add(self, record: Record, diff_id: Digest | None, take_it: Take | None, layer: Descriptor | None) -> None:
        # Results of other builders have keys that mean nothing here
        if record.pybuild is None:
            return
        if diff_id is not None:
            parse_digest(diff_id)
        ours = record.pybuild
        known = CacheRecord(diff_id, ours.size, ours.created, ours.description)
        self._found.setdefault(record.digest[7:], _Found(known, take_it, layer))
        if ours.account:
            # A miss is to be explained by it, so it is taken whether or not its result is
            take(self._store, record.digest[7:], ours)


def _whole(archive: Layout, name: str, path: str) -> bytes:
    data = archive.read(name)
    if data is None:
        raise InvalidArchiveError(f"there is no cache: {path}", "it is written by `--cache-to type=local,dest=...`")
    return data


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArchiveError(f"malformed description of a cache: {error}") from error


def export(store: Store, target: Output, results: Results, giving: "Giving | None", directories: Directories) -> str:
    """Write results with their layers to a directory, or by `giving` to a registry; return what was written.

    Raises what `directories` does when the directory does not take it, RegistryError when the registry does not.
    """
    compression = _COMPRESSIONS.get(target.attrs.get("compression", "gzip"), "gzip")

    def describe(form_of: Callable[[Digest], Descriptor]) -> tuple[bytes, list[Descriptor]]:
        return _described(store, results, form_of)

    if giving is not None:
        return giving.finish(target, [record.diff_id for _, record in results if record.diff_id is not None], describe)
    config, descriptors = describe(_forms(store, compression))
    layers: list[Layer] = [(one, partial(store.blobs.open, one.digest)) for one in descriptors]
    directories.write(target, config, layers)
    return target.dest


def _described(
    store: Store, results: Results, form_of: Callable[[Digest], Descriptor]
) -> tuple[bytes, list[Descriptor]]:
    """Return the config of a cache and the layers of its manifest, which `form_of` gives."""
    layers: dict[Digest, tuple[int, Descriptor, CachedLayer]] = {}
    records: list[Record] = []
    given = Given(store)
    for key, record in results:
        places: list[Result] = []
        created = timestamp(record.created)
        if record.diff_id is not None:
            if record.diff_id not in layers:
                form = form_of(record.diff_id)
                layers[record.diff_id] = (len(layers), *_layer(form, record.diff_id, created))
            places = [Result(layers[record.diff_id][0], created)]
        found = _record(key, record, places, record.created)
        assert found.pybuild is not None
        records.append(msgspec.structs.replace(found, pybuild=given.add(key, found.pybuild)))
    config = CacheConfig([cached for _, _, cached in layers.values()], records)
    return encode(config), [descriptor for _, descriptor, _ in layers.values()]


def _forms(store: Store, compression: str) -> Callable[[Digest], Descriptor]:
    compressed = compressor(store)

    def form_of(diff_id: Digest) -> Descriptor:
        if compression == "none":
            return Descriptor(OCI_LAYER, diff_id, store.layers.size(diff_id))
        form, fd = compressed(diff_id, compression)
        # Opened again where it is written: there may be more layers than descriptors
        os.close(fd)
        return form

    return form_of


def _layer(form: Descriptor, diff_id: Digest, created: str) -> tuple[Descriptor, CachedLayer]:
    notes = {DIFF_ID: str(diff_id), "buildkit/createdat": created}
    cached = CachedLayer(form.digest, annotations=LayerNotes(form.media_type, diff_id, form.size, created))
    return msgspec.structs.replace(form, annotations=notes), cached


def _record(key: str, record: CacheRecord, places: list[Result], created: float) -> Record:
    return Record(Digest(f"sha256:{key}"), places, Ours(created, record.size, record.description))


def inline(results: Results, told: Mapping[str, Told], diff_ids: Sequence[Digest], epoch: int | None) -> bytes:
    """Return what an image's config says of the results whose layers it has, `epoch` dating them all.

    `told` says what their keys were made of.
    """
    places = {diff_id: place for place, diff_id in enumerate(diff_ids)}
    records: list[tuple[Record, Digest | None]] = []
    for key, found in results:
        # The description is that of whoever made it, perhaps an ADD where this is a COPY
        account, _ = told.get(key, (None, None))
        record = msgspec.structs.replace(found, description=account.text if account else found.description)
        created = record.created if epoch is None else float(epoch)
        if record.diff_id is None:
            records.append((_record(key, record, [], created), None))
        elif record.diff_id in places:
            result = Result(places[record.diff_id], timestamp(created))
            records.append((_record(key, record, [result], created), record.diff_id))
        else:
            # Its times were rewritten. Who does the step again has another layer, and other keys from there on
            break
    return encode(put_inline(records, told))
