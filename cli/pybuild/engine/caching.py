"""Results of steps taken from elsewhere and given away: `--cache-from`, `--cache-to`.

What a source has is read when a build begins; a layer is taken into the store only when a step asks for it.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import TypeVar

import msgspec

from pybuild.api.events import Event, Notice
from pybuild.api.request import Output
from pybuild.engine.carrying import Given, take
from pybuild.engine.exporting import compressor
from pybuild.engine.importing import LayoutDirectory, take_layer
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
from pybuild.oci.digest import Digest
from pybuild.oci.image import OCI_LAYER, Descriptor, Index, Manifest, decode, encode
from pybuild.store.cache import CacheRecord
from pybuild.store.images import ImageRecord
from pybuild.store.store import Store

T = TypeVar("T")

Results = Sequence[tuple[str, CacheRecord]]
"""Keys and what was made or found for them."""

_COMPRESSIONS = {"uncompressed": "none", "gzip": "gzip", "zstd": "zstd"}


class _Found(msgspec.Struct, frozen=True):
    """A result of a source: where its layer is, unless it has none or the store has it."""

    record: CacheRecord
    archive: LayoutDirectory | None = None
    layer: Descriptor | None = None


class Elsewhere:
    """The results that the sources of a build have."""

    def __init__(
        self,
        store: Store,
        workers: Workers,
        sources: Iterable[Output],
        pull: Callable[[str], ImageRecord] | None,
        emit: Callable[[Event], None],
    ) -> None:
        """Read what the sources have; `pull` brings an image here that the store lacks, if that may be."""
        self._store = store
        self._workers = workers
        self._emit = emit
        self._pull = pull
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
            if found.archive is None or found.layer is None:
                return False
            layer = FoundLayer("blobs/sha256/" + found.layer.digest[7:], found.layer)
            take_layer(self._store, self._workers, found.archive, diff_id, layer)
            return True

    def _warn(self, error: PybuildError) -> None:
        # A cache is a help and no need: the first build of all has none to take from
        self._emit(Notice("warning", f"nothing is taken from the cache: {error.message}"))

    def _read(self, source: Output) -> None:
        match source.type:
            case "local":
                self._read_layout(Path(source.dest), source.attrs.get("tag", "latest"))
            case _:
                self._read_image(source.attrs.get("ref", ""))

    def _read_layout(self, path: Path, tag: str) -> None:
        if not path.is_dir():
            raise NotFoundError(f"there is no such directory: {path}")
        archive = LayoutDirectory(path)
        rows = decode(_whole(archive, "index.json", path), Index).manifests or []
        row = next((row for row in rows if row.annotations.get(REF_NAME) == tag), None)
        if row is None:
            raise InvalidArchiveError(f"the directory has no cache `{tag}`: {path}")
        manifest = decode(_whole(archive, "blobs/sha256/" + row.digest[7:], path), Manifest)
        if manifest.config is None or manifest.config.media_type != CACHE_CONFIG:
            raise InvalidArchiveError(f"the directory holds an image and no cache: {path}")
        data = _whole(archive, "blobs/sha256/" + manifest.config.digest[7:], path)
        config = _decoded(data, CacheConfig)
        by_digest = {descriptor.digest: descriptor for descriptor in manifest.layers or ()}
        layers = [(by_digest.get(layer.blob), layer.annotations.diffID) for layer in config.layers]
        for record in config.records:
            placed = [layers[result.layer] for result in record.layers if 0 <= result.layer < len(layers)]
            if len(placed) == len(record.layers):
                descriptor, diff_id = placed[-1] if placed else (None, Digest(""))
                self._add(record, diff_id or None, archive, descriptor)

    def _read_image(self, reference: str) -> None:
        image = self._store.images.resolve(reference)
        if (image is None or image.config.cache is None) and self._pull is not None:
            image = self._pull(reference)
        if image is None:
            raise UsageError(f"no such image in the local store: {reference}")
        if image.config.cache is None:
            raise UsageError(f"the image was built without `--cache-to type=inline`: {reference}")
        for record in _decoded(image.config.cache, list[Record]):
            places = [result.layer for result in record.layers]
            if all(0 <= place < len(image.diff_ids) for place in places):
                self._add(record, image.diff_ids[places[-1]] if places else None, None, None)

    def _add(
        self, record: Record, diff_id: Digest | None, archive: LayoutDirectory | None, layer: Descriptor | None
    ) -> None:
        # Results of other builders have keys that mean nothing here
        if record.pybuild is None:
            return
        ours = record.pybuild
        known = CacheRecord(diff_id, ours.size, ours.created, ours.description)
        self._found.setdefault(record.digest[7:], _Found(known, archive, layer))
        if ours.account:
            # A miss is to be explained by it, so it is taken whether or not its result is
            take(self._store, record.digest[7:], ours)


def _whole(archive: LayoutDirectory, name: str, path: Path) -> bytes:
    data = archive.read(name)
    if data is None:
        raise InvalidArchiveError(f"there is no cache: {path}", "it is written by `--cache-to type=local,dest=...`")
    return data


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArchiveError(f"malformed description of a cache: {error}") from error


def export(store: Store, target: Output, results: Results) -> str:
    """Write results with their layers to a directory; return what was written, for people.

    Raises ExportError when the directory does not take it.
    """
    compression = _COMPRESSIONS.get(target.attrs.get("compression", "gzip"), "gzip")
    layers: dict[Digest, tuple[int, Layer, CachedLayer]] = {}
    records: list[Record] = []
    given = Given(store)
    for key, record in results:
        places: list[Result] = []
        created = timestamp(record.created)
        if record.diff_id is not None:
            if record.diff_id not in layers:
                layers[record.diff_id] = (len(layers), *_layer(store, record.diff_id, compression, created))
            places = [Result(layers[record.diff_id][0], created)]
        found = _record(key, record, places, record.created)
        assert found.pybuild is not None
        records.append(msgspec.structs.replace(found, pybuild=given.add(key, found.pybuild)))
    config = CacheConfig([cached for _, _, cached in layers.values()], records)
    write_cache(Path(target.dest), encode(config), [layer for _, layer, _ in layers.values()], _tag(target))
    return target.dest


def _tag(target: Output) -> str:
    return target.attrs.get("tag", "latest")


def _layer(store: Store, diff_id: Digest, compression: str, created: str) -> tuple[Layer, CachedLayer]:
    notes = {DIFF_ID: str(diff_id), "buildkit/createdat": created}
    if compression == "none":
        descriptor = Descriptor(OCI_LAYER, diff_id, store.layers.size(diff_id), annotations=notes)
        digest = diff_id
    else:
        form, fd = compressor(store)(diff_id, compression)
        # Opened again where it is written: there may be more layers than descriptors
        os.close(fd)
        digest = form.digest
        descriptor = msgspec.structs.replace(form, annotations=notes)
    cached = CachedLayer(digest, annotations=LayerNotes(descriptor.media_type, diff_id, descriptor.size, created))
    return (descriptor, lambda: store.blobs.open(digest)), cached


def _record(key: str, record: CacheRecord, places: list[Result], created: float) -> Record:
    return Record(Digest(f"sha256:{key}"), places, Ours(created, record.size, record.description))


def inline(results: Results, diff_ids: Sequence[Digest], epoch: int | None) -> bytes:
    """Return what an image's config says of the results whose layers it has; `epoch` dates them all."""
    places = {diff_id: place for place, diff_id in enumerate(diff_ids)}
    records: list[Record] = []
    for key, record in results:
        created = record.created if epoch is None else float(epoch)
        if record.diff_id is None:
            records.append(_record(key, record, [], created))
        elif record.diff_id in places:
            records.append(_record(key, record, [Result(places[record.diff_id], timestamp(created))], created))
    return encode(records)
